"""What watches a run, and what it leaves behind."""

from __future__ import annotations

import importlib.util
import json
import math

import pytest

from msd_framework.callbacks import logging
from msd_framework.callbacks.early_stopping import EarlyStopping
from msd_framework.callbacks.logging import JsonLines, TensorBoard
from msd_framework.callbacks.progress import ProgressBar
from tests.runs import tiny_runner


def fitted(callback, num_updates=3, **options):
    runner, _ = tiny_runner(num_updates=num_updates, validate_at=frozenset({2}), monitor="score", **options)
    runner.validate = lambda: {"score": 0.25}
    runner.callbacks = [callback]
    runner.fit()
    return runner


def test_every_log_and_validation_is_a_line_of_json(tmp_path):
    fitted(JsonLines(str(tmp_path / "metrics.jsonl")))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [1, 2, 2, 3]
    assert {"train/loss", "train/lr", "train/distill/image"} <= set(lines[0])
    assert lines[2] == {"update": 2, "validation/score": 0.25}


def test_lines_of_updates_that_are_made_again_are_taken_away_and_so_are_half_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"update": 1, "x": 1}\n{"update": 5, "x": 2}\n{"upda')
    runner, _ = tiny_runner(num_updates=2)
    runner.update = 1
    runner.callbacks = [JsonLines(str(path))]
    runner.fit()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["update"] for line in lines] == [1, 2]


def test_what_is_not_defined_is_null(tmp_path):
    runner, _ = tiny_runner(num_updates=1)
    JsonLines(str(tmp_path / "metrics.jsonl")).on_validation_end(runner, {"auroc": math.nan, "accuracy": 1.0})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"update": 0, "validation/auroc": null, "validation/accuracy": 1.0}\n'


def test_a_negative_improvement_is_none():
    with pytest.raises(ValueError, match="min_delta must be 0 or more, got -1"):
        EarlyStopping(min_delta=-1)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_gets_the_same_numbers(tmp_path):
    fitted(TensorBoard(str(tmp_path)))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2, 3]
    assert [e.value for e in events.Scalars("validation/score")] == [0.25]


def test_tensorboard_that_is_not_installed_names_what_to_install(monkeypatch):
    monkeypatch.setattr(logging, "tensorboard_is_installed", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'msd_framework\[tensorboard\]'"):
        TensorBoard("x")


def test_a_screen_that_is_no_terminal_gets_a_line_at_each_validation(capsys):
    fitted(ProgressBar("teacher"))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert line.startswith("teacher: update 2/3, loss ")
    assert line.endswith("score 0.2500 (best 0.2500)")
