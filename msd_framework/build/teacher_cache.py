"""The cached answers of a run's teacher: found on disk, or asked for once by one run while the others wait."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from msd_framework.build.cache_key import Question, nearest, stores
from msd_framework.data.base import MultimodalDataset
from msd_framework.data.batches.loader import EvaluationBatches
from msd_framework.data.batches.subset import Subset
from msd_framework.engine.distributed import World
from msd_framework.engine.precision import BF16, FP32, GAIN, PRECISIONS, Precision, median_seconds
from msd_framework.engine.random_state import random_state, restore_random_state
from msd_framework.errors import CacheError, MSDError
from msd_framework.files import naming
from msd_framework.screen import bar, say, shown_bytes
from msd_framework.structures import Batch, ModelOutput, Outcomes, probabilities
from msd_framework.teachers.cached import Opened
from msd_framework.teachers.filling import Compared, ask, compare, fill
from msd_framework.teachers.live import LiveTeacher
from msd_framework.teachers.store import DONE, MISSING, Card, Layout, Rows, TeacherStore, Writer, chunks, hashes, mend

NUM_VERIFIED = 2
"""Rows that are compared with the teacher whenever a store is opened."""

PROBED_ROWS = 4096
"""Rows below which answers are computed in fp32 without measuring whether bf16 would be faster."""

PROBED_BATCHES = 3
BF16_BOUND = 0.01
"""The largest error of a probability with which answers are computed in bf16, as a total variation distance."""

POLL_SECONDS = 0.5

T = TypeVar("T")


def opened(split: Callable[[], CachedSplit], device: torch.device) -> Opened:
    """The answers to a split, asked for if need be; the run's random numbers know nothing of it.

    Raises:
        CacheError: if the store is damaged, out of date, or not there and not to be filled.
    """
    state = random_state(device)
    try:
        return split().opened()
    finally:
        restore_random_state(state)


@dataclass(frozen=True)
class CachedSplit:
    """A split, and the store of a teacher's answers to it.

    Args:
        asked: what the teacher is asked; a store that answers it is found by this alone.
        dataset: the split's examples.
        batches: examples in batches, as the teacher sees them, whole on each process.
        teacher: the teacher with its weights, which are loaded at the first call.
        try_out: asks the teacher about rows that may be too much for it, before all others are asked.
        world: this process among all.
        folder: where stores lie.
        may_fill: whether what is missing is asked for; it is an error if not.
        outcomes: how the teacher's logits are read.
        batch_size: examples that it is asked about at once.
        seed: chooses the rows of a store that are compared with the teacher.
    """

    asked: Question
    dataset: MultimodalDataset
    batches: Callable[[MultimodalDataset], EvaluationBatches]
    teacher: Callable[[], LiveTeacher]
    try_out: Callable[[], None]
    world: World
    folder: Path
    may_fill: bool
    outcomes: Outcomes
    batch_size: int
    seed: int

    def opened(self) -> Opened:
        """The split's store with all answers in it.

        Raises:
            CacheError: if it is damaged, out of date, or not there and not to be filled.
        """
        path = self.first_says(self.complete)
        store = self.checked(path) if path else self.filled()
        store.touch()
        unanswered = np.flatnonzero(marks_of(store, rows_of(store, self.dataset)) != DONE)
        classify = None if store.layout.num_classes else self.teacher().model.classify
        return Opened(store, classify, tuple(unanswered.tolist()))

    def filled(self) -> TeacherStore:
        """The store once every example has been asked about, by this run or by another one that was at it."""
        if not self.may_fill:
            raise self.missing()
        self.first_says(lambda: self.folder.mkdir(parents=True, exist_ok=True))
        with naming(self.folder), locked(self.world, self.folder / f".lock-{self.asked.lock}", self.say_waiting):
            path = self.first_says(self.complete)
            if path:  # by whoever we waited for
                return self.checked(path)
            self.try_out()  # what it cannot take is told before all others are asked
            store = self.seen(self.first_says(self.prepare))
            self.fill(store)
            self.world.wait()
            if self.world.is_first:
                store.settle()
            self.world.wait()
        store.reopen()
        return store

    def missing(self) -> CacheError:
        """What to do about answers that are not there."""
        hint = "Fill it with `msd cache build config=...`, or set teacher.cache=true."
        return CacheError(f"teacher.cache: {self.folder} holds no answers to {self.told}. {self.what_differs()}{hint}")

    def checked(self, path: Path) -> TeacherStore:
        """A complete store, two of whose rows are compared with what the teacher says now."""
        store = self.seen(path)
        self.first_says(lambda: self.verify(store))
        return store

    def complete(self) -> Path | None:
        """The folder of a store that has all the answers, if there is one."""
        for path in self.stores():
            store = TeacherStore(path)
            rows = rows_of(store, self.dataset)
            if (rows >= 0).all() and (store.marks[rows] != MISSING).all():
                return path
        return None

    def stores(self) -> list[Path]:
        """Stores whose answers are those that are asked for, though perhaps not yet to every example."""
        found: list[Path] = []
        for path, card in stores(self.folder):
            if isinstance(card, Card) and self.asked.is_answered_by(card):
                found.append(path)
            elif isinstance(card, CacheError) and path.name in self.names:
                raise card
        return sorted(found, key=lambda path: path.name not in self.names)

    @property
    def names(self) -> dict[str, str]:
        """The precisions that the answers may have, by the name of the store that is made for each."""
        return {self.asked.card(p).fingerprint: p for p in self.asked.precisions}

    def prepare(self) -> Path:
        """A store with a row for each example, new or gone on with; for the first process alone."""
        begun = next((TeacherStore(self.folder / name) for name in self.names if (self.folder / name).is_dir()), None)
        rows = rows_of(begun, self.dataset) if begun else np.full(len(self.dataset), -1)
        missing = np.flatnonzero(rows < 0 if begun is None else marks_of(begun, rows) == MISSING)
        self.say(f"{self.size(len(missing))} {'' if begun else self.what_differs()}")
        self.check_room(len(missing))
        if begun is None:
            precision = self.precision(missing)
            begun = TeacherStore.create(self.folder, self.asked.card(precision))
        elif begun.num_done:
            self.verify(begun)
        begun.add(self.dataset[i].id for i in range(len(self.dataset)))
        return begun.folder

    def fill(self, store: TeacherStore) -> None:
        """Asks the teacher about this process's share of the examples that have no answer."""
        rows = rows_of(store, self.dataset)
        missing = np.flatnonzero(store.marks[rows] == MISSING)
        self.world.wait()  # all know what is missing before anybody changes it
        mine = share(missing, self.batch_size, self.world.rank, self.world.size)
        if not len(mine):
            return
        precision = PRECISIONS[store.card.parts["precision"]]
        batches = self.batches_of(mine)
        say = partial(self.live_answer, layout=store.layout, precision=precision)
        started = time.monotonic()
        with Writer(store) as writer, bar(f"asking the teacher ({self.asked.use})", len(mine), self.world.is_first) as advance:
            fill(writer, say, batches, rows[mine], advance)
        seconds = f"{time.monotonic() - started:.1f} s"
        self.say(f"teacher cache: asked about {len(missing):,} examples of {self.told}, in {precision.name} and {seconds}.")

    def verify(self, store: TeacherStore, num_rows: int = NUM_VERIFIED) -> list[Compared]:
        """Compares random rows with what the teacher says now.

        Raises:
            CacheError: if they differ by more than rounding.
        """
        rows = rows_of(store, self.dataset)
        done = np.flatnonzero(marks_of(store, rows) == DONE)
        chance = np.random.default_rng(self.seed)
        places = np.sort(chance.choice(done, min(num_rows, len(done)), replace=False))
        precision, asked = store.card.parts["precision"], replace(store.layout, views=self.asked.layout.views)
        found = []
        for batch in self.batches_of(places):
            mine = rows[places[list(batch.places)]]
            said = self.live_answer(batch, asked, PRECISIONS[precision])
            compared = compare(store, mine, said, asked.views, precision)
            if compared.wrong.any():
                raise self.stale(store, batch, mine, compared)
            found.append(compared)
        return found

    def stale(self, store: TeacherStore, batch: Batch, rows: Rows, compared: Compared) -> CacheError:
        """What is wrong with a store that says something else than the teacher."""
        view, example = (int(i) for i in compared.wrong.nonzero()[0])
        number = int((compared.stored - compared.said)[view, example].abs().argmax())
        kept, said = (float(x[view, example, number]) for x in (compared.stored, compared.said))
        what, where = "logit of class" if store.layout.num_classes else "feature", self.asked.layout.views[view]
        return CacheError(
            f"row {rows[example]} (id {batch.ids[example]!r}) of the teacher cache {store.folder} says {kept:.4f} for {what} "
            f"{number} of the view {where}, the teacher says {said:.4f}: the images or features behind the data set's files have "
            f"changed since {store.card.created[:10]}. {mend(store.folder)}"
        )

    def live_answer(self, batch: Batch, layout: Layout, precision: Precision) -> ModelOutput:
        """What the teacher says of a batch."""
        device = self.world.device
        with precision.active(device):
            return ask(self.teacher(), batch.to(device), layout)

    def batches_of(self, places: Rows) -> EvaluationBatches:
        """Some examples in batches; a batch's places are those in the list of them."""
        return self.batches(Subset(self.dataset, places))

    def precision(self, missing: Rows) -> str:
        """What the answers are computed in; where `auto` is asked for, what pays on this machine."""
        if len(self.asked.precisions) == 1:
            return self.asked.precisions[0]
        if len(missing) < PROBED_ROWS:
            return FP32.name
        batches = list(self.batches_of(missing[: PROBED_BATCHES * self.batch_size]))
        answers = {p.name: [self.live_answer(b, self.asked.layout, p).logits.float() for b in batches] for p in (FP32, BF16)}
        error = max(_distance(a, b, self.outcomes) for a, b in zip(*answers.values()))

        def step(precision: Precision) -> tuple[Tensor, tuple[()]]:
            return self.live_answer(batches[0], self.asked.layout, precision).logits.sum(), ()

        slow, fast = median_seconds((FP32, BF16), repeat(step), self.world.device)
        chosen = BF16 if slow >= GAIN * fast and error <= BF16_BOUND else FP32
        found = f"bf16 {slow / fast:.2f} x fp32, probabilities off by {error:.1e} at most, allowed {BF16_BOUND:g}"
        self.say(f"teacher cache: answers are computed in {chosen.name} ({found}).")
        return chosen.name

    @property
    def told(self) -> str:
        """The question in words."""
        parts = self.asked.parts
        return f"the split {parts['data.split']!r} in the views {', '.join(parts['views'])}"

    def what_differs(self) -> str:
        """In what the question differs from the store that comes nearest, as a sentence."""
        found = nearest(self.asked, self.folder)
        return f"It {found} " if found else ""

    def size(self, num_rows: int) -> str:
        """What the answers that are missing will take, and how much room there is."""
        layout, more = self.asked.layout, "" if num_rows == len(self.dataset) else " more"
        return (
            f"teacher cache: {self.told} will take {shown_bytes(num_rows * layout.row_bytes)}{more}: {num_rows:,} examples x "
            f"{layout.told}; {shown_bytes(shutil.disk_usage(existing(self.folder)).free)} are free."
        )

    def check_room(self, num_rows: int) -> None:
        """Refuses to begin what the disk has no room for.

        Raises:
            CacheError: if it has none.
        """
        if num_rows * self.asked.layout.row_bytes > shutil.disk_usage(existing(self.folder)).free:
            hint = "Make room, name another teacher.cache_dir, or leave teacher.cache_features out."
            raise CacheError(f"{self.size(num_rows)} {hint}")

    def seen(self, path: Path) -> TeacherStore:
        """The store, as this process sees it.

        Raises:
            CacheError: if a process does not see the first one's folder.
        """
        blind = [rank for rank, sees in enumerate(self.world.gather(path.is_dir())) if not sees]
        if blind:
            raise CacheError(
                f"teacher.cache_dir: process {blind[0]} does not see {path.absolute()}, which process 0 has made. "
                f"Name a folder that all machines share."
            )
        return TeacherStore(path)

    def first_says(self, decide: Callable[[], T]) -> T:
        """What the first process finds, on all of them; what it raises, all raise."""
        value: T | None = None
        error: MSDError | None = None
        if self.world.is_first:
            try:
                value = decide()
            except MSDError as raised:
                error = raised
        text, found = self.world.gather((str(error) if error else "", value if isinstance(value, Path) else None))[0]
        if error is not None:
            raise error
        if text:
            raise CacheError(text)
        return value if self.world.is_first else found  # type: ignore[return-value]

    def say_waiting(self) -> None:
        self.say(f"teacher cache: another process asks about {self.told}; waiting for it.")

    def say(self, text: str) -> None:
        if self.world.is_first and text:
            say(text.strip())


