"""The cached outputs of a run's teacher: read from disk, or computed once by one run while the others wait."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor

from msd_framework.build.cache_key import CacheKey, nearest, stores
from msd_framework.data.base import MultimodalDataset
from msd_framework.data.batches.loader import EvaluationBatches
from msd_framework.data.batches.subset import Subset
from msd_framework.engine.distributed import World
from msd_framework.engine.locks import locked
from msd_framework.engine.precision import BF16, FP32, GAIN, PRECISIONS, Precision, median_seconds
from msd_framework.errors import CacheError, MSDError
from msd_framework.files import naming
from msd_framework.screen import bar, say, shown_bytes
from msd_framework.structures import Batch, ModelOutput, Outcomes, probabilities
from msd_framework.teachers.cached import Opened
from msd_framework.teachers.filling import Comparison, compare, fill, outputs_to_store
from msd_framework.teachers.live import LiveTeacher
from msd_framework.teachers.store import DONE, MISSING, Card, Layout, Rows, TeacherStore, Writer, chunks, hashes, how_to_remove
from msd_framework.views import TURN, recombines

NUM_VERIFIED = 2  # rows that are compared with the teacher whenever a store is opened
PROBED_ROWS = 4096  # rows below which outputs are computed in fp32 without measuring whether bf16 would be faster
PROBED_BATCHES = 3
BF16_BOUND = 0.01  # the largest error of a probability (total variation) with which bf16 is taken

T = TypeVar("T")


@dataclass(frozen=True)
class CachedSplit:
    """A split, and the store of a teacher's outputs for it."""

    key: CacheKey  # a store is found by it alone
    dataset: MultimodalDataset
    batches: Callable[[MultimodalDataset], EvaluationBatches]  # examples as the teacher sees them, whole on each process
    teacher: Callable[[], LiveTeacher]  # its weights are loaded at the first call
    try_out: Callable[[], None]  # runs the teacher on rows that may be too much for it, before all others
    world: World
    folder: Path  # where stores lie
    may_fill: bool  # whether missing outputs are computed; it is an error if not
    outcomes: Outcomes  # how the teacher's logits are read
    batch_size: int
    seed: int  # chooses the rows of a store that are compared with the teacher

    def open(self) -> Opened:
        """The split's store with all outputs in it."""
        path = self.from_first(self.find_complete)
        store = self._open_complete(path) if path else self._open_filled()
        store.touch()
        unanswered = np.flatnonzero(marks_of(store, rows_of(store, self.dataset)) != DONE)
        classify = None if store.layout.num_classes else self.teacher().model.classify
        return Opened(store, classify, tuple(unanswered.tolist()))

    def find_complete(self) -> Path | None:
        """The folder of a store that has all the outputs, if there is one."""
        matching: list[Path] = []
        for path, card in stores(self.folder):
            if isinstance(card, Card) and self.key.matches(card):
                matching.append(path)
            elif isinstance(card, CacheError) and path.name in self._own_names:
                raise card
        for path in sorted(matching, key=lambda path: path.name not in self._own_names):
            store = TeacherStore(path)
            rows = rows_of(store, self.dataset)
            if (rows >= 0).all() and (store.marks[rows] != MISSING).all():
                return path
        return None

    @property
    def _own_names(self) -> list[str]:
        """The names of the stores that are made for the key, one for each precision."""
        return [self.key.card(precision).fingerprint for precision in self.key.precisions]

    def _open_complete(self, path: Path) -> TeacherStore:
        store = self._open_everywhere(path)
        self.from_first(lambda: self.verify(store))
        return store

    def _open_filled(self) -> TeacherStore:
        """The store once it is filled, by this run or by another one that has the lock."""
        if not self.may_fill:
            raise self.missing_error()
        self.from_first(lambda: self.folder.mkdir(parents=True, exist_ok=True))
        waiting = partial(self._log, f"teacher cache: another process asks about {self.description}; waiting for it.")
        with naming(self.folder), locked(self.world, self.folder / f".lock-{self.key.lock}", waiting):
            path = self.from_first(self.find_complete)
            if path:  # the run that had the lock has filled it
                return self._open_complete(path)
            self.try_out()
            store = self._open_everywhere(self.from_first(self._prepare))
            self._fill(store)
            self.world.wait()
            if self.world.is_first:
                store.settle()
            self.world.wait()
        store.reopen()
        return store

    def _prepare(self) -> Path:
        """A store with a row for each example, new or resumed; for the first process alone."""
        store = next((TeacherStore(self.folder / name) for name in self._own_names if (self.folder / name).is_dir()), None)
        if store is None:
            missing, hint = np.arange(len(self.dataset)), self._nearest_differs()
        else:
            missing, hint = np.flatnonzero(marks_of(store, rows_of(store, self.dataset)) == MISSING), ""
        self._log(f"{self.size(len(missing))} {hint}")
        if len(missing) * self.key.layout.row_bytes > self._free_bytes():
            hint = "Make room, name another teacher.cache_dir, or leave teacher.cache_features out."
            raise CacheError(f"{self.size(len(missing))} {hint}")
        if store is None:
            store = TeacherStore.create(self.folder, self.key.card(self._choose_precision(missing)))
        elif store.num_done:
            self.verify(store)
        store.add(self.dataset[i].id for i in range(len(self.dataset)))
        return store.folder

    def _fill(self, store: TeacherStore) -> None:
        """Computes this process's share of the missing outputs."""
        rows = rows_of(store, self.dataset)
        missing = np.flatnonzero(store.marks[rows] == MISSING)
        self.world.wait()  # all know what is missing before anybody changes it
        mine = share(missing, self.batch_size, self.world.rank, self.world.size)
        if not len(mine):
            return
        precision = PRECISIONS[store.card.parts["precision"]]
        predict = partial(self._predict, layout=store.layout, precision=precision)
        started = time.monotonic()
        with Writer(store) as writer, bar(f"asking the teacher ({self.key.use})", len(mine), self.world.is_first) as advance:
            fill(writer, predict, self._batches_of(mine), rows[mine], advance)
        seconds = f"{time.monotonic() - started:.1f} s"
        self._log(f"teacher cache: asked about {len(missing):,} examples of {self.description}, in {precision.name} and {seconds}.")

    def verify(self, store: TeacherStore, num_rows: int = NUM_VERIFIED) -> list[Comparison]:
        """Compares random rows with what the teacher predicts now."""
        rows = rows_of(store, self.dataset)
        done = np.flatnonzero(marks_of(store, rows) == DONE)
        chance = np.random.default_rng(self.seed)
        places = np.sort(chance.choice(done, min(num_rows, len(done)), replace=False))
        precision, layout = store.card.parts["precision"], replace(store.layout, views=self.key.layout.views)
        comparisons = []
        for batch in self._batches_of(places):
            batch_rows = rows[places[list(batch.places)]]
            output = self._predict(batch, layout, PRECISIONS[precision])
            comparison = compare(store, batch_rows, output, layout.views, precision)
            if comparison.wrong.any():
                raise self._stale_error(store, batch, batch_rows, comparison)
            comparisons.append(comparison)
        return comparisons

    def _stale_error(self, store: TeacherStore, batch: Batch, rows: Rows, comparison: Comparison) -> CacheError:
        view, example = map(int, comparison.wrong.nonzero()[0])
        stored, live = comparison.stored[view, example], comparison.live[view, example]
        number = int((stored - live).abs().argmax())
        what, name = "logit of class" if store.layout.num_classes else "feature", self.key.layout.views[view]
        return CacheError(
            f"row {rows[example]} (id {batch.ids[example]!r}) of the teacher cache {store.folder} says "
            f"{float(stored[number]):.4f} for {what} {number} of the view {name}, the teacher says {float(live[number]):.4f}: "
            f"the images or features behind the data set's files have changed since {store.card.created[:10]}. "
            f"{how_to_remove(store.folder)}"
        )

    def missing_error(self) -> CacheError:
        """The error of outputs that are not there and may not be computed."""
        hint = "Fill it with `msd cache build config=...`, or set teacher.cache=true."
        return CacheError(f"teacher.cache: {self.folder} holds no answers to {self.description}. {self._nearest_differs()}{hint}")

    def _nearest_differs(self) -> str:
        text = nearest(self.key, self.folder)
        return f"It {text} " if text else ""

    def _predict(self, batch: Batch, layout: Layout, precision: Precision) -> ModelOutput:
        device = self.world.device
        with precision.active(device):
            return outputs_to_store(self.teacher(), batch.to(device), layout)

    def _batches_of(self, places: Rows) -> EvaluationBatches:
        """Some examples in batches; a batch's places are those in the list of them."""
        return self.batches(Subset(self.dataset, places))

    def _choose_precision(self, missing: Rows) -> str:
        """The precision of the outputs: of several, bf16 if it pays on this machine."""
        if len(self.key.precisions) == 1:
            return self.key.precisions[0]
        if len(missing) < PROBED_ROWS:
            return FP32.name
        errors, batches = list[float](), list(self._batches_of(missing[: PROBED_BATCHES * self.batch_size]))
        for batch in batches:
            exact, fast = (self._predict(batch, self.key.layout, p).logits.float() for p in (FP32, BF16))
            errors.append(_distance(exact, fast, self.outcomes))

        def step(precision: Precision) -> tuple[Tensor, tuple[()]]:
            return self._predict(batches[0], self.key.layout, precision).logits.sum(), ()

        slow_seconds, fast_seconds = median_seconds((FP32, BF16), repeat(step), self.world.device)
        gain, error = slow_seconds / fast_seconds, max(errors)
        chosen = BF16 if gain >= GAIN and error <= BF16_BOUND else FP32
        measured = f"bf16 {gain:.2f} x fp32, probabilities off by {error:.1e} at most, allowed {BF16_BOUND:g}"
        self._log(f"teacher cache: answers are computed in {chosen.name} ({measured}).")
        return chosen.name

    @property
    def description(self) -> str:
        """The split and the views, for messages."""
        parts, views = self.key.parts, list[str]()
        for name, turns in Counter(view.partition(TURN)[0] for view in self.key.parts["views"]).items():
            views.append(f"{name} ({turns} other rows)" if recombines(name) else name)
        return f"the split {parts['data.split']!r} in the views {', '.join(views)}"

    def size(self, num_rows: int) -> str:
        """What so many missing rows will take, and how much room there is."""
        layout, more = self.key.layout, "" if num_rows == len(self.dataset) else " more"
        return (
            f"teacher cache: {self.description} will take {shown_bytes(num_rows * layout.row_bytes)}{more}: "
            f"{num_rows:,} examples x {layout.row_size}; {shown_bytes(self._free_bytes())} are free."
        )

    def _free_bytes(self) -> int:
        existing = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        return shutil.disk_usage(existing).free

    def _open_everywhere(self, path: Path) -> TeacherStore:
        """Opens a store on all processes; the first one's folder may not be there on another's machine."""
        blind = [rank for rank, sees in enumerate(self.world.gather(path.is_dir())) if not sees]
        if blind:
            text = f"process {blind[0]} does not see {path.absolute()}, which process 0 has made"
            raise CacheError(f"teacher.cache_dir: {text}. Name a folder that all machines share.")
        return TeacherStore(path)

    def from_first(self, decide: Callable[[], T]) -> T:
        """Calls a function on the first process; its path is returned, and its error raised, on all of them."""
        value: T | None = None
        error: MSDError | None = None
        if self.world.is_first:
            try:
                value = decide()
            except MSDError as raised:
                error = raised
        text, path = self.world.gather((str(error) if error else "", value if isinstance(value, Path) else None))[0]
        if error is not None:
            raise error
        if text:
            raise CacheError(text)
        return value if self.world.is_first else path  # type: ignore[return-value]

    def _log(self, text: str) -> None:
        if self.world.is_first:
            say(text.strip())


def _distance(a: Tensor, b: Tensor, outcomes: Outcomes) -> float:
    """The largest error of the probabilities of a prediction."""
    apart = (probabilities(a, outcomes) - probabilities(b, outcomes)).abs()
    return float(apart.sum(-1).max() / 2 if outcomes == "softmax" else apart.max())


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
    """The mark of each row, MISSING where it is -1."""
    marks: Rows = np.full(len(rows), MISSING, np.int64)
    marks[rows >= 0] = store.marks[rows[rows >= 0]]
    return marks


def share(places: Rows, batch_size: int, rank: int, size: int) -> Rows:
    """The places of a process: whole batches, dealt like cards, so that any number of processes computes the same ones."""
    mine: Rows = places[np.arange(len(places)) // batch_size % size == rank]
    return mine
