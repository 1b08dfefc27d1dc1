"""A run on a disk that is full: a sentence, wherever it happens; what was saved is good, and the run goes on once there is room."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from msd_framework.callbacks.logging import JsonLines, TensorBoard, tensorboard_is_installed
from msd_framework.cli import main
from msd_framework.engine.checkpoint import find_checkpoint
from msd_framework.teachers.store import TeacherStore
from tests.integration.test_study import write

WORDS = ["training.max_updates=8", "training.log_every=1", "evaluation.every_updates=2"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk whose size can be changed; makes it, and takes it away at the end."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)  # lazily: TensorBoard still holds a file of it


def grow(folder, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", "tmpfs", str(folder)], check=True)


def test_a_run_on_a_full_disk_is_a_sentence_and_goes_on_once_there_is_room(small_disk, tiny_config, capfd):
    words = [f"config={tiny_config}", f"env.save_dir={small_disk / 'run'}", "checkpoint.resume=true", *WORDS]
    said = []
    for size in ("16k", "60k", "130k", "190k"):  # fails ever later
        grow(small_disk, size)
        assert main(["run", *words]) == 2, size
        lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith(("run: update", "resume: "))]
        assert len(lines) == 1, lines
        said += lines
    assert all("No space left on device" in line or "the disk is full" in line for line in said)
    assert all("Make room, or name another" in line and str(small_disk) in line for line in said)
    grow(small_disk, "16m")
    assert main(["run", *words]) == 0
    assert json.loads((small_disk / "run" / "report.json").read_text())["updates"] == 8
    assert find_checkpoint(small_disk / "run")


NAMES = ["config.yaml", "environment.json", "metrics.jsonl", "predictions_test_seen.csv", "report.json", "report.md"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
@pytest.mark.parametrize("name", NAMES)
def test_the_file_that_finds_the_disk_full_is_named(name, tiny_config, tmp_path, monkeypatch, capsys):
    opened = Path.open

    def open_full(path, mode="r", *arguments, **options):
        is_full = name in path.name and mode == ("a" if name == "metrics.jsonl" else "w")
        return opened(Path("/dev/full") if is_full else path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_full)
    words = [f"config={tiny_config}", f"env.save_dir={tmp_path / 'run'}"]
    assert main(["run", *words]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line == f"{tmp_path / 'run' / name}: No space left on device. Make room, or name another place to write to."
    monkeypatch.undo()
    assert main(["run", *words, "checkpoint.resume=true"]) == 0


def test_a_thread_of_tensorboard_that_finds_the_disk_full_prints_no_traceback(small_disk, capfd):
    if not tensorboard_is_installed():
        pytest.skip("needs tensorboard")

    class Run:
        class world:  # noqa: N801
            is_first = True

        update = 0

    board, before = TensorBoard(str(small_disk / "board")), threading.excepthook
    board.on_fit_start(Run())

    def log_much():
        for _ in range(5000):
            board.on_log(Run(), {"loss": 1.0})

    with pytest.raises(OSError, match="No space left on device") as raised:
        log_much()
    with pytest.raises(OSError, match="No space left on device"):
        board.on_fit_end(Run())
    assert raised.value.filename == str(small_disk / "board")
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook is before


def test_a_line_that_a_full_disk_cut_off_is_taken_away_and_made_again(tmp_path):
    class Run:
        class world:  # noqa: N801
            is_first = True

        update = 4

    lines = JsonLines(str(tmp_path / "metrics.jsonl"))
    (tmp_path / "metrics.jsonl").write_text('{"update": 2, "a": 1}\n{"update": 4, "a": 1}\n{"update": 6, "a": 2}\n{"upda')
    lines.on_fit_start(Run())
    assert (tmp_path / "metrics.jsonl").read_text() == '{"update": 2, "a": 1}\n{"update": 4, "a": 1}\n'


@pytest.mark.parametrize("call", ["pwrite", "fsync", "truncate"])
def test_a_cache_that_finds_the_disk_full_is_a_sentence_and_believes_nothing_half_written(
    call, tiny_config, tiny_world, tiny_teacher, tmp_path, monkeypatch, capsys
):
    words = [
        f"config={tiny_config}",
        "objective={type: distillation, views: [full, image]}",
        f"teacher.checkpoint={tiny_teacher}",
        f"data.dataset.root={tiny_world}",
        "teacher.cache=true",
        "data.validation=null",
        "data.test=null",
        "evaluation.batch_size=8",
    ]
    real, left, reached = getattr(os, call), 0, dict[Path, bytes]()

    def on_a_full_disk(file, *arguments):
        nonlocal left
        left -= 1
        if call == "fsync":  # what has not reached the disk is lost, and the next call says that all is well
            path = Path(os.readlink(f"/proc/self/fd/{file}"))
            if left != -1:
                reached[path] = path.read_bytes()
            elif path.suffix == ".bin":
                with path.open("r+b") as damaged:
                    damaged.write(reached.get(path, b"").ljust(path.stat().st_size, b"\0"))
        if left == -1 or (left < 0 and call != "fsync"):
            if call == "pwrite":  # a part of it still finds room
                content, offset = arguments
                real(file, content[: len(content) // 2], offset)
            raise OSError(errno.ENOSPC, "No space left on device", *([str(file)] if call == "truncate" else []))
        return real(file, *arguments)

    def fill(folder):
        return main(["cache", "build", *words, f"teacher.cache_dir={folder}"])

    monkeypatch.setattr(os, call, on_a_full_disk)
    for failures in range(30):  # fails ever later, in what the last one has left
        left = failures
        if fill(tmp_path / "cache") == 0:
            break
        *_, line = capsys.readouterr().err.splitlines()
        assert line.startswith(str(tmp_path / "cache"))
        assert line.endswith(": No space left on device. Make room, or name another place to write to.")
    assert failures > 1
    monkeypatch.undo()
    assert fill(tmp_path / "clean") == 0
    ((found,), (wanted,)) = ([TeacherStore(p) for p in (tmp_path / name).glob("[!.]*")] for name in ("cache", "clean"))
    assert found.num_done == wanted.num_done == wanted.num_rows
    assert not list((tmp_path / "cache").glob(".new-*"))
    for name, values in wanted.columns.items():
        kept = found.columns[name][found.find(wanted.keys)].astype(np.float64)
        np.testing.assert_allclose(kept, values, rtol=2**-10, atol=1e-6)  # other batches, rounded to float16


def test_a_study_on_a_full_disk_is_a_sentence_and_no_run_counts_as_done(forked_workers, small_disk, tmp_path, capfd):
    sizes = {"train": 16, "dev_seen": 8, "test_seen": 8}
    changes = {"seeds": 1, "jobs": 1, "methods": {"ce": "ce.yaml"}, "baselines": [], "densities": [], "metrics": ["test/auroc"]}
    study = write(
        tmp_path, world={"layout": "hateful_memes", "sizes": sizes}, env={"save_dir": str(small_disk / "runs")}, **changes
    )
    grow(small_disk, "400k")  # room for the world, and not for its teacher's checkpoint
    assert main(["study", f"config={study}"]) == 2
    said = capfd.readouterr()
    teacher = small_disk / "runs" / "teacher" / "seed_0"
    full = rf"{teacher}/checkpoints/\S+: cannot be written: the disk is full\. Make room, or name another env\.save_dir; .+"
    assert re.search(rf"^teacher, seed 0 failed: {full} Its output is in {teacher}/log\.txt\.$", said.err, re.MULTILINE)
    assert "Traceback" not in said.err + said.out + (teacher / "log.txt").read_text()
    assert not list(teacher.glob("checkpoints/update_*"))
    assert not (teacher / "report.json").exists()
