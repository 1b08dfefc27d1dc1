"""The contract of metrics: one number for all predictions of a split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from msd_framework.components.registry import Registry
from msd_framework.structures import DatasetInfo, Task


class Metric(ABC):
    """A number for a split, computed once on every prediction of it, all of which each process keeps."""

    tasks: ClassVar[frozenset[Task]]
    larger_is_better: ClassVar[bool] = True

    @classmethod
    def check(cls, info: DatasetInfo) -> list[str]:
        """Why it could not be computed for a data set, as sentences."""
        return []

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        """The metric of a split's logits float [N, C] and targets int64 [N] or float [N, C]; NaN where it is undefined."""


METRICS: Registry[Metric] = Registry("metric", "metrics", Metric)


class CountedMetric(Metric):
    """A metric of what adds up over examples: batches and processes count for themselves."""

    @abstractmethod
    def count(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What a batch of B examples adds, int64 or float64 of any shape that is the same for all batches."""

    @abstractmethod
    def value(self, counts: Tensor) -> float:
        """The metric, from the sum of what all examples add; NaN where it is not defined."""

    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        return self.value(self.count(logits, targets))


class MeanMetric(CountedMetric):
    """A mean over examples: `count` gives a sum and of how many."""

    def value(self, counts: Tensor) -> float:
        return float(counts[0] / counts[1])
