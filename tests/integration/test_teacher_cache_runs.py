"""Runs that learn from a teacher who is asked once."""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import os
import re
import shlex
import shutil
import sys
import time
import weakref
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from msd_framework.build import cache_key as cache
from msd_framework.build import teacher_cache
from msd_framework.build.dry_run import DryRun
from msd_framework.cli import main
from msd_framework.data.sets.hateful_memes import HatefulMemes
from msd_framework.engine import locks
from msd_framework.errors import CacheError, ConfigError
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.run import run
from msd_framework.structures import Batch
from msd_framework.teachers.live import LiveTeacher
from msd_framework.teachers.store import DONE, TeacherStore
from msd_framework.testing import start_method
from tests.integration.test_docs import ROOT, blocks

VIEWS = ("full", "image", "text")


class Runs:
    """Students on the tiny world, all with one folder of caches."""

    def __init__(self, config: Path, world: Path, teacher: Path, folder: Path):
        self.config, self.world, self.teacher, self.folder = config, world, teacher, folder
        self.caches = folder / "caches"
        self.number = 0

    def words(self, *more: str) -> list[str]:
        self.number += 1
        return [
            "objective={type: distillation, views: [full, image, text]}",
            "evaluation.views=[full, image, text]",
            f"teacher.checkpoint={self.teacher}",
            f"teacher.cache_dir={self.caches}",
            f"env.save_dir={self.folder / f'student_{self.number}'}",
            f"data.dataset.root={self.world}",
            "training.max_updates=4",
            "training.log_every=1",
            *more,
        ]

    def run(self, *more: str) -> dict[str, Any]:
        return run(self.config, self.words(*more))

    def losses(self, number: int | None = None) -> list[float]:
        log = self.folder / f"student_{number or self.number}" / "metrics.jsonl"
        return [row["train/loss"] for line in log.read_text().splitlines() if "train/loss" in (row := json.loads(line))]

    def stores(self, split: str = "train") -> list[TeacherStore]:
        found = [TeacherStore(p) for p in self.caches.glob("[!.]*")]
        return [s for s in found if s.card.parts["data.split"] == split]


CACHED = "teacher.cache=true"
READ = "teacher.cache=read"
ALONE = ["data.validation=null", "data.test=null"]
"""Words for a run that asks its teacher about the training split alone."""


@pytest.fixture
def runs(tiny_config: Path, tiny_world: Path, tiny_teacher: Path, tmp_path: Path) -> Runs:
    return Runs(tiny_config, tiny_world, tiny_teacher, tmp_path)


