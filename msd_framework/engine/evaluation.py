"""Predictions for every example of a split, on every view, and the metrics of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msd_framework.engine.distributed import World
from msd_framework.engine.precision import FP32, Precision
from msd_framework.errors import DataError, TrainingError
from msd_framework.metrics.base import Metric
from msd_framework.structures import FULL, Batch, has_label

Ask = Callable[[Batch, Sequence[str]], Tensor]
"""Logits [V, B, C] of some views of a batch: a student's, or a teacher's."""


@dataclass(frozen=True)
class Predictions:
    """What was predicted for a split, each example once, in the split's order.

    Args:
        places: where they stand in the split, int64 [N].
        targets: int64 [N] or float [N, C]; -100 or NaN where a blind test has none.
        logits: float [N, C] by view.
    """

    places: Tensor
    targets: Tensor
    logits: Mapping[str, Tensor]

    @property
    def labelled(self) -> Tensor:
        """Which examples have a target, bool [N]."""
        return has_label(self.targets)


@torch.no_grad()
def predict(ask: Ask, batches: Iterable[Batch], views: Sequence[str], world: World, precision: Precision = FP32) -> Predictions:
    """Predictions of all examples, gathered from all processes on each of them.

    Random maskers draw from a stream of their own, so that what is measured does not depend on when it is.

    Args:
        ask: who predicts.
        batches: this process's share of the split.
        views: names of V views.
        world: this process among all.
        precision: what they are computed in; the logits are float32 in any.

    Raises:
        DataError: if the split is empty.
        TrainingError: if a prediction is not finite.
    """
    places, targets, logits = _Rows(), _Rows(), _Rows(dim=1)
    with torch.random.fork_rng(devices=[world.device] if world.device.type == "cuda" else []):
        torch.manual_seed(0)
        for batch in batches:
            with precision.active(world.device):
                logits.append(ask(batch.to(world.device), views).float())  # [V, B, C]
            places.append(torch.tensor(batch.places or range(len(targets), len(targets) + len(batch))))
            targets.append(batch.targets)
    mine = [rows.joined().cpu() for rows in (places, targets, logits)] if len(places) else None
    shares = [share for share in world.gather(mine) if share]
    if not shares:
        raise DataError("the split has no example to evaluate.")
    where, wanted, said = (torch.cat(rows, dim) for rows, dim in zip(zip(*shares), (0, 0, 1)))
    if not said.isfinite().all():
        raise TrainingError(
            "the model predicts values that are not finite: training went wrong. Lower optimizer.lr, or set training.clip_norm."
        )
    order = where.argsort()
    return Predictions(where[order], wanted[order], dict(zip(views, said[:, order])))


class _Rows:
    """Rows that come in parts, in few tensors however many parts there are: each is longer than the one after it.

    Args:
        dim: along which they are rows.
    """

    def __init__(self, dim: int = 0):
        self.dim = dim
        self.parts: list[Tensor] = []

    def __len__(self) -> int:
        return sum(part.shape[self.dim] for part in self.parts)

    def append(self, part: Tensor) -> None:
        self.parts.append(part)
        while len(self.parts) > 1 and self.parts[-1].shape[self.dim] >= self.parts[-2].shape[self.dim]:
            self.parts[-2:] = [torch.cat(self.parts[-2:], self.dim)]

    def joined(self) -> Tensor:
        return torch.cat(self.parts, self.dim)


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
