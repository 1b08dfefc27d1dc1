"""A run's folder is moved, copied, or comes back from elsewhere; what is beside its checkpoints goes with it."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from msd_framework.cli import main


@pytest.fixture
def moved(tiny_teacher, tmp_path, monkeypatch):
    """The folder of a run that was begun in a place where it is no more."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_teacher, tmp_path / "here", symlinks=True)
    file = tmp_path / "here" / "config.yaml"
    values = yaml.safe_load(file.read_text())
    values["env"]["save_dir"] = "there"
    file.write_text(yaml.safe_dump(values))
    return tmp_path / "here"


def test_a_run_that_was_moved_is_evaluated_and_gone_on_with_where_it_is(moved, tmp_path, capsys):
    words = ["run", f"config={moved / 'config.yaml'}"]
    assert main([*words, "run_type=test"]) == 0
    assert main([*words, "checkpoint.resume=true", "training.max_updates=4"]) == 0
    assert "env.save_dir: the run was begun in there, and is taken to be in" in capsys.readouterr().err
    assert json.loads((moved / "report.json").read_text())["updates"] == 4
    assert not (tmp_path / "there").exists()


def test_a_run_that_was_copied_is_not_taken_for_the_one_it_was_copied_from(moved, tmp_path, capsys):
    shutil.copytree(moved, tmp_path / "there", symlinks=True)
    assert main(["run", f"config={moved / 'config.yaml'}", "checkpoint.resume=true", "training.max_updates=4"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is of the run beside it and names there, where there is another one. Write env.save_dir=" in line


def test_the_data_of_a_run_may_be_moved_as_well(moved, tiny_world, tmp_path, capsys):
    shutil.copytree(tiny_world, tmp_path / "data")
    words = ["checkpoint.resume=true", "training.max_updates=4", "data.dataset.root=data"]
    assert main(["run", f"config={moved / 'config.yaml'}", *words]) == 0
    said = capsys.readouterr().err
    assert "resume: data.dataset.root is 'data' here and " in said
    assert "resume: goes on from" in said


def test_metrics_that_are_no_text_are_told_before_they_are_written_anew(moved, capsys):
    (moved / "metrics.jsonl").write_bytes(b'{"update": 1, "a": "\xff"}\n')
    assert main(["run", f"config={moved / 'config.yaml'}", "checkpoint.resume=true", "training.max_updates=4"]) == 2
    assert "metrics.jsonl: is not UTF-8" in capsys.readouterr().err
    assert b"\xff" in (moved / "metrics.jsonl").read_bytes()


def test_a_run_that_was_killed_before_its_first_checkpoint_says_that_it_begins_anew(tiny_config, tmp_path, capsys):
    (tmp_path / "run" / "checkpoints" / ".update_00000002.1").mkdir(parents=True)
    lines = ['{"update": 1, "train/loss": 1.0}', '{"update": 2, "validation/accuracy": 0.5}']
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    assert main(["run", f"config={tiny_config}", f"env.save_dir={tmp_path / 'run'}", "checkpoint.resume=true"]) == 0
    assert "has no checkpoint yet, so the run begins at update 0" in capsys.readouterr().err
