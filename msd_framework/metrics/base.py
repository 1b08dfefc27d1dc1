"""What a metric promises: one number for all predictions of a split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from msd_framework.structures import DatasetInfo, Task


class Metric(ABC):
    """A number for a split, computed once on every prediction of it."""

    tasks: ClassVar[frozenset[Task]]
    """The tasks that it is for."""

    larger_is_better: ClassVar[bool] = True

    @classmethod
    def check(cls, info: DatasetInfo) -> list[str]:
        """Why it could not be computed for a data set, as sentences."""
        return []

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor) -> float:
        """The metric; NaN where it is not defined, as a ranking of examples of one class.

        Args:
            logits: float [N, C] of all N examples of the split.
            targets: int64 [N] or float [N, C].
        """
