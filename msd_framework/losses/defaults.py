"""The losses that a task usually has, for whoever does not name one."""

from __future__ import annotations

from msd_framework.losses.base import DistillationLoss, TaskLoss
from msd_framework.losses.logits import BernoulliKL, SoftenedKL
from msd_framework.losses.task import BinaryCrossEntropy, CrossEntropy
from msd_framework.structures import Task


def default_task_loss(task: Task) -> TaskLoss:
    """Cross-entropy for one label, binary cross-entropy for several labels and for soft targets.

    >>> default_task_loss("multi_label")
    BinaryCrossEntropy()
    """
    usual: dict[Task, type[CrossEntropy] | type[BinaryCrossEntropy]] = {
        "single_label": CrossEntropy,
        "multi_label": BinaryCrossEntropy,
        "soft_target": BinaryCrossEntropy,
    }
    return usual[task]()


def default_distillation_loss(task: Task) -> DistillationLoss:
    """The divergence that belongs to the task's default loss, at temperature 1.

    >>> type(default_distillation_loss("single_label")).__name__
    'SoftenedKL'
    """
    usual: dict[Task, type[SoftenedKL] | type[BernoulliKL]] = {
        "single_label": SoftenedKL,
        "multi_label": BernoulliKL,
        "soft_target": BernoulliKL,
    }
    return usual[task]()
