"""Predictions for every example of a split, on every view, and the metrics of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msd_framework.engine.distributed import World
from msd_framework.errors import DataError, TrainingError
from msd_framework.metrics.base import Metric
from msd_framework.structures import FULL, Batch

Ask = Callable[[Batch, Sequence[str]], Tensor]
"""Logits [V, B, C] of some views of a batch: a student's, or a teacher's."""


@dataclass(frozen=True)
class Predictions:
    """What was predicted for a split, each example once, in the split's order.

    Args:
        ids: N names.
        targets: int64 [N] or float [N, C]; -100 or NaN where a blind test has none.
        logits: float [N, C] by view.
    """

    ids: tuple[str, ...]
    targets: Tensor
    logits: Mapping[str, Tensor]

    @property
    def labelled(self) -> Tensor:
        """Which examples have a target, bool [N]."""
        return ~self.targets.isnan().any(1) if self.targets.is_floating_point() else self.targets != -100


@torch.no_grad()
def predict(ask: Ask, batches: Iterable[Batch], views: Sequence[str], world: World) -> Predictions:
    """Predictions of all examples, gathered from all processes on each of them.

    Random maskers draw from a stream of their own, so that what is measured does not depend on when it is.

    Raises:
        DataError: if the split is empty.
        TrainingError: if a prediction is not finite.
    """
    read: list[Batch] = []
    said: list[Tensor] = []
    with torch.random.fork_rng(devices=[world.device] if world.device.type == "cuda" else []):
        torch.manual_seed(0)
        for batch in batches:
            said.append(ask(batch.to(world.device), views).float())  # [V, B, C]
            read.append(Batch({}, batch.targets, batch.ids, batch.places))
    mine = (read, torch.cat(said, 1).cpu() if said else None)
    shares = [(batches, logits) for batches, logits in world.gather(mine) if batches]
    if not shares:
        raise DataError("the split has no example to evaluate.")
    logits = torch.cat([logits for _, logits in shares], 1)  # [V, N, C]
    if not logits.isfinite().all():
        raise TrainingError(
            "the model predicts values that are not finite: training went wrong. Lower optimizer.lr, or set training.clip_norm."
        )
    all_read = [batch for batches, _ in shares for batch in batches]
    ids, places = ([x for batch in all_read for x in getattr(batch, name)] for name in ("ids", "places"))
    order = sorted(range(len(ids)), key=places.__getitem__) if places else list(range(len(ids)))
    targets = torch.cat([batch.targets for batch in all_read])
    return Predictions(tuple(ids[i] for i in order), targets[order], dict(zip(views, logits[:, order])))


def measure(predictions: Predictions, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Every metric of every view; those of views other than the full one are named ``<view>/<metric>``.

    Raises:
        DataError: if no example has a label.
    """
    known = predictions.labelled
    if not known.any():
        raise DataError("no example of this split has a label, as in a blind test; use run_type=predict.")
    targets = predictions.targets[known]
    return {
        name if view == FULL else f"{view}/{name}": float(metric(logits[known], targets))
        for view, logits in predictions.logits.items()
        for name, metric in metrics.items()
    }
