"""Runs an experiment: its configuration, and its table as files and on the screen."""

# ruff: noqa: RUF009 -- component() is dataclasses.field() under a name of ours

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from msd_framework.checks.components import component_problems
from msd_framework.checks.numbers import LARGEST_SEED
from msd_framework.config.imports import import_problems
from msd_framework.config.load import Source, load, locating, refuse, resolve
from msd_framework.config.schema import Component, component
from msd_framework.config.structure import component_specs, structure_problems, structured
from msd_framework.errors import Problem, did_you_mean
from msd_framework.escaping import markdown as escaped
from msd_framework.experiment import EXPERIMENTS, Experiment, Row
from msd_framework.files import write_json, write_text
from msd_framework.screen import Screen
from msd_framework.table import Table


@dataclass(frozen=True)
class ExperimentEnvConfig:
    """Where an experiment writes and what it runs on."""

    save_dir: str = "runs/${name}"
    """The folder that it writes everything to."""
    threads: int = 1
    """CPU threads of torch."""


@dataclass(frozen=True)
class ExperimentConfig:
    """Everything an experiment depends on."""

    experiment: Component = component("experiments")
    """What is measured; a file with this key is an experiment."""
    name: str = "experiment"
    """What it is called."""
    run_type: Literal["train", "check"] = "train"
    """What is done: measure, or only check this file."""
    seeds: int | list[int] = 1
    """How many seeds, counted from `first_seed`, or which ones."""
    first_seed: int = 0
    """The first of the seeds, where their number is given."""
    expected: dict[str, list[float]] | None = None
    """Columns that were measured before or are published, a value for each row, shown beside what comes out; null shows none."""
    env: ExperimentEnvConfig = field(default_factory=ExperimentEnvConfig)
    """Where it writes and what it runs on."""
    imports: list[str] = field(default_factory=list)
    """Modules of your own that register components."""
    user_dir: str | None = None
    """A folder of Python files of your own that register components."""

    @property
    def folder(self) -> Path:
        return Path(self.env.save_dir)

    @property
    def seed_list(self) -> list[int]:
        return list(range(self.first_seed, self.first_seed + self.seeds)) if isinstance(self.seeds, int) else self.seeds


def is_experiment(path: str | Path) -> bool:
    """Whether a YAML file, or a base of it, says what is measured."""
    return "experiment" in load(path).values


def run_experiment(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Runs an experiment, shows its table, and returns what `summary.json` holds; nothing for ``run_type=check``."""
    source = resolve(load(path, overrides, ExperimentConfig))
    config, experiment = checked_experiment(source)
    if config.run_type == "check":
        return {}
    threads = torch.get_num_threads()
    torch.set_num_threads(config.env.threads)
    started = time.monotonic()
    try:
        rows = list(map(_tidy, experiment.run(config.seed_list, config.folder)))
    finally:
        torch.set_num_threads(threads)
    seconds = round(time.monotonic() - started, 2)
    summary = {"name": config.name, "seeds": config.seed_list, "rows": rows, "seconds": seconds, "config": asdict(config)}
    write_json(config.folder / "summary.json", summary)
    _refuse_expectations(config, rows, source)
    drawn = experiment.draw(rows, config.folder / "summary.png")
    table = _table(config, rows, f"{config.name} ({len(config.seed_list)} seeds, {seconds:g} s)")
    lines = [f"# {escaped(config.name)}", "", f"Seeds {', '.join(map(str, config.seed_list))}; {seconds:g} s.", ""]
    lines += [*table.markdown(), *(["", "![](summary.png)"] if drawn else [])]
    write_text(config.folder / "summary.md", "\n".join(lines) + "\n")
    Screen().show(table)
    return summary


def checked_experiment(source: Source) -> tuple[ExperimentConfig, Experiment]:
    """An experiment, once nothing is wrong with its configuration."""
    refuse(structure_problems(source.values, ExperimentConfig), source)
    config = structured(source.values, ExperimentConfig)
    problems = list(seed_problems(config.seed_list, config.seeds))
    if config.env.threads < 1:
        problems.append(Problem("env.threads", f"must be 1 or more, got {config.env.threads}."))
    refuse([*problems, *import_problems(config.imports, config.user_dir)], source)
    refuse(component_problems(component_specs(source.values, ExperimentConfig)), source)
    with locating(source):
        return config, EXPERIMENTS.build(config.experiment, "experiment")


def _table(config: ExperimentConfig, rows: Sequence[Row], title: str) -> Table:
    """The rows in words, what was expected of a number in brackets behind it."""
    expected, lines = config.expected or {}, []
    for i, row in enumerate(rows):
        cells = []
        for column, value in row.items():
            wanted = f" ({expected[column][i]:.2f})" if column in expected else ""
            cells.append((value if isinstance(value, str) else f"{value:.2f}") + wanted)
        lines.append(cells)
    return Table(list(rows[0]), lines, title)


def _tidy(row: Row) -> Row:
    """A row without the last digits of floating point: a mean of per cents is exact in ten decimals."""
    return {name: round(value, 10) if isinstance(value, float) else value for name, value in row.items()}


def seed_problems(seeds: Sequence[int], written: int | list[int]) -> Iterator[Problem]:
    """What is wrong with the seeds of an experiment or a study, given what stands in its YAML."""
    if not seeds or min(seeds) < 0 or max(seeds) > LARGEST_SEED or len(set(seeds)) < len(seeds):
        yield Problem("seeds", f"wanted 1 or more, or a list of different seeds from 0 to 2**63 - 1, got {written}.")


def _refuse_expectations(config: ExperimentConfig, rows: Sequence[Row], source: Source) -> None:
    """Expectations that no column or row is for, which only the table itself can tell."""
    columns = list(rows[0])
    for name, values in (config.expected or {}).items():
        if name not in columns:
            text = f"there is no column {name!r}.{did_you_mean(name, columns)} Columns: {', '.join(columns)}."
        elif len(values) != len(rows):
            text = f"wanted a value for each of the {len(rows)} rows, got {len(values)}. Set expected=null for rows of your own."
        else:
            continue
        refuse([Problem(f"expected.{name}", text)], source)
