"""Metrics of classification: accuracy, ranking and calibration as torchmetrics computes them, and log-probability."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.metrics.base import METRICS, MeanMetric, Metric
from msd_framework.ranges import positive
from msd_framework.structures import Task


@METRICS.register("accuracy")
class Accuracy(MeanMetric):
    """Share of examples whose most probable class is the right one, between 0 and 1."""

    tasks: ClassVar[frozenset[Task]] = frozenset({"single_label"})

    def count(self, logits: Tensor, targets: Tensor) -> Tensor:
        return torch.tensor([int((logits.argmax(1) == targets).sum()), len(targets)])


class _Ranking(Metric):
    """A metric of each yes-or-no question by itself, as torchmetrics computes it from scores and labels, averaged."""

    tasks: ClassVar[frozenset[Task]] = frozenset({"single_label", "multi_label"})
    binary: ClassVar[str]  # torchmetrics' name

    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        from torchmetrics.functional import classification

        metric, (scores, labels) = getattr(classification, self.binary), _two_sided(logits, targets)
        if bool((labels == labels[0]).all(0).any()):
            return math.nan
        return float(torch.stack([metric(_ranks(s), y) for s, y in zip(scores.T, labels.T)]).mean())


@METRICS.register("auroc")
class AUROC(_Ranking):
    """Probability that a positive example ranks above a negative one: of class 1 of two, or the mean over all.

    Of more than two classes each is ranked against the rest, by its log-odds. Examples are ranked by logits, so that
    probabilities which round to 1 are no ties. NaN if one is never or always positive.
    """

    binary = "binary_auroc"


@METRICS.register("average_precision")
class AveragePrecision(_Ranking):
    """Area under the precision-recall steps: of class 1 of two, or the mean over classes or labels.

    Of more than two classes each is ranked against the rest, by its log-odds. NaN if one is never or always positive.
    """

    binary = "binary_average_precision"


@METRICS.register("map")
class MeanAveragePrecision(Metric):
    """Area under the precision-recall steps of each label, averaged over the labels that some example has (mAP).

    As `average_precision`, but a label that no example of the split has is left out. NaN if that is true of all.
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"multi_label"})

    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        from torchmetrics.functional.classification import binary_average_precision

        there = targets.int().sum(0) > 0  # [C]
        of_each = [binary_average_precision(_ranks(z), y) for z, y in zip(logits.T[there], targets.int().T[there])]
        return float(torch.stack(of_each).mean()) if of_each else math.nan


@METRICS.register("ece")
class ExpectedCalibrationError(Metric):
    r"""How far confidence lies from being right, between 0 and 1; lower is better.

    .. math:: \sum_b \frac{n_b}{N} |\mathrm{acc}_b - \mathrm{conf}_b|

    over bins b of equal width with :math:`n_b` of the N examples, by the probability of the most probable class and whether
    that class is right (Guo et al., ICML 2017). Of several labels, by the probability and the truth of each, averaged over labels.

    Args:
        bins: how many there are.
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"single_label", "multi_label"})
    larger_is_better: ClassVar[bool] = False

    def __init__(self, bins: int = 15):
        positive(bins=bins)
        self.bins = bins

    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

        if targets.ndim == 1:
            return float(multiclass_calibration_error(logits.double().softmax(1), targets, logits.shape[1], self.bins))
        p = logits.double().sigmoid().T.contiguous()  # [C, N]
        return float(torch.stack([binary_calibration_error(*each, self.bins) for each in zip(p, targets.int().T)]).mean())


@METRICS.register("cross_entropy")
class NegativeLogLikelihood(MeanMetric):
    """Mean negative log-probability of the right class, in nats; lower is better."""

    tasks: ClassVar[frozenset[Task]] = frozenset({"single_label"})
    larger_is_better: ClassVar[bool] = False

    def count(self, logits: Tensor, targets: Tensor) -> Tensor:
        total = F.cross_entropy(logits.double(), targets, reduction="sum")
        return torch.stack([total, total.new_tensor(len(targets))])


def _two_sided(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and labels of each yes-or-no question, both [N, C], or [N, 1] for one label of two classes."""
    if targets.ndim == 2:
        return logits, targets.int()
    if logits.shape[1] == 2:
        return (logits[:, 1] - logits[:, 0])[:, None], targets[:, None]
    return _log_odds(logits), F.one_hot(targets, logits.shape[1])


def _log_odds(logits: Tensor) -> Tensor:
    r"""Each class against the rest, :math:`\log p_c - \log (1 - p_c)`, float64 [N, C].

    The rest of the most probable class is summed up by itself: what is left of a probability that rounds to 1 would be 0.
    """
    z = logits.double()
    log_p = z.log_softmax(1)
    best = F.one_hot(z.argmax(1), z.shape[1]).bool()  # [N, C]
    rest_of_best = log_p.masked_fill(best, -math.inf).logsumexp(1, keepdim=True)  # [N, 1]
    return log_p - torch.where(best, rest_of_best, torch.log1p(-log_p.masked_fill(best, -math.inf).exp()))


def _ranks(scores: Tensor) -> Tensor:
    """Scores as numbers from 0 to 1 in the same order, with the same ties."""
    return torch.searchsorted(scores.sort().values, scores.contiguous()).double() / len(scores)
