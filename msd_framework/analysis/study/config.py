"""The options of a study, and everything that is wrong with one before anything of it is run."""

# ruff: noqa: RUF009 -- component() is dataclasses.field() under a name of ours

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

from msd_framework.analysis.experiment import seed_problems
from msd_framework.analysis.study.by_view import name_on
from msd_framework.analysis.study.grid import Variant, grid_problems, variants
from msd_framework.build.facts import RunFacts
from msd_framework.checks.components import component_problems
from msd_framework.checks.run import understood
from msd_framework.components.registry import split
from msd_framework.config.load import find_file, load, located, refuse, resolve
from msd_framework.config.schema import Component, RunConfig, component
from msd_framework.config.structure import component_specs, structure_problems, structured
from msd_framework.errors import ConfigError, Problem, did_you_mean
from msd_framework.metrics.fidelity import FIDELITY
from msd_framework.registry import METRICS, OBJECTIVES
from msd_framework.worlds import WorldPlan
from msd_framework.worlds.make import _plan as plan_world

TEACHER = "teacher"  # what the teacher's runs are called


@dataclass(frozen=True)
class WorldConfig:
    """A made world, another one for each seed."""

    layout: str
    """The public data set whose format and task it has: hateful_memes, mm_imdb, snli_ve or vqa_v2; or talking_cards."""
    sizes: dict[str, int] | None = None
    """Rows by split; a split that is not named has the layout's own size."""
    mix: dict[str, float] | None = None
    """The share of each kind of row; the layout's own if null."""
    noise: float = 0.1
    """The standard deviation of the noise on each pixel, whose range is 0 to 1."""
    label_noise: float = 0.0
    """The share of wrong labels in the training split."""

    def plan(self, seed: int) -> WorldPlan:
        """All that the world of a seed depends on."""
        return plan_world(seed=seed, **asdict(self))


@dataclass(frozen=True)
class StudyEnvConfig:
    """Where a study writes."""

    save_dir: str | None = None
    """The folder for all runs and the summary; `runs/<name>` if null."""


