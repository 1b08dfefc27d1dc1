"""What is compared: a prediction with its target, or a student with its teacher. One value an example."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from msd_framework.components.registry import Registry
from msd_framework.structures import Batch, DatasetInfo, Feature, FeatureKind, FeatureShape, ModelOutput, Outcomes, Task

ALL_TASKS: frozenset[Task] = frozenset({"single_label", "multi_label", "soft_target"})


def at_least_float32(values: Tensor) -> Tensor:
    """Values of a lower precision as float32, others as they are.

    >>> at_least_float32(torch.ones(2, dtype=torch.bfloat16)).dtype, at_least_float32(torch.ones(2, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


class TaskLoss(nn.Module, ABC):
    """How far a prediction is from its target."""

    tasks: ClassVar[frozenset[Task]] = ALL_TASKS
    """The tasks that it is for."""

    outcomes: ClassVar[Outcomes | None] = None
    """How it reads logits, and so how all else reads those of a model that is trained with it; None: as is usual for the task."""

    @abstractmethod
    def forward(self, output: ModelOutput, targets: Tensor) -> Tensor:
        """One value an example.

        Args:
            output: logits float [B, C], or [B, L, C] for a score a position.
            targets: int64 [B] or [B, L] (-100 where nothing is scored), or float [B, C].

        Returns:
            float [B].
        """


TASK_LOSSES: Registry[TaskLoss] = Registry("task loss", "task_losses", TaskLoss)


class DistillationLoss(nn.Module, ABC):
    """How far a student's prediction is from its teacher's."""

    tasks: ClassVar[frozenset[Task]] = ALL_TASKS
    """The tasks that it is for."""

    mixes_examples: ClassVar[bool] = False
    """Whether the value of an example depends on the others of the batch."""

    @abstractmethod
    def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """One value an example.

        Args:
            student: logits float [B, C], or [B, L, C] for a score a position (averaged over L).
            teacher: the same shapes; no gradient flows into it.

        Returns:
            float [B], never of a lower precision than float32.
        """

    @classmethod
    def check(cls, info: DatasetInfo) -> list[str]:
        """What would not work with a data set, as sentences."""
        return []


DISTILLATION_LOSSES: Registry[DistillationLoss] = Registry("distillation loss", "distillation_losses", DistillationLoss)


class LabelledDistillationLoss(DistillationLoss):
    """A distance that treats the right class in its own way."""

    @abstractmethod
    def forward(self, student: ModelOutput, teacher: ModelOutput, targets: Tensor | None = None) -> Tensor:
        """One value an example.

        Args:
            student: logits float [B, C], or [B, L, C] for a score a position (averaged over L).
            teacher: the same shapes; no gradient flows into it.
            targets: int64 [B] or [B, L]; None, and -100 in them, where nobody knows.

        Returns:
            float [B], never of a lower precision than float32.
        """


class FeatureLoss(nn.Module, ABC):
    """How far a student's intermediate is from its teacher's."""

    takes: ClassVar[frozenset[FeatureKind]]
    """The kinds of features that it compares."""

    same_width: ClassVar[bool] = False
    """Whether both must be as wide (or have as many heads); an adaptor then turns the student's into the teacher's."""

    same_positions: ClassVar[bool] = False
    """Whether it compares position by position; hidden states of another number of them are then averaged or repeated."""

    def prepare(self, student: FeatureShape, teacher: FeatureShape) -> None:
        """Makes the parameters and buffers that depend on what is compared, when an objective takes the loss."""

    @abstractmethod
    def forward(self, student: Feature, teacher: Feature, batch: Batch) -> Tensor:
        """One value an example.

        Args:
            student: of the trained model.
            teacher: of the same kind; no gradient flows into it.
            batch: the examples.

        Returns:
            float [B], never of a lower precision than float32.
        """


FEATURE_LOSSES: Registry[FeatureLoss] = Registry("feature loss", "feature_losses", FeatureLoss)


def compare_shown(loss: DistillationLoss, student: Tensor, teacher: Tensor, targets: Tensor, shown: Tensor | None) -> Tensor:
    """The value of a distillation loss, float [B]; 0, and no part of the others', where an example has nothing to be compared.

    Args:
        loss: compares.
        student: logits float [B, C] or [B, L, C].
        teacher: the same shapes.
        targets: those that `compare` takes.
        shown: bool [B], which examples have something; all if None.
    """
    if shown is None:
        return compare(loss, ModelOutput(student), ModelOutput(teacher), targets)
    if loss.mixes_examples:
        rows = shown.nonzero().squeeze(1)  # which waits for the device: no other way leaves the rest of a batch alone
        found = compare(loss, ModelOutput(student[rows]), ModelOutput(teacher[rows]), targets[rows])
        return found.new_zeros(len(student)).index_copy(0, rows, found)
    there = shown.view(-1, *[1] * (student.ndim - 1))
    found = compare(loss, ModelOutput(student.where(there, 0.0)), ModelOutput(teacher.where(there, 0.0)), targets)
    return found.where(shown, 0.0)


def compare(loss: DistillationLoss, student: ModelOutput, teacher: ModelOutput, targets: Tensor | None) -> Tensor:
    """The value of a distillation loss, float [B]; the targets go to those that look at them."""
    given = (targets,) if isinstance(loss, LabelledDistillationLoss) else ()
    return one_each(loss, loss(student, teacher, *given), len(student.logits))


def one_each(loss: nn.Module, values: Tensor, num_examples: int) -> Tensor:
    """The values of a loss, once they are one an example: a mean of them would be weighted and averaged as if it were.

    Raises:
        ValueError: if they are not, as where a class of a user's reduces them.
    """
    if not isinstance(values, Tensor) or values.shape != (num_examples,) or not values.is_floating_point():
        got = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{type(loss).__name__} gives {got} for {num_examples} examples, wanted a float of each, [{num_examples}]")
    return values
