"""Metrics of classification: accuracy, ranking, F1 and log-probability, as torchmetrics computes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.metrics.base import Metric
from msd_framework.registry import METRICS
from msd_framework.structures import DatasetInfo, Task


@METRICS.register("accuracy")
class Accuracy(Metric):
    """Share of examples whose most probable class is the right one, between 0 and 1.

    >>> Accuracy()(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    0.5
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"single_label"})

    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        from torchmetrics.functional.classification import multiclass_accuracy

        return float(multiclass_accuracy(logits, targets, num_classes=logits.shape[1], average="micro"))


@METRICS.register("auroc")
class AUROC(Metric):
    """Probability that a positive example is ranked above a negative one: of class 1 of two, or the mean over labels.

    Examples are ranked by logits, so that probabilities which round to 1 are no ties. NaN if a label is never or always
    positive.

    >>> AUROC()(torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]), torch.tensor([0, 0, 1]))
    1.0
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"single_label", "multi_label"})

    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        """The metric.

        Raises:
            ValueError: if one label an example is one of more than two classes.
        """
        from torchmetrics.functional.classification import binary_auroc

        return _mean_over_labels(binary_auroc, "auroc", logits, targets)

    @classmethod
    def check(cls, info: DatasetInfo) -> list[str]:
        return _more_than_two_classes("auroc", info)


@METRICS.register("average_precision")
class AveragePrecision(Metric):
    """Area under the precision-recall steps: of class 1 of two, or the mean over labels.

    NaN if a label is never or always positive.

    >>> AveragePrecision()(torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]), torch.tensor([0, 0, 1]))
    1.0
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"single_label", "multi_label"})

    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        """The metric.

        Raises:
            ValueError: if one label an example is one of more than two classes.
        """
        from torchmetrics.functional.classification import binary_average_precision

        return _mean_over_labels(binary_average_precision, "average_precision", logits, targets)

    @classmethod
    def check(cls, info: DatasetInfo) -> list[str]:
        return _more_than_two_classes("average_precision", info)


@METRICS.register("f1_macro")
class MacroF1(Metric):
    """F1 of each label at probability 0.5, averaged over labels; a label that is never positive nor predicted counts 0.

    >>> MacroF1()(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    0.5
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"multi_label"})

    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        return _f1(logits, targets, "macro")


@METRICS.register("f1_micro")
class MicroF1(Metric):
    """F1 at probability 0.5 of all decisions on all labels together.

    >>> round(MicroF1()(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])), 4)
    0.8
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"multi_label"})

    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        return _f1(logits, targets, "micro")


@METRICS.register("f1_weighted")
class WeightedF1(Metric):
    """F1 of each label at probability 0.5, averaged over labels by how often they are positive.

    >>> WeightedF1()(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    1.0
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"multi_label"})

    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        return _f1(logits, targets, "weighted")


@METRICS.register("f1_samples")
class SamplesF1(Metric):
    """F1 of each example's labels at probability 0.5, averaged over examples; one with no label at all counts 0.

    >>> round(SamplesF1()(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])), 4)
    0.8333
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"multi_label"})

    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        from torchmetrics.functional.classification import binary_f1_score

        decided, true = (logits > 0).int(), targets.int()
        return float(binary_f1_score(decided, true, multidim_average="samplewise").mean())


@METRICS.register("cross_entropy")
class NegativeLogLikelihood(Metric):
    """Mean negative log-probability of the right class, in nats; lower is better.

    >>> round(NegativeLogLikelihood()(torch.zeros(3, 4), torch.tensor([0, 1, 2])), 4)  # log 4
    1.3863
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"single_label"})
    larger_is_better: ClassVar[bool] = False

    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        return float(F.cross_entropy(logits.double(), targets))


def _f1(logits: Tensor, targets: Tensor, average: Literal["macro", "micro", "weighted"]) -> float:
    from torchmetrics.functional.classification import binary_f1_score, multilabel_f1_score

    decided, true = (logits > 0).int(), targets.int()
    if logits.shape[1] == 1:  # torchmetrics wants two labels or more
        return float(binary_f1_score(decided, true))
    return float(multilabel_f1_score(decided, true, num_labels=logits.shape[1], average=average))


def _mean_over_labels(metric: Callable[[Tensor, Tensor], Tensor], name: str, logits: Tensor, targets: Tensor) -> float:
    scores, labels = _two_sided(name, logits, targets)
    if bool((labels == labels[0]).all(0).any()):
        return math.nan
    return float(torch.stack([metric(_ranks(s), y) for s, y in zip(scores.T, labels.T)]).mean())


def _two_sided(name: str, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and labels of each yes-or-no question, both [N, C], or [N, 1] for one label of two classes."""
    if targets.ndim == 2:
        return logits, targets.int()
    if logits.shape[1] != 2:
        raise ValueError(f"{name} of one label an example is for two classes, got {logits.shape[1]}; take accuracy instead.")
    return (logits[:, 1] - logits[:, 0])[:, None], targets[:, None]


def _more_than_two_classes(name: str, info: DatasetInfo) -> list[str]:
    """A sentence if an example has one label of more than two classes."""
    if info.task != "single_label" or info.num_classes == 2:
        return []
    return [f"{name} of one label an example is for two classes, and the data set has {info.num_classes}; take accuracy instead."]


def _ranks(scores: Tensor) -> Tensor:
    """Scores as numbers from 0 to 1 in the same order, with the same ties."""
    return torch.searchsorted(scores.sort().values, scores.contiguous()).double() / len(scores)