def rows_of(store: TeacherStore, dataset: MultimodalDataset) -> Rows:
    """The row of each example, int64 [N]; -1 where there is none.

    A store's content is part of its name, so where a few ids are in their places, all are; look-ups check each one anyway.
    """
    length = len(dataset)
    sample = np.unique(np.linspace(0, length - 1, min(length, 64)).astype(np.int64))
    if length <= store.num_rows and (store.keys[sample] == hashes(dataset[int(i)].id for i in sample)).all():
        return np.arange(length)
    ids = (dataset[i].id for i in range(length))
    return np.concatenate([store.find(hashes(chunk)) for chunk in chunks(ids)])


def marks_of(store: TeacherStore, rows: Rows) -> Rows:
    """What is known of each row, those that are not there included."""
    known: Rows = np.full(len(rows), MISSING, np.int64)
    known[rows >= 0] = store.marks[rows[rows >= 0]]
    return known


def share(places: Rows, batch_size: int, rank: int, size: int) -> Rows:
    """The places that a process asks about: whole batches, dealt like cards, so that any number of processes asks the same ones.

    >>> share(np.arange(7), 2, 1, 2).tolist()
    [2, 3, 6]
    """
    mine: Rows = places[np.arange(len(places)) // batch_size % size == rank]
    return mine


@contextmanager
def locked(world: World, file: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the lock of a file, which one run at a time can have; the system frees it when the process ends, however that ends."""
    lock = FileLock(file, mode=0o666)  # several users may share the folder
    is_waiting = False
    try:
        # the others poll with the first process: one collective that waits for hours would run into its timeout
        while not world.gather(not world.is_first or try_lock(lock))[0]:
            if not is_waiting:
                waiting()
            is_waiting = True
            time.sleep(POLL_SECONDS)
        yield
    finally:
        lock.release()


def try_lock(lock: FileLock) -> bool:
    """Takes a lock, unless another process has it."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def existing(folder: Path) -> Path:
    """A folder, or the nearest one above it that is there."""
    return next(p for p in (folder, *folder.absolute().parents) if p.exists())


def _distance(a: Tensor, b: Tensor, outcomes: Outcomes) -> float:
    """The largest error of the probabilities of a prediction."""
    apart = (probabilities(a, outcomes) - probabilities(b, outcomes)).abs()
    return float(apart.sum(-1).max() / 2 if outcomes == "softmax" else apart.max())
