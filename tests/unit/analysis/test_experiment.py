"""Experiments: one command, a table, and everything that is wrong told before anything is measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from msd_framework.analysis.experiment import (
    Experiment,
    ExperimentConfig,
    ExperimentEnvConfig,
    Row,
    is_experiment,
    run_experiment,
)
from msd_framework.cli import main
from msd_framework.config.schema import field_docs
from msd_framework.errors import ConfigError

THIS = f"{__name__}.Squares"
RUNS: list[tuple[tuple[int, ...], int]] = []
"""The seeds and the threads of each experiment that was run."""


class Squares(Experiment):
    """The mean seed and its square.

    Args:
        power: what a seed is raised to.
    """

    def __init__(self, power: int = 2):
        if power < 1:
            raise ValueError(f"power must be 1 or more, got {power}.")
        self.power = power

    def run(self, seeds: Sequence[int], folder: Path) -> list[Row]:
        RUNS.append((tuple(seeds), torch.get_num_threads()))
        return [{"name": f"row {k}", "mean": sum(s**k for s in seeds) / len(seeds)} for k in (1, self.power)]


class Drawn(Squares):
    """The same with a picture."""

    def draw(self, rows: Sequence[Row], path: Path) -> bool:
        path.write_bytes(b"png")
        return True


def write(folder: Path, text: str = "", experiment: str = f"{{type: {THIS}}}") -> Path:
    path = folder / "experiment.yaml"
    path.write_text(f"name: squares\nexperiment: {experiment}\nenv: {{save_dir: {folder}/out}}\n{text}\n")
    return path


def test_the_rows_are_written_as_json_and_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_experiment(write(tmp_path, "expected: {mean: [2, 4.5]}"), ["seeds=4"])
    rows = [{"name": "row 1", "mean": 1.5}, {"name": "row 2", "mean": 3.5}]
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert written["rows"] == found["rows"] == rows
    assert written["seeds"] == [0, 1, 2, 3]
    assert written["config"]["expected"] == {"mean": [2, 4.5]}
    page = (tmp_path / "out" / "summary.md").read_text().splitlines()
    assert page[4:] == ["| name | mean |", "| --- | ---: |", "| row 1 | 1.50 (2.00) |", "| row 2 | 3.50 (4.50) |"]
    assert "3.50 (4.50)" in capsys.readouterr().out


def test_a_picture_is_shown_where_there_is_one(tmp_path: Path) -> None:
    run_experiment(write(tmp_path, experiment=f"{__name__}.Drawn"))
    assert (tmp_path / "out" / "summary.png").exists()
    assert "![](summary.png)" in (tmp_path / "out" / "summary.md").read_text()


@pytest.mark.parametrize(
    ("words", "seeds"), [([], (0,)), (["seeds=3"], (0, 1, 2)), (["seeds=2", "first_seed=42"], (42, 43)), (["seeds=[7, 1]"], (7, 1))]
)
def test_seeds_are_counted_or_listed(tmp_path: Path, words: list[str], seeds: tuple[int, ...]) -> None:
    run_experiment(write(tmp_path), words)
    assert RUNS[-1][0] == seeds


def test_it_has_the_threads_that_it_asks_for_and_gives_them_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    run_experiment(write(tmp_path), ["env.threads=2"])
    assert RUNS[-1][1] == 2
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["seeds=0"], "seeds: wanted 1 or more, or a list of different seeds .*, got 0"),
        (["seeds=[1, 1]"], "seeds: wanted 1 or more, or a list of different seeds"),
        (["seeds=[-1]"], "seeds: wanted 1 or more"),
        (["env.threads=0"], "env.threads: must be 1 or more, got 0"),
        (["experiment.powr=3"], "experiment.powr: .*has no such option. Did you mean 'power'"),
        (["experiment.power=0"], "experiment: power must be 1 or more, got 0"),
        (["sedes=3"], "sedes: no such option. Did you mean 'seeds'"),
        (["run_type=test"], "run_type: wanted 'train' | 'check', got 'test'"),
        (["imports=[no_such_module]"], r"imports\[0\]: there is no module 'no_such_module'"),
        (["user_dir=no_such_folder"], "user_dir: there is no folder no_such_folder"),
    ],
)
def test_a_mistake_is_a_sentence_before_anything_is_measured(tmp_path: Path, words: list[str], text: str) -> None:
    count = len(RUNS)
    with pytest.raises(ConfigError, match=text):
        run_experiment(write(tmp_path), words)
    assert len(RUNS) == count
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("{maen: [1, 2]}", "expected.maen: there is no column 'maen'. Did you mean 'mean'. Columns: name, mean"),
        ("{mean: [1]}", "expected.mean: wanted a value for each of the 2 rows, got 1"),
    ],
)
def test_expectations_of_other_rows_are_told_and_what_was_measured_is_kept(tmp_path: Path, expected: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        run_experiment(write(tmp_path, f"expected: {expected}"))
    assert len(json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]) == 2


def test_a_check_measures_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count, path = len(RUNS), write(tmp_path)
    assert main([f"config={path}", "run_type=check"]) == 0
    assert "nothing is wrong with it" in capsys.readouterr().out
    assert len(RUNS) == count


def test_files_are_experiments_by_their_key_or_their_bases(tmp_path: Path, tiny_config: Path) -> None:
    base = write(tmp_path)
    (tmp_path / "other.yaml").write_text("base: experiment.yaml\nname: other\n")
    assert is_experiment(base)
    assert is_experiment(tmp_path / "other.yaml")
    assert not is_experiment(tiny_config)


@pytest.mark.parametrize("schema", [ExperimentConfig, ExperimentEnvConfig])
def test_every_option_has_a_sentence(schema: type) -> None:
    docs = field_docs(schema)
    assert list(docs) == [f.name for f in fields(schema)]
    assert all(text.endswith(".") for text in docs.values())
