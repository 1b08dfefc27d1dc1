"""Several processes ask a teacher together, and write down what one alone would."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from msd_framework.cli import main
from msd_framework.errors import CacheError
from msd_framework.run import run
from msd_framework.teachers.store import TeacherStore
from msd_framework.testing import run_processes


def _words(config: Path, teacher: Path, folder: Path, caches: str | Path, *more: str) -> list[str]:
    return [
        "objective={type: distillation, views: [full, image, text]}",
        f"teacher.checkpoint={teacher}",
        f"teacher.cache_dir={caches}",
        "teacher.cache=true",
        f"env.save_dir={folder}",
        "evaluation.batch_size=2",
        "data.validation=null",
        "data.test=null",
        *more,
    ]


def _build(config: str, words: list[str]) -> None:
    assert main(["cache", "build", f"config={config}", *words]) == 0


def _columns(caches: Path) -> dict[str, dict[str, bytes]]:
    """The content of every file of answers, by store."""
    return {
        store.name: {file.name: file.read_bytes() for file in sorted(store.glob("*.bin"))} for store in sorted(caches.glob("[!.]*"))
    }


@pytest.mark.parametrize("begun", [False, True], ids=["from nothing", "after one process"])
def test_two_processes_fill_what_one_fills_to_the_bit(tiny_config: Path, tiny_teacher: Path, tmp_path: Path, begun: bool) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    some = "data.max_train_examples=6"  # whole batches, so that the rest is cut into batches as it would have been
    for caches in (one, two) if begun else ():
        _build(str(tiny_config), _words(tiny_config, tiny_teacher, tmp_path / "run", caches, some))
    _build(str(tiny_config), _words(tiny_config, tiny_teacher, tmp_path / "run", one))
    run_processes(_build, 2, str(tiny_config), _words(tiny_config, tiny_teacher, tmp_path / "run", two))
    assert len(_columns(one)) == 1
    assert _columns(two) == _columns(one)
    assert all(TeacherStore(path).num_done == 12 for path in two.glob("[!.]*"))
    assert not list(two.glob(".building*"))


def _train(config: str, words: list[str]) -> None:
    run(config, words)


def test_two_processes_learn_from_the_cache_that_they_fill(tiny_config: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    dropouts = ["dropout", "encoders.text.dropout", "encoders.text.attention_dropout", "encoders.image.dropout"]
    exact = [*(f"model.{name}=0.0" for name in dropouts), "training.log_every=1", "training.max_updates=3"]

    def losses(name: str) -> list[float]:
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        return [line["train/loss"] for line in lines if "train/loss" in line]

    run(tiny_config, _words(tiny_config, tiny_teacher, tmp_path / "one", tmp_path / "caches_1", *exact))
    run_processes(_train, 2, str(tiny_config), _words(tiny_config, tiny_teacher, tmp_path / "two", tmp_path / "caches_2", *exact))
    assert losses("two") == pytest.approx(losses("one"), abs=1e-5)  # float32 sums in another order
    assert _columns(tmp_path / "caches_2") == _columns(tmp_path / "caches_1")


def _train_apart(config: str, folder: str, words: list[str]) -> None:
    """Each process with a working folder, and so with a cache folder, of its own."""
    own = Path(folder) / os.environ["RANK"]
    own.mkdir()
    os.chdir(own)
    with pytest.raises(
        CacheError, match=r"process 1 does not see .*/caches/\w+, which process 0 has made\. Name a folder that all"
    ):
        run(config, words)


def test_a_cache_that_not_all_processes_see_is_told(tiny_config: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    words = _words(tiny_config, tiny_teacher, tmp_path / "run", "caches")
    run_processes(_train_apart, 2, str(tiny_config), str(tmp_path), words)


def _read_damaged(config: str, words: list[str], said: str) -> None:
    with pytest.raises(CacheError, match=said):
        run(config, words)


def test_what_one_process_finds_wrong_all_are_told(tiny_config: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    words = _words(tiny_config, tiny_teacher, tmp_path / "run", tmp_path / "caches")
    _build(str(tiny_config), words)
    store = next((tmp_path / "caches").glob("[!.]*"))
    os.truncate(store / "logits.bin", 5)
    run_processes(_read_damaged, 2, str(tiny_config), words, r"logits\.bin: holds 5 bytes, wanted 144")
