"""Two machines, played by two processes with a folder each: what they do not share is told on both before anything is trained."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from msd_framework.errors import MSDError
from msd_framework.run import run
from msd_framework.testing import run_processes

DISTILL = ["objective={type: distillation, views: [full, image, text]}"]


def _on_its_machine(config: str, folder: str, words: list[str], own: list[list[str]]) -> None:
    """Runs in this process's own folder and writes down what was said."""
    rank = int(os.environ["RANK"])
    os.chdir(Path(folder) / f"machine{rank}")
    try:
        run(config, ["env.save_dir=run", "env.device=cpu", *words, *own[rank]])
        said = "trained"
    except MSDError as error:
        said = str(error)
    Path("said.txt").write_text(said)


def said_on_each(config: Path, folder: Path, words: list[str] = [], own: list[list[str]] | None = None) -> list[str]:  # noqa: B006
    for rank in range(2):
        (folder / f"machine{rank}").mkdir(exist_ok=True)
    run_processes(_on_its_machine, 2, str(config), str(folder), words, own or [[], []])
    return [(folder / f"machine{rank}" / "said.txt").read_text() for rank in range(2)]


def trained_nothing(folder: Path) -> bool:
    return not list(folder.glob("machine*/run/metrics.jsonl"))


def test_folders_that_are_not_shared_are_told_on_both(tiny_config, tmp_path):
    said = said_on_each(tiny_config, tmp_path)
    wanted = "env.save_dir: run is not one folder for all processes: process 1 on "
    assert [wanted in text for text in said] == [True, True]
    assert "Name a folder on a disk that all machines share." in said[1]
    assert trained_nothing(tmp_path)
    assert not list(tmp_path.glob("machine*/run/.shared*"))


def test_an_old_run_on_the_other_machine_is_not_trained_from(tiny_config, tiny_teacher, tmp_path):
    for rank in range(2):
        shutil.copytree(tiny_teacher, tmp_path / f"machine{rank}" / "run", symlinks=True)
    words = ["checkpoint.resume=true", "training.max_updates=4"]
    before = [(tmp_path / f"machine{rank}" / "run" / "metrics.jsonl").read_text() for rank in range(2)]
    assert all("is not one folder for all processes" in text for text in said_on_each(tiny_config, tmp_path, words))
    assert before == [(tmp_path / f"machine{rank}" / "run" / "metrics.jsonl").read_text() for rank in range(2)]


def test_a_mistake_of_one_machine_ends_both(tiny_config, tiny_teacher, tmp_path):
    shutil.copytree(tiny_teacher, tmp_path / "machine1" / "run", symlinks=True)
    first, second = said_on_each(tiny_config, tmp_path)
    assert "env.save_dir: run already holds a run" in second
    assert first.startswith("process 1 on ")
    assert first.endswith(second)


def test_configurations_that_differ_are_told_by_their_key(tiny_config, tmp_path):
    shared = [f"env.save_dir={tmp_path / 'shared'}"]
    said = said_on_each(tiny_config, tmp_path, shared, [[], ["optimizer={type: adamw, lr: 0.5}"]])
    assert said[0] == said[1]
    assert said[0].startswith("optimizer: is adamw for process 0 on ")
    assert trained_nothing(tmp_path)


def test_other_files_under_the_same_name_are_told(tiny_config, tiny_world, tmp_path):
    for rank in range(2):
        shutil.copytree(tiny_world, tmp_path / f"machine{rank}" / "world")
    file = tmp_path / "machine1" / "world" / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["text"] = "another day"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"env.save_dir={tmp_path / 'shared'}", "data.dataset.root=world"]
    said = said_on_each(tiny_config, tmp_path, words)
    assert said[0] == said[1]
    assert "data.train: is content " in said[0]
    assert "All machines must read the same files." in said[0]


def test_another_teacher_under_the_same_name_is_told(tiny_config, tiny_teacher, tmp_path):
    for rank in range(2):
        shutil.copytree(tiny_teacher, tmp_path / f"machine{rank}" / "teacher", symlinks=True)
    run(tiny_config, [f"env.save_dir={tmp_path / 'other'}", "seed=7"])
    shutil.rmtree(tmp_path / "machine1" / "teacher")
    shutil.copytree(tmp_path / "other", tmp_path / "machine1" / "teacher", symlinks=True)
    words = [f"env.save_dir={tmp_path / 'shared'}", *DISTILL, "teacher.checkpoint=teacher"]
    said = said_on_each(tiny_config, tmp_path, words)
    assert said[0] == said[1]
    assert "teacher.checkpoint: is content " in said[0]
