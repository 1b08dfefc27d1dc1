r"""Precision, recall and F1 of the classes that a model decides on: of one class, or averaged over all.

With the decisions counted for each class c: hits :math:`h_c` (decided and right), :math:`d_c` decided, :math:`t_c` true,

.. math:: P_c = \frac{h_c}{d_c}, \qquad R_c = \frac{h_c}{t_c}, \qquad F_c = \frac{2 h_c}{d_c + t_c}

each 0 where its denominator is 0, as in scikit-learn. Decided is the most probable class of an example with one label; where each
label is a question of its own, those with a probability above 0.5.

An average over classes leaves out what is no class of the split: where an example has one label, a class that is neither true
nor decided anywhere (scikit-learn does the same). Where each label is a question of its own, every label counts, and one that
is never true nor decided counts 0.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.errors import did_you_mean
from msd_framework.metrics.base import METRICS, CountedMetric, MeanMetric
from msd_framework.structures import Task


class Decisions(CountedMetric):
    """What is counted of decisions, for each class."""

    tasks: ClassVar[frozenset[Task]] = frozenset({"single_label", "multi_label"})

    def count(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Hits, decided, true, and the targets for which the class counts, int64 [4, C]."""
        num_classes = logits.shape[1]
        if targets.ndim == 1:
            decided = F.one_hot(logits.argmax(1), num_classes).bool()  # [N, C]
            true = F.one_hot(targets, num_classes).bool()  # [N, C]
            counted = decided | true
        else:
            decided, true = logits > 0, targets.int().bool()  # [N, C] each
            counted = torch.ones_like(true)
        return torch.stack([(decided & true).sum(0), decided.sum(0), true.sum(0), counted.sum(0)])

    def value(self, counts: Tensor) -> float:
        hits, decided, true, counted = counts.double()
        return float(self.average(hits, decided, true, counted > 0))

    @abstractmethod
    def average(self, hits: Tensor, decided: Tensor, true: Tensor, counted: Tensor) -> Tensor:
        """The metric from counts, float64 [C], and whether each class counts, bool [C]."""

    @abstractmethod
    def score(self, hits: Tensor, decided: Tensor, true: Tensor) -> Tensor:
        """That of each class, or of all decisions together."""


class _Precision(Decisions):
    def score(self, hits: Tensor, decided: Tensor, true: Tensor) -> Tensor:
        return _ratio(hits, decided)


class _Recall(Decisions):
    def score(self, hits: Tensor, decided: Tensor, true: Tensor) -> Tensor:
        return _ratio(hits, true)


class _F1(Decisions):
    def score(self, hits: Tensor, decided: Tensor, true: Tensor) -> Tensor:
        return _ratio(2 * hits, decided + true)


class _Macro(Decisions):
    def average(self, hits: Tensor, decided: Tensor, true: Tensor, counted: Tensor) -> Tensor:
        return self.score(hits, decided, true)[counted].mean()


class _Micro(Decisions):
    def average(self, hits: Tensor, decided: Tensor, true: Tensor, counted: Tensor) -> Tensor:
        return self.score(hits.sum(), decided.sum(), true.sum())


class _Weighted(Decisions):
    def average(self, hits: Tensor, decided: Tensor, true: Tensor, counted: Tensor) -> Tensor:
        return _ratio((self.score(hits, decided, true) * true).sum(), true.sum())


class _OfOneClass(Decisions):
    """A metric of one class.

    Args:
        num_classes: C.
        class_names: the names of the classes.
        positive: the class, by its name or number; of two classes, the second one if left out.
    """

    def __init__(self, num_classes: int = 2, class_names: Sequence[str] = (), positive: int | str | None = None):
        self.positive = _class(num_classes, class_names, positive)

    def average(self, hits: Tensor, decided: Tensor, true: Tensor, counted: Tensor) -> Tensor:
        return self.score(hits, decided, true)[self.positive]


@METRICS.register("precision")
class PrecisionOfAClass(_OfOneClass, _Precision):
    """Of the examples that are taken for a class, the share that is of it."""


@METRICS.register("recall")
class RecallOfAClass(_OfOneClass, _Recall):
    """Of the examples of a class, the share that is taken for it."""


@METRICS.register("f1")
class F1OfAClass(_OfOneClass, _F1):
    """The harmonic mean of the precision and the recall of a class."""


@METRICS.register("precision_macro")
class MacroPrecision(_Macro, _Precision):
    """Precision of each class, averaged over classes."""


@METRICS.register("precision_micro")
class MicroPrecision(_Micro, _Precision):
    """Precision of all decisions on all classes together; where an example has one label, the accuracy."""


@METRICS.register("precision_weighted")
class WeightedPrecision(_Weighted, _Precision):
    """Precision of each class, averaged over classes by how often they are true."""


@METRICS.register("recall_macro")
class MacroRecall(_Macro, _Recall):
    """Recall of each class, averaged over classes; where an example has one label, also called balanced accuracy."""


@METRICS.register("recall_micro")
class MicroRecall(_Micro, _Recall):
    """Recall of all decisions on all classes together; where an example has one label, the accuracy."""


@METRICS.register("recall_weighted")
class WeightedRecall(_Weighted, _Recall):
    """Recall of each class, averaged over classes by how often they are true."""


@METRICS.register("f1_macro")
class MacroF1(_Macro, _F1):
    """F1 of each class, averaged over classes; of labels of their own, one that is never true nor decided counts 0."""


@METRICS.register("f1_micro")
class MicroF1(_Micro, _F1):
    """F1 of all decisions on all classes together; where an example has one label, the accuracy."""


@METRICS.register("f1_weighted")
class WeightedF1(_Weighted, _F1):
    """F1 of each class, averaged over classes by how often they are true."""


@METRICS.register("f1_samples")
class SamplesF1(MeanMetric):
    """F1 of each example's labels at probability 0.5, averaged over examples; one with no label at all counts 0."""

    tasks: ClassVar[frozenset[Task]] = frozenset({"multi_label"})

    def count(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The sum of F1 over examples, and how many there are, float64 [2]."""
        decided, true = logits > 0, targets.int().bool()  # [B, C] each
        of_each = _ratio(2.0 * (decided & true).sum(1), decided.sum(1) + true.sum(1))  # [B]
        return torch.stack([of_each.sum(), torch.tensor(len(logits))]).double()


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """A part of a whole, 0 where there is none."""
    return torch.where(whole > 0, part.double() / whole.clamp(min=1), 0.0)


def _class(num_classes: int, names: Sequence[str], positive: int | str | None) -> int:
    known = ", ".join(names) if names else f"0 to {num_classes - 1}"
    if positive is None:
        if num_classes > 2:
            raise ValueError(f"is of one class, and there are {num_classes}: give positive, one of {known}; or take an average.")
        return num_classes - 1
    if str(positive) in names:  # a class may be named by a number
        return list(names).index(str(positive))
    if isinstance(positive, int) and 0 <= positive < num_classes:
        return positive
    hint = did_you_mean(positive, names) if isinstance(positive, str) else ""
    raise ValueError(f"positive is {positive!r}, wanted a class: {known}.{hint}")
