"""What is compared: a prediction with its target, or a student with its teacher. One value an example."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from msd_framework.structures import ModelOutput, Task

ALL_TASKS: frozenset[Task] = frozenset({"single_label", "multi_label", "soft_target"})


class TaskLoss(nn.Module, ABC):
    """How far a prediction is from its target."""

    tasks: ClassVar[frozenset[Task]] = ALL_TASKS
    """The tasks that it is for."""

    @abstractmethod
    def forward(self, output: ModelOutput, targets: Tensor) -> Tensor:
        """One value an example.

        Args:
            output: logits float [B, C], or [B, L, C] for a score a position.
            targets: int64 [B] or [B, L] (-100 where nothing is scored), or float [B, C].

        Returns:
            float [B].
        """


class DistillationLoss(nn.Module, ABC):
    """How far a student's prediction is from its teacher's."""

    tasks: ClassVar[frozenset[Task]] = ALL_TASKS
    """The tasks that it is for."""

    @abstractmethod
    def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """One value an example.

        Args:
            student: logits float [B, C], or [B, L, C] for a score a position (averaged over L).
            teacher: the same shapes; no gradient flows into it.

        Returns:
            float [B], never of a lower precision than float32.
        """
