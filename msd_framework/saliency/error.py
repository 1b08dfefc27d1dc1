"""Saliency by error: how right the teacher is when it sees less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from msd_framework.losses.base import TaskLoss
from msd_framework.losses.defaults import default_task_loss
from msd_framework.saliency.base import SALIENCIES, Saliency
from msd_framework.saliency.reading import Reading
from msd_framework.structures import ModelOutput, Outcomes, Task
from msd_framework.views import FULL, without


class _ErrorSaliency(Saliency):
    """A score from the teacher's task losses.

    Args:
        task_loss: l; the task's usual one if null.
        task: how targets are read.
        outcomes: how logits are read; as is usual for the task if null.

    Raises:
        ValueError: if the loss is not for the task.
    """

    non_negative: ClassVar[bool] = False
    needs_labels = True

    def __init__(self, task_loss: TaskLoss | None = None, task: Task = "single_label", outcomes: Outcomes | None = None):
        super().__init__()
        self.task_loss = fitting_loss(task_loss, task, outcomes)


@SALIENCIES.register("loss")
class LossSaliency(_ErrorSaliency):
    r"""How right the teacher is when it sees the modality alone.

    .. math:: S_m(x) = -\ell\left(f_T(x_m), y\right)

    with :math:`f_T` the teacher, :math:`x_m` the example with modality m alone and :math:`y` its target. Like `keep`, and
    unlike `drop` and `gap`, it looks at the view of the modality itself.

    >>> predictions = {"image": ModelOutput(torch.tensor([[9.0, -9.0]])), "text": ModelOutput(torch.tensor([[0.0, 0.0]]))}
    >>> LossSaliency()(predictions, torch.tensor([0]), ["image", "text"])
    tensor([[-0.0000, -0.6931]])
    """

    reading: ClassVar[Reading] = "enough"

    def views(self, modalities: Sequence[str]) -> tuple[str, ...]:
        return tuple(modalities)

    def forward(self, predictions: Mapping[str, ModelOutput], targets: Tensor, modalities: Sequence[str]) -> Tensor:
        return torch.stack([-self.task_loss(predictions[m], targets) for m in modalities], -1)  # [N, M]


@SALIENCIES.register("gap")
class GapSaliency(_ErrorSaliency):
    r"""How much more wrong the teacher is when the modality is hidden.

    .. math:: S_m(x) = \ell\left(f_T(x_{\setminus m}), y\right) - \ell\left(f_T(x), y\right)

    with :math:`f_T` the teacher, :math:`x_{\setminus m}` the example without modality m and :math:`y` its target. Below 0
    where the modality misleads the teacher. **With two modalities this looks at the other one's view**, as `drop` does.

    >>> predictions = {"full": ModelOutput(torch.tensor([[9.0, -9.0]])), "image": ModelOutput(torch.tensor([[9.0, -9.0]])),
    ...                "text": ModelOutput(torch.tensor([[0.0, 0.0]]))}
    >>> GapSaliency()(predictions, torch.tensor([0]), ["image", "text"])
    tensor([[0.6931, 0.0000]])
    """

    reading: ClassVar[Reading] = "needed"

    def views(self, modalities: Sequence[str]) -> tuple[str, ...]:
        return (FULL, *(without(m, modalities) for m in modalities))

    def forward(self, predictions: Mapping[str, ModelOutput], targets: Tensor, modalities: Sequence[str]) -> Tensor:
        full = self.task_loss(predictions[FULL], targets)  # [N]
        hidden = [predictions[without(m, modalities)] for m in modalities]
        return torch.stack([self.task_loss(f, targets) - full for f in hidden], -1)  # [N, M]


def fitting_loss(task_loss: TaskLoss | None, task: Task, outcomes: Outcomes | None = None) -> TaskLoss:
    """The loss, or the task's usual one.

    Raises:
        ValueError: if it is not for the task.
    """
    if task_loss is not None and task not in task_loss.tasks:
        raise ValueError(
            f"task_loss: {type(task_loss).__name__} is for {', '.join(sorted(task_loss.tasks))}, and the task is {task}."
        )
    return task_loss or default_task_loss(task, outcomes)