@pytest.fixture
def own(tiny_config: Path, tiny_world: Path, tiny_teacher: Path, tmp_path: Path) -> Runs:
    """Runs whose world and teacher may be changed."""
    shutil.copytree(tiny_world, tmp_path / "world")
    shutil.copytree(tiny_teacher, tmp_path / "teacher", symlinks=True)
    return Runs(tiny_config, tmp_path / "world", tmp_path / "teacher", tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """How often a live teacher was asked about each view of each example."""
    count: Counter[tuple[str, str]] = Counter()
    predict = LiveTeacher.predict

    def counting(self: LiveTeacher, batch: Batch, views: Any, shown: Any = None) -> Any:
        count.update((name, view) for name in batch.ids for view in views)
        return predict(self, batch, views, shown)

    monkeypatch.setattr(LiveTeacher, "predict", counting)
    monkeypatch.setattr(DryRun, "teacher", lambda self, *parts: None)  # the rows that it is tried on first are not counted
    return count


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The examples of each step and the random state that it begins with."""
    seen: list[Any] = []
    forward = DistillationObjective.forward

    def recording(self: DistillationObjective, batch: Batch) -> Any:
        states = (torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()).encode())
        seen.append((batch.ids, [hashlib.sha256(state).hexdigest() for state in states]))
        return forward(self, batch)

    monkeypatch.setattr(DistillationObjective, "forward", recording)
    return seen


# --- the same run, with fewer questions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["objective.weighting={type: instance, saliency: drop}"],
        ["objective.weighting={type: population, saliency: {type: gap}, normalise: softmax}"],
        ["objective.distill_loss=mse"],
        ["masker={type: by_modality, maskers: {image: mean, text: constant}}"],
        ["teacher.masker=attention"],
        ["data.workers=1"],
    ],
    ids=["plain", "instance weights", "fitted weights", "mse of logits", "fitted masker", "masker of its own", "workers"],
)
def test_a_cached_run_is_the_live_run_to_the_rounding_of_float16(runs: Runs, steps: list[Any], words: list[str]) -> None:
    live = runs.run(*ALONE, *words)
    losses, seen = runs.losses(), steps.copy()
    steps.clear()
    for cached in (CACHED, READ):
        report = runs.run(*ALONE, *words, cached)
        assert steps == seen  # the same examples and the same random numbers, whether the cache is filled or read
        assert runs.losses() == pytest.approx(losses, rel=2e-4)
        assert runs.losses() != losses
        assert report["updates"] == live["updates"]
        steps.clear()


def test_fidelity_is_that_of_the_live_teacher(runs: Runs) -> None:
    live, filled, read = runs.run(), runs.run(CACHED), runs.run(READ)
    assert "test/image/kl" in live["metrics"]
    for report in (filled, read):
        assert report["metrics"] == pytest.approx(live["metrics"], abs=2e-3, nan_ok=True)


def test_every_view_of_every_example_is_asked_about_once_and_then_only_two_rows_a_split(
    runs: Runs, asked: Counter[tuple[str, str]]
) -> None:
    runs.run(CACHED)
    every = {(f"{s}{i:03}", view) for s in range(3) for i in range(12) for view in VIEWS}
    assert asked == Counter(every)
    asked.clear()
    runs.run(CACHED, "seed=7", "model.hidden_size=4")  # another seed and another student
    assert len(asked) == sum(asked.values()) == 3 * 2 * len(VIEWS)
    verified = {name for name, _ in asked}
    asked.clear()
    runs.run(READ, "seed=8")
    assert len(asked) == 3 * 2 * len(VIEWS)
    assert {name for name, _ in asked} != verified  # the seed chooses them


def test_the_teachers_weights_are_not_kept_while_its_student_learns(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    forward = DistillationObjective.forward

    def looking(self: DistillationObjective, batch: Batch) -> Any:
        gc.collect()
        found.append(len(loaded))
        return forward(self, batch)

    def loading(self: LiveTeacher, *parts: Any) -> None:
        init(self, *parts)
        loaded.add(self)

    loaded: weakref.WeakSet[LiveTeacher] = weakref.WeakSet()
    init = LiveTeacher.__init__
    monkeypatch.setattr(LiveTeacher, "__init__", loading)
    monkeypatch.setattr(DistillationObjective, "forward", looking)
    gc.collect()
    gc.freeze()  # what other tests have left is not gone through at each step
    runs.run(CACHED)
    gc.unfreeze()
    assert found
    assert not any(found)


def test_a_finished_student_is_evaluated_with_the_cache(runs: Runs, asked: Counter[tuple[str, str]]) -> None:
    words = runs.words(CACHED)
    before = run(runs.config, words)["metrics"]
    asked.clear()
    after = run(runs.config, [*words, "run_type=test"])["metrics"]
    assert after == {k: v for k, v in before.items() if k.startswith("test/")}
    assert len(asked) == 2 * len(VIEWS)


def test_a_resumed_run_ends_at_the_same_bits(runs: Runs) -> None:
    mean = "masker={type: by_modality, maskers: {image: mean, text: drop}}"
    runs.run(CACHED, mean, "training.max_updates=6")
    whole = runs.folder / f"student_{runs.number}"
    words = runs.words(CACHED, mean, "checkpoint.every_updates=2", "checkpoint.resume=true")
    run(runs.config, [*words, "training.max_updates=4"])
    run(runs.config, [*words, "training.max_updates=6"])
    a, b = (load_file(f / "checkpoints/last/model.safetensors") for f in (whole, runs.folder / f"student_{runs.number}"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_more_examples_are_added_to_the_same_store(runs: Runs, asked: Counter[tuple[str, str]]) -> None:
    runs.run(CACHED, *ALONE, "data.max_train_examples=5")
    (store,) = runs.stores()
    assert (store.num_done, store.num_rows) == (5, 5)
    asked.clear()
    runs.run(CACHED, *ALONE)
    (store,) = runs.stores()
    assert (store.num_done, store.num_rows) == (12, 12)
    assert {name for name, _ in asked} >= {f"0{i:03}" for i in range(5, 12)}
    assert sum(asked.values()) == (7 + 2) * len(VIEWS)  # and two of the old rows are verified
    asked.clear()
    runs.run(READ, *ALONE, "data.max_train_examples=4")
    assert sum(asked.values()) == 2 * len(VIEWS)


def test_a_student_that_asks_for_fewer_views_reads_the_wider_store(runs: Runs, asked: Counter[tuple[str, str]]) -> None:
    runs.run(CACHED, *ALONE)
    runs.run(*ALONE, "objective.views=[text]")
    losses = runs.losses()
    asked.clear()
    runs.run(READ, *ALONE, "objective.views=[text]")
    assert runs.losses() == pytest.approx(losses, rel=2e-4)
    runs.run(READ, *ALONE, "objective.views=[full]", "masker=noise")  # nothing is hidden, so the masker does not matter
    assert len(runs.stores()) == 1


def test_the_summary_is_kept_as_a_feature_if_asked(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    runs.run(CACHED, *ALONE, "teacher.cache_features=[fused.pooled]")
    said = " ".join(capfd.readouterr().err.split())
    assert "will take 1.7 kB: 12 examples x (3 views x (2 logits x 2 bytes + 4 + 16 features x 2 bytes) + 25 bytes)" in said
    assert re.search(r"; [\d.]+ [GT]B are free\.", said)
    (store,) = runs.stores()
    assert store.columns["summary"].shape == (12, 3, 16)
    runs.run(READ, *ALONE)  # who wants no features reads it as well


def test_the_summary_stands_for_many_classes(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Counter[tuple[str, str]]
) -> None:
    """With the bound at one class, and a teacher whose summary is smaller than its two."""
    teacher = [f"env.save_dir={tmp_path / 'narrow'}", "model.fusion=mean", "model.hidden_size=1"]
    run(runs.config, teacher)
    runs.teacher = tmp_path / "narrow"
    runs.run(*ALONE)
    losses = runs.losses()
    monkeypatch.setattr(cache, "LARGE", 1)
    for cached in (CACHED, READ):
        asked.clear()
        runs.run(*ALONE, cached)
        assert runs.losses() == pytest.approx(losses, rel=2e-4)
        assert not asked  # it is asked for its summaries alone
    (store,) = runs.stores()
    assert sorted(store.columns) == ["summary"]


def test_examples_that_cannot_be_read_are_left_out_and_not_tried_again(own: Runs, asked: Counter[tuple[str, str]]) -> None:
    (own.world / "img" / "0003.png").write_bytes(b"no image")
    report = own.run(CACHED, *ALONE, "data.on_error=skip")
    assert len(report["skipped"]) == 1
    (store,) = own.stores()
    assert (store.num_done, store.num_rows) == (11, 12)
    asked.clear()
    own.run(READ, *ALONE, "data.on_error=skip")
    assert sum(asked.values()) == 2 * len(VIEWS)


# --- what is out of date --------------------------------------------------------------------------------------------------------


def other_weights(own: Runs) -> list[str]:
    shutil.rmtree(own.teacher)
    run(own.config, [f"env.save_dir={own.teacher}", "seed=5"])
    return []


def other_lengths(own: Runs) -> list[str]:
    shutil.rmtree(own.teacher)
    run(own.config, [f"env.save_dir={own.teacher}", "data.processors.text.max_length=4"])
    return ["data.processors.text.max_length=4"]


def other_vocabulary(own: Runs) -> list[str]:
    shutil.rmtree(own.teacher)
    run(own.config, [f"env.save_dir={own.teacher}", "data.max_train_examples=2"])
    return []


def other_size(own: Runs) -> list[str]:
    shutil.rmtree(own.teacher)
    run(own.config, [f"env.save_dir={own.teacher}", "data.processors.image.size=12"])
    return ["data.processors.image.size=12"]


def other_text(own: Runs) -> list[str]:
    file = own.world / "train.jsonl"
    file.write_text(file.read_text().replace("what a 3 day", "what a 4 day"))
    return []


def other_precision(own: Runs) -> list[str]:
    return ["teacher.cache_precision=bf16"]


STALE: dict[str, tuple[Callable[[Runs], list[str]], str]] = {
    "weights": (other_weights, r"the teacher's weights \w{8} -> \w{8}"),
    "lengths": (other_lengths, r"data\.processors\.text max_length 8 -> 4"),
    "tokenizer": (other_vocabulary, r"data\.processors\.text \(what it learned, such as its vocabulary\)"),
    "pixels": (other_size, r"data\.processors\.image size 8 -> 12"),
    "file": (other_text, r"the examples \(the data set's files have changed\)"),
    "views": (lambda own: ["objective.views=[full, ~text, text]"], r"views \[full, image, text\] -> \[full, ~text, text\]"),
    "saliency's views": (lambda own: ["objective.weighting={type: instance, saliency: keep, normalise: softmax}"], ""),
    "masker": (lambda own: ["masker=attention"], r"masker spec type drop -> attention"),
    "masker's option": (
        lambda own: ["masker={type: constant, token: 1}"],
        r"masker spec type drop -> constant; .*masker spec token nothing -> 1",
    ),
    "precision": (other_precision, r"precision fp32 -> bf16"),
    "features": (lambda own: ["teacher.cache_features=[fused.pooled]"], r"summary 0 -> 16"),
}


@pytest.mark.parametrize("part", STALE)
def test_answers_to_something_else_are_not_taken_and_what_differs_is_told(
    own: Runs, part: str, capfd: pytest.CaptureFixture[str]
) -> None:
    change, differs = STALE[part]
    own.run(CACHED, *ALONE, "teacher.cache_precision=fp32")
    words = [*ALONE, "teacher.cache_precision=fp32", *change(own)]
    if not differs:  # saliencies that ask for views which are there already
        own.run(READ, *words)
        return
    with pytest.raises(
        CacheError, match=rf"holds no answers to the split 'train' .* differs from the cache of 20.* in: .*{differs}"
    ):
        own.run(READ, *words)
    capfd.readouterr()
    own.run(CACHED, *words)
    said = " ".join(capfd.readouterr().err.split())
    assert re.search(rf"It differs from the cache of 20\d\d-\d\d-\d\d in: .*{differs}", said)
    assert len(own.stores()) == 2
    own.run(READ, *words)


def test_what_the_teachers_masker_was_fitted_to_counts(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    words = [*ALONE, "masker={type: by_modality, maskers: {image: mean, text: drop}}", CACHED]
    runs.run(*words)
    runs.run(*words, "data.max_train_examples=6")  # another mean
    assert "in: masker (what it was fitted to)." in " ".join(capfd.readouterr().err.split())
    assert len(runs.stores()) == 2


def test_a_cache_of_when_sep_told_the_length_of_a_hidden_text_is_not_read(own: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as before:
        before.setattr("msd_framework.build.cache_key.HIDDEN", None)
        own.run(CACHED, *ALONE)
    with pytest.raises(CacheError, match=r"in: masker \(what hiding means: in this cache \[SEP\] stands where it stood"):
        own.run(READ, *ALONE)


def test_a_data_set_that_moves_keeps_its_cache(own: Runs) -> None:
    own.run(CACHED, *ALONE)
    own.world = own.world.rename(own.folder / "elsewhere")
    own.run(READ, *ALONE)


def test_images_that_were_changed_behind_the_file_are_noticed(own: Runs) -> None:
    from PIL import Image

    own.run(CACHED, *ALONE)
    for file in (own.world / "img").iterdir():
        Image.new("RGB", (8, 8), (255, 0, 255)).save(file)
    with pytest.raises(CacheError) as error:
        own.run(READ, *ALONE)
    (store,) = own.stores()
    pattern = (
        r"row \d+ \(id '0\d\d\d'\) of the teacher cache .* says -?\d\.\d{4} for logit of class \d of the view (full|image), the "
        r"teacher says -?\d\.\d{4}: the images or features behind the data set's files have changed since 20.*\. "
        rf"Remove it with `msd cache prune dir={own.caches} only={store.folder.name} yes=true`; the next run fills it anew\."
    )
    assert re.fullmatch(pattern, str(error.value))


def test_the_remedy_that_is_named_mends_a_damaged_store(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    runs.run(CACHED, *ALONE)
    (store,) = runs.stores()
    os.truncate(store.folder / "logits.bin", 7)
    capfd.readouterr()
    assert main(["run", f"config={runs.config}", *runs.words(CACHED, *ALONE)]) == 2
    (sentence,) = capfd.readouterr().err.splitlines()
    remedy = re.search(r"`msd (.*)`", sentence)
    assert remedy
    assert main(shlex.split(remedy[1])) == 0
    runs.run(CACHED, *ALONE)
    assert TeacherStore(store.folder).num_done == 12


def test_nothing_is_begun_that_the_disk_has_no_room_for(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(runs.folder)
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda _: usage._replace(free=500))
    with pytest.raises(CacheError, match=r"will take 588 bytes: 12 examples .*; 500 bytes are free\. Make room, name another"):
        runs.run(CACHED, *ALONE)
    assert not runs.stores()


# --- precision ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "bound", "chosen"), [((1.0, 0.5), 1.0, "bf16"), ((1.0, 0.97), 1.0, "fp32"), ((1.0, 0.5), 0.0, "fp32")]
)
def test_bf16_is_taken_where_it_is_faster_and_close_enough(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], seconds: Any, bound: float, chosen: str
) -> None:
    monkeypatch.setattr(teacher_cache, "PROBED_ROWS", 1)
    monkeypatch.setattr(teacher_cache, "BF16_BOUND", bound)
    monkeypatch.setattr(
        teacher_cache,
        "median_seconds",
        lambda candidates, steps, device: [next(steps)(c) for c in candidates] and seconds,
    )
    runs.run(CACHED, *ALONE)
    said = " ".join(capfd.readouterr().err.split())
    gain = seconds[0] / seconds[1]
    assert re.search(
        rf"answers are computed in {chosen} \(bf16 {gain:.2f} x fp32, probabilities off by \S+ at most, allowed {bound:g}\)", said
    )
    (store,) = runs.stores()
    assert store.card.parts["precision"] == chosen
    runs.run(READ, *ALONE)  # auto reads either
    other = {"fp32": "bf16", "bf16": "fp32"}[chosen]
    with pytest.raises(CacheError, match=rf"in: precision {chosen} -> {other}"):
        runs.run(READ, *ALONE, f"teacher.cache_precision={other}")


def test_the_error_of_a_probability_is_a_total_variation_distance() -> None:
    a, b = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[0.0, float(np.log(3))]]])
    assert teacher_cache._distance(a, b, "softmax") == pytest.approx(0.25)
    assert teacher_cache._distance(a, b, "bernoulli") == pytest.approx(0.25)


# --- processes that are killed, or come at once ---------------------------------------------------------------------------------


WAITS = "another process asks about the split 'train'"


def slow_run(words: list[str], output: Path, meets: bool) -> None:
    """A run in a process of its own that reads slowly, keeps each answer at once, and writes down what it says and asks.

    If it `meets` another one, it does not ask its teacher before that one has found that it must wait.
    """
    read, predict, fill = HatefulMemes.__getitem__, LiveTeacher.predict, teacher_cache.fill

    def slow_read(self: HatefulMemes, index: int) -> Any:
        time.sleep(0.03)
        return read(self, index)

    def counted(self: LiveTeacher, batch: Batch, views: Any, shown: Any = None) -> Any:
        print("asked", len(batch) * len(views), flush=True)
        return predict(self, batch, views, shown)

    HatefulMemes.__getitem__, LiveTeacher.predict = slow_read, counted  # type: ignore[method-assign]
    DryRun.teacher = lambda self, *parts: None  # type: ignore[method-assign]

    def late_fill(*arguments: Any, **options: Any) -> Any:
        deadline = time.monotonic() + 60
        while meets and not any(map(waits, output.parent.glob("output_*.txt"))) and time.monotonic() < deadline:
            time.sleep(0.01)
        return fill(*arguments, **options, flush_seconds=0)

    teacher_cache.fill = late_fill  # type: ignore[assignment]
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(main(words))


def waits(output: Path) -> bool:
    """Whether a run has said that it waits for another one."""
    return WAITS in " ".join(output.read_text().split())


def start(runs: Runs, *words: str, meets: bool = False) -> tuple[BaseProcess, Path]:
    """A slow run, and the file that takes its output."""
    given = runs.words(CACHED, *ALONE, "evaluation.batch_size=1", *words)
    output = runs.folder / f"output_{runs.number}.txt"
    context: Any = multiprocessing.get_context(start_method())
    process = context.Process(target=slow_run, args=(["run", f"config={runs.config}", *given], output, meets))
    process.start()
    return process, output


def num_asked(output: str) -> int:
    return sum(int(line.split()[1]) for line in output.splitlines() if line.startswith("asked"))


def test_a_fill_that_was_killed_with_9_goes_on_with_what_is_missing(runs: Runs, asked: Counter[tuple[str, str]]) -> None:
    process, _ = start(runs)
    deadline, marks = time.monotonic() + 60, runs.caches / "none"
    while time.monotonic() < deadline:
        marks = next(iter(runs.caches.glob("[!.]*/done.bin")), marks)
        if marks.exists() and marks.read_bytes().count(DONE) >= 4:
            break
        time.sleep(0.005)
    process.kill()
    process.join()
    (store,) = runs.stores()
    kept = store.num_done
    assert 4 <= kept < 12
    before = store.read(np.flatnonzero(store.marks == DONE), VIEWS)["logits"]
    done = np.flatnonzero(store.marks == DONE)
    runs.run(CACHED, *ALONE)
    assert sum(asked.values()) == (12 - kept + 2) * len(VIEWS)
    (store,) = runs.stores()
    assert store.num_done == 12
    assert torch.equal(store.read(done, VIEWS)["logits"], before)


def test_of_two_runs_that_start_together_one_asks_and_the_other_waits(runs: Runs) -> None:
    started = [start(runs, meets=True), start(runs, "seed=1", meets=True)]
    for process, _ in started:
        process.join()
    outputs = [file.read_text() for _, file in started]
    assert [process.exitcode for process, _ in started] == [0, 0], outputs
    assert sorted(map(num_asked, outputs)) == [2 * len(VIEWS), 12 * len(VIEWS)]
    assert sum(waits(file) for _, file in started) == 1
    (store,) = runs.stores()
    assert store.num_done == 12


def test_a_run_waits_for_a_lock_and_takes_it_when_it_is_free(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = iter([False, False, True, True])
    monkeypatch.setattr(locks, "try_lock", lambda lock: next(tries))
    monkeypatch.setattr(locks, "POLL_SECONDS", 0)
    runs.run(CACHED, *ALONE)
    assert list(tries) == [True]


# --- mistakes, found before anything is loaded ----------------------------------------------------------------------------------


NOISE = "what the teacher says of a view cannot be kept. Take another one for the teacher, such as teacher.masker=drop, or set"
MISTAKES: dict[str, tuple[list[str], str]] = {
    "word": (["teacher.cache=raed"], r"teacher\.cache: wanted 'read', got 'raed'\. Did you mean 'read'\?"),
    "precision": ([CACHED, "teacher.cache_precision=fp16"], r"teacher\.cache_precision: wanted .*got 'fp16'"),
    "transforms": (
        [CACHED, "data.processors.image.augment=crop_flip"],
        r"data\.processors\.image: has random transforms, so the teacher sees another image in each epoch and its answers cannot "
        r"be kept\. Take them out, or set teacher\.cache=false\.",
    ),
    "noise": ([CACHED, "masker=noise"], rf"masker: noise draws what it shows, .*{NOISE}"),
    "other": ([CACHED, "masker=other"], rf"masker: other draws .*{NOISE}"),
    "nested noise": (
        [CACHED, "masker={type: by_modality, maskers: {image: noise}, otherwise: drop}"],
        rf"masker: by_modality .*{NOISE}",
    ),
    "noise of its own": ([CACHED, "teacher.masker=noise"], rf"teacher\.masker: noise draws .*{NOISE}"),
    "feature": (
        [CACHED, "teacher.cache_features=[fused.poold]"],
        r"teacher\.cache_features\[0\]: no feature 'fused\.poold' can be kept, only 'fused\.pooled'\. Did you mean",
    ),
    "features without a cache": (
        ["teacher.cache_features=[fused.pooled]"],
        r"teacher\.cache_features: are kept in a teacher cache only\. Set teacher\.cache=true",
    ),
    "no folder to read": (
        [READ],
        r"teacher\.cache_dir: there is no folder .*caches to read a cache from\. Set teacher\.cache=true\.",
    ),
    "file": ([CACHED, "teacher.cache_dir=CONFIG"], r"teacher\.cache_dir: .*tiny\.yaml is a file, wanted a folder\."),
    "under a file": ([CACHED, "teacher.cache_dir=CONFIG/a"], r"teacher\.cache_dir: .*tiny\.yaml/a cannot be made"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found_by_the_check(runs: Runs, name: str) -> None:
    words, text = MISTAKES[name]
    with pytest.raises(ConfigError, match=text) as error:
        runs.run(*(word.replace("CONFIG", str(runs.config)) for word in words), "run_type=check")
    assert len(error.value.problems) == 1


def test_noise_is_no_matter_where_nothing_is_hidden_or_the_teacher_is_spared_it(runs: Runs) -> None:
    assert runs.run(CACHED, "run_type=check", "masker=noise", "objective.views=[full]") == {}
    assert runs.run(CACHED, "run_type=check", "masker=noise", "teacher.masker=drop") == {}


def test_a_teacher_that_does_not_tell_its_summary_is_told(runs: Runs, tmp_path: Path) -> None:
    model = "model={type: unimodal_text, encoder: {type: transformer, hidden_size: 8, num_layers: 1, num_heads: 2}}"
    run(runs.config, [f"env.save_dir={tmp_path / 'text'}", model])
    runs.teacher = tmp_path / "text"
    words = [CACHED, "objective.views=[full]", "teacher.cache_features=[fused.pooled]", "run_type=check"]
    with pytest.raises(
        ConfigError, match=r"the teacher is a unimodal_text, which does not tell its fused\.pooled\. Leave cache_features"
    ):
        runs.run(*words)
    runs.run(CACHED, "objective.views=[full]", *ALONE)


def test_an_objective_that_does_not_tell_its_views_is_told(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DistillationObjective, "teacher_views", ())
    with pytest.raises(ConfigError, match=r"teacher\.cache: the objective distillation does not say which views it asks about"):
        runs.run(CACHED, "run_type=check")


# --- msd cache ------------------------------------------------------------------------------------------------------------------


def told(capfd: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capfd.readouterr()
    assert main(["cache", *words]) == code
    captured = capfd.readouterr()
    return captured.err if code else captured.out


def configured(runs: Runs, *more: str) -> list[str]:
    return [f"config={runs.config}", *runs.words(*more)]


def test_what_a_run_will_ask_is_filled_beforehand(
    runs: Runs, capfd: pytest.CaptureFixture[str], asked: Counter[tuple[str, str]]
) -> None:
    out = told(capfd, "build", *configured(runs))
    assert [line.split(": ")[1].split(" in ")[0] for line in out.splitlines()] == ["12 examples"] * 3
    assert sum(asked.values()) == 36 * len(VIEWS)
    assert not (runs.folder / f"student_{runs.number}").exists()
    assert not list(runs.caches.glob(".building*"))
    asked.clear()
    runs.run(READ)
    assert sum(asked.values()) == 3 * 2 * len(VIEWS)


def test_a_fitted_masker_is_the_same_for_the_build_as_for_the_run(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    mean = "masker={type: by_modality, maskers: {image: mean, text: drop}}"
    told(capfd, "build", *configured(runs, mean))
    runs.run(READ, mean)


def test_a_finished_runs_own_file_builds_its_cache(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    runs.run()
    told(capfd, "build", f"config={runs.folder / f'student_{runs.number}' / 'config.yaml'}")
    assert len(runs.stores("train")) == len(runs.stores("test_seen")) == 1


def test_what_is_kept_is_listed(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    runs.run(CACHED)
    out = told(capfd, "info", f"dir={runs.caches}")
    (row,) = (line for line in out.splitlines() if "hateful_memes test_seen" in line)
    assert re.search(r" full, image, text +12/12 +fp32 +[\d.]+ kB +20\d\d-\d\d-\d\d +today +$", row)
    (store,) = runs.stores("train")
    os.truncate(store.folder / "ids.bin", 3)
    other = next(path for path in runs.caches.glob("[!.]*") if path != store.folder)
    (other / "card.json").write_text("{}")
    out = told(capfd, "info", f"dir={runs.caches}")
    assert sum(" damaged " in line and "today" in line for line in out.splitlines()) == 2
    assert f"{other.name[:12]}: {other}/card.json: is of format None, wanted 1" in out


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert told(capfd, "info", f"dir={tmp_path}") == f"{tmp_path} holds no teacher cache.\n"


def test_rows_are_compared_with_the_teacher(own: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    text = told(capfd, "verify", *configured(own, *ALONE), code=2)
    assert "holds no answers to the split 'train'" in text
    assert "msd cache build config=" in text
    own.run(CACHED, *ALONE)
    out = told(capfd, "verify", *configured(own, *ALONE), "rows=7")
    found = re.fullmatch(
        r"the split 'train' .*: 7 rows compared, the largest difference is (\S+), (\d+) % of what rounding allows\.\n", out
    )
    assert found
    assert 0 < float(found[1]) < 1e-3
    assert 0 < int(found[2]) < 100
    shutil.copy(own.world / "img" / "0000.png", own.world / "img" / "0009.png")
    assert "row 9 (id '0009')" in told(capfd, "verify", *configured(own, *ALONE), code=2)


def test_only_what_is_old_goes_and_only_with_a_yes(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    runs.run(CACHED)
    (old,), (new,) = runs.stores("test_seen"), runs.stores("train")
    folder = f"dir={runs.caches}"
    assert "nothing in" in told(capfd, "prune", folder)
    month = time.time() - 40 * 24 * 3600
    os.utime(old.folder / "last_used", (month, month))
    left = runs.caches / ".new-left-behind"
    left.mkdir()
    os.utime(left, (month, month))
    listed = told(capfd, "prune", folder)
    assert "yes=true removes them" in listed
    assert f"{old.folder.name}  " in listed
    assert "last used 40 days ago" in listed
    assert new.folder.name not in listed
    assert old.folder.exists()
    assert left.exists()
    assert "removed from" in told(capfd, "prune", folder, "yes=true")
    assert not old.folder.exists()
    assert not left.exists()
    assert new.folder.exists()
    os.truncate(new.folder / "ids.bin", 1)
    assert new.folder.name in told(capfd, "prune", folder)  # a damaged one, however new


def test_a_store_that_is_being_filled_is_left_alone(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    runs.run(CACHED, *ALONE)
    (store,) = runs.stores()
    lock = FileLock(runs.caches / f".lock-{cache.lock_name(store.card.parts)}")
    lock.acquire()
    words = ["prune", f"dir={runs.caches}", f"only={store.folder.name[:6]}", "yes=true"]
    assert "is being filled and was left alone" in told(capfd, *words)
    assert store.folder.exists()
    lock.release()
    told(capfd, *words)
    assert not store.folder.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "msd cache takes info, build, verify, prune, got nothing."),
        (["prnue"], "msd cache takes info, build, verify, prune, got prnue. Did you mean 'prune'?"),
        (["info", "dri=a"], "command line: dri: no such option. Did you mean 'dir'? Options: dir."),
        (["prune", "dir=DIR", "older_than_days=old"], "command line: older_than_days: wanted float, got 'old'"),
        (["prune", "dir=DIR", "yes=1"], "command line: yes: wanted bool, got 1"),
        (["info", "dir=nowhere"], "dir: there is no folder nowhere; the caches of a run are in its teacher.cache_dir."),
        (["prune", "dir=DIR", "only=abc"], "only: no stores of DIR have names that begin with 'abc'."),
        (["build"], "config: wanted config=FILE once, got nothing."),
        (["verify", "config=CONFIG", "rows=many"], "command line: rows: wanted int, got 'many'"),
        (["build", "config=CONFIG"], "teacher.checkpoint: must be given: The folder of a finished run"),
    ],
)
def test_mistakes_are_sentences(
    words: list[str],
    said: str,
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)

    def filled(text: str) -> str:
        return text.replace("DIR", str(tmp_path)).replace("CONFIG", str(tiny_config))

    (line,) = told(capfd, *map(filled, words), code=2).splitlines()
    assert line.startswith(filled(said))


# --- the guide ------------------------------------------------------------------------------------------------------------------


def test_the_guide_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "teacher_cache.md"
    commands = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert len(commands) >= 7
    for command in commands:
        program, *words = shlex.split(command)
        few = ["sizes.train=64", "sizes.dev_seen=24", "sizes.test_seen=24"] if words[0] == "make-world" else []
        assert program == "msd"
        assert main([*words, *few]) == 0, f"{command}\n{capsys.readouterr().err}"
    script = "\n".join(blocks(page, "python"))
    exec(compile(script, str(page), "exec"), {})  # noqa: S102 -- the page is ours