@dataclass(frozen=True)
class StudyConfig:
    """Everything a study depends on, beside the runs' own files."""

    methods: dict[str, str]
    """The run YAML of each method by its name, as a path from the study's file."""
    metrics: list[str]
    """What is compared, as reports name it, such as `test/auroc` or `test/image/auroc`; the first one is the main one."""
    name: str = "study"
    """What the study is called."""
    run_type: Literal["train", "check"] = "train"
    """What is done: run and compare what is not done yet, or only check this file, those of its runs, and what is there."""
    seeds: int | list[int] = 3
    """How many seeds, counted from 0, or which ones."""
    world: WorldConfig | None = None
    """The data of each seed, made on the spot; the runs' own data if null."""
    teacher: str | None = None
    """The run YAML of the teacher, trained once a seed and shared by all methods; the runs' own teachers if null."""
    baselines: list[str] = field(default_factory=list)
    """The methods that all others are compared with."""
    grid: list[dict[str, Any]] = field(default_factory=list)
    """More methods, each another one with other values: `{of: msd, over: {masker: [attention, noise]}}` adds two."""
    saliency: list[Component] = component("saliencies", default_factory=list)
    """The scores of each modality to every seed's teacher on the test split; no table of them if none is named."""
    densities: list[str] = field(default_factory=list)
    """The methods (or `teacher`) whose outputs on each view are drawn, those of the first seed; two classes only."""
    jobs: int = 2
    """Runs at once, each in a process with one thread."""
    note: str = ""
    """What the numbers do not show, printed below them."""
    env: StudyEnvConfig = field(default_factory=StudyEnvConfig)
    """Where it writes."""

    @property
    def folder(self) -> Path:
        return Path(self.env.save_dir or f"runs/{self.name}")

    @property
    def seed_list(self) -> list[int]:
        return list(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    @property
    def run_files(self) -> dict[str, str]:
        """The YAML of the teacher, if there is one, and of each method, those of the grid last."""
        return self.written_files | {name: self.methods[variant.of] for name, variant in self.variants.items()}

    @property
    def written_files(self) -> dict[str, str]:
        """The same without the methods of the grid."""
        return ({TEACHER: self.teacher} if self.teacher else {}) | self.methods

    @property
    def all_methods(self) -> list[str]:
        return [*self.methods, *self.variants]

    @cached_property
    def variants(self) -> dict[str, Variant]:
        return {variant.name: variant for variant in variants(self.grid)}

    def words(self, name: str) -> tuple[str, ...]:
        """What a method of the grid sets over its YAML; nothing for others."""
        return self.variants[name].words if name in self.variants else ()


def load_study(path: str | Path, overrides: Iterable[str] = ()) -> StudyConfig:
    """A study, once nothing is wrong with it or with the files of its runs; those are then named by paths from here."""
    source = resolve(load(path, overrides, StudyConfig))
    refuse(structure_problems(source.values, StudyConfig), source)
    config = structured(source.values, StudyConfig)
    folder = find_file(str(path)).parent
    problems = component_problems(component_specs(source.values, StudyConfig))
    refuse([*problems, *_value_problems(config), *_file_problems(config, folder)], source)
    methods = {name: str(_find(file, folder)) for name, file in config.methods.items()}
    config = replace(config, methods=methods, teacher=config.teacher and str(_find(config.teacher, folder)))
    runs: dict[str, RunConfig] = {}
    wrong: list[Problem] = []
    for name, file in config.run_files.items():
        of_run = resolve(load(file, config.words(name)))
        run, problems = understood(of_run.values)
        wrong += [located(problem, of_run) for problem in problems]
        if run is not None:
            runs[name] = run
    if wrong:
        raise ConfigError(*dict.fromkeys(wrong))
    refuse(list(_run_problems(config, runs)), source)
    return config


def needs_teacher(objective: Component) -> bool:
    name, _ = split(objective, "objective", OBJECTIVES)
    return bool(OBJECTIVES.get(name).needs_teacher)


def larger_is_better(metric: str) -> bool:
    """Whether a larger value of a report's metric, such as `test/image/auroc`, is a better one."""
    name = metric.rpartition("/")[2]
    return FIDELITY[name] if name in FIDELITY else bool(METRICS.get(name).larger_is_better)


def _value_problems(config: StudyConfig) -> Iterator[Problem]:
    yield from seed_problems(config.seed_list, config.seeds)
    if config.jobs < 1:
        yield Problem("jobs", f"must be 1 or more, got {config.jobs}.")
    if not config.methods:
        yield Problem("methods", "wanted at least one method, got none.")
    if not config.metrics:
        yield Problem("metrics", "wanted at least one metric, got none.")
    for name in config.methods:
        if not re.fullmatch(r"[\w.+-]+", name) or name in (TEACHER, "world"):
            text = f"{name!r} cannot be the name of a method, whose runs go into a folder of that name."
            yield Problem(f"methods.{name}", text)
    if config.world is not None:
        try:
            config.world.plan(seed=0)
        except ConfigError as error:
            yield from (Problem(f"world.{p.path}", p.message) for p in error.problems)
    wrong = grid_problems(config.grid, config.methods)
    if wrong:
        yield from wrong
        return
    yield from _unknown(config.baselines, "baselines", config.all_methods)
    yield from _unknown(config.densities, "densities", list(config.run_files))
    if config.saliency and config.teacher is None:
        yield Problem("saliency", "is asked of the study's teacher, and there is none. Name its YAML in `teacher`.")


def _unknown(names: Sequence[str], key: str, known: Sequence[str]) -> Iterator[Problem]:
    for i, name in enumerate(names):
        if name not in known:
            yield Problem(f"{key}[{i}]", f"{name!r} is none of {', '.join(known)}.{did_you_mean(name, known)}")


def _file_problems(config: StudyConfig, folder: Path) -> Iterator[Problem]:
    for name, file in config.written_files.items():
        if _find(file, folder) is None:
            hint = did_you_mean(Path(file).name, [p.name for p in folder.glob("*.yaml")])
            yield Problem(TEACHER if name == TEACHER else f"methods.{name}", f"there is no file {folder / file}.{hint}")


def _find(file: str, folder: Path) -> Path | None:
    """A file beside the study, or else where configurations are looked for."""
    if (folder / file).is_file():
        return folder / file
    try:
        return find_file(file)
    except ConfigError:
        return None


def _run_problems(config: StudyConfig, runs: Mapping[str, RunConfig]) -> Iterator[Problem]:
    """Metrics that no run would report, and runs whose outputs cannot be drawn."""
    known = dict[str, None]()
    for run in runs.values():
        names = []
        for metric in run.evaluation.metrics:
            names.append(split(metric, "evaluation.metrics", METRICS)[0])
        names += FIDELITY if needs_teacher(run.objective) else ()
        for use, view, name in product(("validation", "test"), run.evaluation.views, names):
            if getattr(run.data, use) is not None:
                known[name_on(view, use, name)] = None
    yield from _unknown(config.metrics, "metrics", list(known))
    for i, name in enumerate(config.densities):
        if runs[name].data.test is None:
            yield Problem(f"densities[{i}]", f"{name} predicts no test split. Name one in its data.test.")
        elif (count := RunFacts(runs[name]).info.num_classes) != 2:
            yield Problem(f"densities[{i}]", f"{name} tells {count} classes apart, and densities are drawn for two.")
