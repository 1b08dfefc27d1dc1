"""What is compared: a prediction with its target, or a student with its teacher. One value a target, or of features an example."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from msd_framework.components.registry import Registry
from msd_framework.structures import Batch, DatasetInfo, Feature, FeatureKind, FeatureShape, ModelOutput, Outcomes, Task

ALL_TASKS: frozenset[Task] = frozenset({"single_label", "multi_label", "soft_target"})


def at_least_float32(values: Tensor) -> Tensor:
    """Values of a lower precision as float32, others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class TaskLoss(nn.Module, ABC):
    """How far a prediction is from its target."""

    tasks: ClassVar[frozenset[Task]] = ALL_TASKS
    # how it reads logits, and so how all else reads those of a model that is trained with it; None: as is usual for the task
    outcomes: ClassVar[Outcomes | None] = None

    @abstractmethod
    def forward(self, output: ModelOutput, targets: Tensor) -> Tensor:
        """One value a target, float [N], of logits float [N, C] and targets int64 [N] or float [N, C]."""


TASK_LOSSES: Registry[TaskLoss] = Registry("task loss", "task_losses", TaskLoss)


class DistillationLoss(nn.Module, ABC):
    """How far a student's prediction is from its teacher's."""

    tasks: ClassVar[frozenset[Task]] = ALL_TASKS
    # Whether the value of a target depends on the other targets, those of the same example included, of one process and one
    # part of `training.accumulate`: how a batch is cut then changes it.
    mixes_examples: ClassVar[bool] = False

    @abstractmethod
    def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """One value a target, float [N], float32 at least, of logits float [N, C]; no gradient flows into the teacher's."""

    def logged(self) -> dict[str, Tensor]:
        """Detached scalars for the log, such as what it has learned."""
        return {}

    @classmethod
    def check(cls, info: DatasetInfo) -> list[str]:
        """What would not work with a data set, as sentences."""
        return []


DISTILLATION_LOSSES: Registry[DistillationLoss] = Registry("distillation loss", "distillation_losses", DistillationLoss)


class LabelledDistillationLoss(DistillationLoss):
    """A distance that treats the right class in its own way."""

    @abstractmethod
    def forward(self, student: ModelOutput, teacher: ModelOutput, targets: Tensor | None = None) -> Tensor:
        """As of any distance; targets int64 [N] or float [N, C] are -100 or NaN, or None, where they are unknown."""


class FeatureLoss(nn.Module, ABC):
    """How far a student's intermediate is from its teacher's."""

    takes: ClassVar[frozenset[FeatureKind]]  # the kinds of features that it compares
    # whether both must be as wide (or have as many heads); an adaptor then turns the student's into the teacher's
    same_width: ClassVar[bool] = False
    # whether it compares position by position; hidden states of another number of them are then averaged or repeated
    same_positions: ClassVar[bool] = False
    # as of a distillation loss; targets are never compared
    mixes_examples: ClassVar[bool] = False

    def prepare(self, student: FeatureShape, teacher: FeatureShape) -> None:
        """Makes the parameters and buffers that depend on what is compared, when an objective takes the loss."""

    @abstractmethod
    def forward(self, student: Feature, teacher: Feature, batch: Batch) -> Tensor:
        """One value an example, float [B], float32 at least; both are of a kind, and no gradient flows into the teacher's."""


FEATURE_LOSSES: Registry[FeatureLoss] = Registry("feature loss", "feature_losses", FeatureLoss)


def compare_shown(loss: DistillationLoss, student: Tensor, teacher: Tensor, targets: Tensor, shown: Tensor | None) -> Tensor:
    """The value of a distillation loss, float [N], of logits [N, C].

    Where `shown`, bool [N], is False it is 0, and the target is no part of the others' values; None shows all.
    """
    if shown is None:
        return compare(loss, ModelOutput(student), ModelOutput(teacher), targets)
    if loss.mixes_examples:
        # this waits for the device: no other way leaves the rest of a batch alone
        rows = shown.nonzero().squeeze(1)
        values = compare(loss, ModelOutput(student[rows]), ModelOutput(teacher[rows]), targets[rows])
        return values.new_zeros(len(student)).index_copy(0, rows, values)
    rows = shown[:, None]
    values = compare(loss, ModelOutput(student.where(rows, 0.0)), ModelOutput(teacher.where(rows, 0.0)), targets)
    return values.where(shown, 0.0)


def compare(loss: DistillationLoss, student: ModelOutput, teacher: ModelOutput, targets: Tensor | None) -> Tensor:
    """The value of a distillation loss, float [N]; the targets go to those that look at them."""
    given = (targets,) if isinstance(loss, LabelledDistillationLoss) else ()
    return one_each(loss, loss(student, teacher, *given), len(student.logits))


def one_each(loss: nn.Module, values: Tensor, num_targets: int) -> Tensor:
    """The values of a loss, once they are one a target: a mean of them would be weighted and averaged as if it were."""
    if not isinstance(values, Tensor) or values.shape != (num_targets,) or not values.is_floating_point():
        got = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{type(loss).__name__} gives {got} for {num_targets} examples, wanted a float of each, [{num_targets}]")
    return values
