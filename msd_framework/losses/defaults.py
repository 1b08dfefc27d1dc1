"""The usual losses of each task."""

from __future__ import annotations

from msd_framework.losses.base import DistillationLoss, TaskLoss
from msd_framework.losses.logits import BernoulliKL, SoftenedKL
from msd_framework.losses.task import BinaryCrossEntropy, CrossEntropy, SoftCrossEntropy
from msd_framework.structures import Outcomes, Task, outcomes_of


def default_task_loss(task: Task, outcomes: Outcomes | None = None) -> TaskLoss:
    """Cross-entropy for one label, binary cross-entropy for several labels and for soft targets; of a softmax, soft cross-entropy.

    Args:
        task: how targets are read.
        outcomes: how logits are read; as is usual for the task if None.

    >>> default_task_loss("multi_label"), default_task_loss("soft_target", "softmax")
    (BinaryCrossEntropy(), SoftCrossEntropy())
    """
    if task == "single_label":
        return CrossEntropy()
    return SoftCrossEntropy() if outcomes_of(task, outcomes) == "softmax" else BinaryCrossEntropy()


def default_distillation_loss(task: Task, outcomes: Outcomes | None = None) -> DistillationLoss:
    """The divergence of what logits are read as, at temperature 1.

    Args:
        task: how targets are read.
        outcomes: how logits are read; as is usual for the task if None.

    >>> type(default_distillation_loss("soft_target")).__name__, type(default_distillation_loss("soft_target", "softmax")).__name__
    ('BernoulliKL', 'SoftenedKL')
    """
    return SoftenedKL() if outcomes_of(task, outcomes) == "softmax" else BernoulliKL()
