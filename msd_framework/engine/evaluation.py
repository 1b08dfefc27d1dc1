"""Predictions for every example of a split, on every view, and the metrics of them; a batch at a time, so that no split is held."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TypeVar

import torch
from torch import Tensor

from msd_framework.engine.distributed import World
from msd_framework.engine.precision import FP32, Precision
from msd_framework.errors import DataError, TrainingError
from msd_framework.metrics.base import CountedMetric, Metric
from msd_framework.randomness import random_state, random_state_kept, restore_random_state, seed_everything
from msd_framework.structures import Batch, check_logits, has_label
from msd_framework.views import FULL

PredictViews = Callable[[Batch, Sequence[str]], Tensor]  # gives logits [V, N, C] of V views of a batch

T = TypeVar("T")


@dataclass(frozen=True)
class Predictions:
    """What was predicted for N targets, of a batch or of a split, each target once."""

    places: Tensor  # where the example of each target stands in the split, int64 [N]
    targets: Tensor  # int64 [N] or float [N, C]; -100 or NaN where a blind test has none
    logits: Mapping[str, Tensor]  # float32 [N, C] by view
    # of each view that shows nothing of some example, the targets of the others, bool [N]
    shown: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def labelled(self) -> Tensor:
        """Which targets are known, bool [N]."""
        return has_label(self.targets)

    def at(self, rows: Tensor) -> Predictions:
        """Those of some rows, bool [N] or int64."""
        logits = {view: x[rows] for view, x in self.logits.items()}
        shown = {view: x[rows] for view, x in self.shown.items()}
        return Predictions(self.places[rows], self.targets[rows], logits, shown)

    def of(self, view: str) -> tuple[Tensor, Tensor]:
        """Logits [n, C] and targets [n] or [n, C] on a view, those of examples of which it shows something."""
        rows = self.shown.get(view)
        return (self.logits[view], self.targets) if rows is None else (self.logits[view][rows], self.targets[rows])


@dataclass(frozen=True)
class PredictedBatches:
    """Predictions of this process's share of a split: computed a batch at a time, as a loop goes through them, and kept nowhere.

    Random maskers draw from a stream of their own, so that what is measured does not depend on when it is. Padding is left out.
    """

    predict_views: PredictViews
    batches: Iterable[Batch]  # this process's share of the split
    views: Sequence[str]
    world: World
    precision: Precision = FP32  # the logits are float32 in any
    modalities: Sequence[str] = ()  # what the model takes; without it, each view counts as showing something of each example
    name: str = "the model"  # for sentences
    shown: Callable[[Batch, str], Tensor | None] | None = None  # which examples a view shows it something of; else as the student

    def __iter__(self) -> Iterator[Predictions]:
        """The predictions of each batch, on the CPU."""
        stream, device = _RandomStream(self.world.device), self.world.device
        num_before = 0
        for batch in self.batches:
            with torch.no_grad(), stream.drawn_from(), self.precision.active(device):
                logits = self.predict_views(batch.to(device), self.views)  # [V, N, C]
                logits = check_logits(logits, batch, self.name).float().cpu()
            if not logits.isfinite().all():
                raise TrainingError(
                    "the model predicts values that are not finite: training went wrong. Lower optimizer.lr, or set "
                    "training.clip_norm."
                )
            places = batch.spread(torch.tensor(batch.places or range(num_before, num_before + len(batch))))
            num_before += len(batch)
            predictions = Predictions(places, batch.targets.cpu(), dict(zip(self.views, logits)), self._shown(batch))
            yield predictions if batch.is_target is None else predictions.at(batch.is_target)

    def _shown(self, batch: Batch) -> dict[str, Tensor]:
        if not self.modalities:
            return {}
        shown, look = {}, self.shown or (lambda batch, view: batch.shown(view, self.modalities))
        for view in self.views:
            examples = None if view == FULL else look(batch, view)
            if examples is not None:
                shown[view] = batch.spread(examples).cpu()
        return shown

    def together(self) -> Predictions:
        """Predictions of all examples on each process, in the split's order: for splits that fit into memory."""
        return _gathered(list(self), self.world)


def predict(
    predict_views: PredictViews,
    batches: Iterable[Batch],
    views: Sequence[str],
    world: World,
    precision: Precision = FP32,
    modalities: Sequence[str] = (),
    name: str = "the model",
) -> PredictedBatches:
    """Predictions of a split for `measure` or a loop, as `PredictedBatches` says; nothing is computed before."""
    return PredictedBatches(predict_views, batches, views, world, precision, modalities, name)


