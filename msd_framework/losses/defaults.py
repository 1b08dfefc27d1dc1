"""The usual losses of each task, of logits that are read as `outcomes`: as is usual for the task if None."""

from __future__ import annotations

from msd_framework.losses.base import DistillationLoss, TaskLoss
from msd_framework.losses.logits import BernoulliKL, SoftenedKL
from msd_framework.losses.task import BinaryCrossEntropy, CrossEntropy, SoftCrossEntropy
from msd_framework.structures import Outcomes, Task, outcomes_of


def default_task_loss(task: Task, outcomes: Outcomes | None = None) -> TaskLoss:
    """Cross-entropy for one label, else binary cross-entropy; of soft targets that a softmax reads, soft cross-entropy."""
    if task == "single_label":
        return CrossEntropy()
    return SoftCrossEntropy() if outcomes_of(task, outcomes) == "softmax" else BinaryCrossEntropy()


def default_distillation_loss(task: Task, outcomes: Outcomes | None = None) -> DistillationLoss:
    """The divergence of what logits are read as, at temperature 1."""
    return SoftenedKL() if outcomes_of(task, outcomes) == "softmax" else BernoulliKL()