def measure(predictions: PredictedBatches | Predictions, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Every metric of every view; those of views other than the full one are named ``<view>/<metric>``."""
    measures = Measures(metrics)
    for batch in [predictions] if isinstance(predictions, Predictions) else predictions:
        measures.add(batch)
    world = World() if isinstance(predictions, Predictions) else predictions.world
    if not measures.seen(world)[1]:
        raise DataError("no example of this split has a label, as in a blind test; use run_type=predict.")
    return measures.values(world)


class Measures:
    """The metrics of a split, of which each process sees a share, a batch at a time; over its known targets.

    Counts are added up; logits are kept only where a metric needs all of them at once, as a ranking does.
    A view other than the full one is measured on the examples of which it shows something; of none, a metric is NaN.
    """

    def __init__(self, metrics: Mapping[str, Metric]):
        self.metrics = metrics
        self.num_examples = self.num_labelled = 0  # examples that this process has seen, and their targets that are known
        # by view and metric; None of a view that has shown nothing yet
        self._counts: dict[tuple[str, str], Tensor | None] = {}
        self._kept: list[Predictions] = []
        self._needs_all = not all(isinstance(metric, CountedMetric) for metric in metrics.values())

    def add(self, predictions: Predictions) -> None:
        """Counts a batch in."""
        known = predictions.labelled
        self.num_examples += len(set(predictions.places.tolist()))
        self.num_labelled += int(known.sum())
        if not known.any():
            return
        predictions = predictions if known.all() else predictions.at(known)
        for view in predictions.logits:
            logits, targets = predictions.of(view)
            for name, metric in self.metrics.items():
                if isinstance(metric, CountedMetric):
                    counts = metric.count(logits, targets) if len(targets) else None
                    self._counts[view, name] = _added(self._counts.get((view, name)), counts)
        if self._needs_all:
            self._kept.append(predictions)

    def seen(self, world: World) -> tuple[int, int]:
        """How many examples all processes have seen, and how many of their targets are known."""
        examples, labelled = map(sum, zip(*world.gather((self.num_examples, self.num_labelled))))
        if not examples:
            raise DataError("the split has no example to evaluate.")
        return examples, labelled

    def values(self, world: World) -> dict[str, float]:
        """The metrics over what all processes have seen, the same ones on each of them."""
        totals: dict[tuple[str, str], Tensor | None] = {}
        for counts in world.gather(self._counts):
            for key, count in counts.items():
                totals[key] = _added(totals.get(key), count)
        whole = _gathered(self._kept, world) if self._needs_all else None
        views = whole.logits if whole else dict.fromkeys(view for view, _ in totals)
        values: dict[str, float] = {}
        for view in views:
            for name, metric in self.metrics.items():
                label = name if view == FULL else f"{view}/{name}"
                if isinstance(metric, CountedMetric):
                    total = totals[view, name]
                    values[label] = math.nan if total is None else float(metric.value(total))
                elif whole is not None:
                    logits, targets = whole.of(view)
                    values[label] = float(metric(logits, targets)) if len(targets) else math.nan
        return values


def _added(total: Tensor | None, count: Tensor | None) -> Tensor | None:
    if total is None or count is None:
        return count if total is None else total
    return total + count


def in_step(batches: Iterable[Batch]) -> tuple[Iterator[Batch], Iterator[Batch]]:
    """The same batches twice: the second iterator is always at the batch that the first one was last at.

    `itertools.tee` would hold on to 57 of them.
    """
    last: list[Batch] = []

    def first() -> Iterator[Batch]:
        for batch in batches:
            last[:] = [batch]
            yield batch

    def second() -> Iterator[Batch]:
        while True:
            yield last[0]

    return first(), second()


def in_order(batches: Iterable[Sequence[tuple[int, T]]], world: World) -> Iterator[T]:
    """The results of all processes for their shares of a split, in its order, on each process; none holds more than a few batches.

    `batches` are, of each batch of this process's share, the place of each target's example, which only rises, and its result.
    Every process must go through to the end.
    """
    mine = iter(batches)
    waiting: list[tuple[int, int, T]] = []
    arrived = 0
    while True:
        shares = world.gather(next(mine, None))
        for share in shares:
            for place, result in share or ():
                # the heap compares results of one place by when they arrived, never themselves
                arrived += 1
                heappush(waiting, (place, arrived, result))
        # every process that is not done goes on behind the last place that it has sent
        reached = min((share[-1][0] for share in shares if share), default=math.inf)
        while waiting and waiting[0][0] <= reached:
            yield heappop(waiting)[2]
        if all(share is None for share in shares):
            return


class _RandomStream:
    """Random numbers that begin with seed 0, apart from the run's."""

    def __init__(self, device: torch.device):
        self.device = device
        self.state: dict[str, Tensor] | None = None

    @contextmanager
    def drawn_from(self) -> Iterator[None]:
        """A context that goes on drawing where the last one ended."""
        with random_state_kept(self.device):
            if self.state is None:
                seed_everything(0)
            else:
                restore_random_state(self.state)
            yield
            self.state = random_state(self.device)


def _gathered(mine: Sequence[Predictions], world: World) -> Predictions:
    shares = [share for share in world.gather(_joined(mine) if mine else None) if share is not None]
    if not shares:
        raise DataError("the split has no example to evaluate.")
    whole = _joined(shares)
    return whole.at(whole.places.argsort(stable=True))


def _joined(parts: Sequence[Predictions]) -> Predictions:
    shown = {}
    for view in parts[0].logits:
        if any(view in part.shown for part in parts):
            everyone = [torch.ones_like(part.places, dtype=torch.bool) for part in parts]
            shown[view] = torch.cat([part.shown.get(view, rows) for part, rows in zip(parts, everyone)])
    return Predictions(
        torch.cat([part.places for part in parts]),
        torch.cat([part.targets for part in parts]),
        {view: torch.cat([part.logits[view] for part in parts]) for view in parts[0].logits},
        shown,
    )
