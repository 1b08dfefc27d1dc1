"""Saliency by error: how right the teacher is when it sees less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from msd_framework.losses.base import TaskLoss
from msd_framework.losses.defaults import default_task_loss
from msd_framework.saliency.base import SALIENCIES, Saliency, hidden_views, refuse_other_tasks
from msd_framework.saliency.reading import Reading
from msd_framework.structures import ModelOutput, Outcomes, Task
from msd_framework.views import FULL


class _ErrorSaliency(Saliency):
    """A score from the teacher's task losses.

    Args:
        task_loss: l; the task's usual one if null.
        task: how targets are read.
        outcomes: how logits are read; as is usual for the task if null.
    """

    non_negative: ClassVar[bool] = False
    needs_labels = True

    def __init__(self, task_loss: TaskLoss | None = None, task: Task = "single_label", outcomes: Outcomes | None = None):
        super().__init__()
        refuse_other_tasks("task_loss", task_loss, task)
        self.task_loss = task_loss or default_task_loss(task, outcomes)


@SALIENCIES.register("loss")
class LossSaliency(_ErrorSaliency):
    r"""How right the teacher is when it sees the modality alone.

    .. math:: S_m(x) = -\ell\left(f_T(x_m), y\right)

    with :math:`f_T` the teacher, :math:`x_m` the example with modality m alone and :math:`y` its target. Like `keep`, and
    unlike `drop` and `gap`, it looks at the view of the modality itself.
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
    """

    reading: ClassVar[Reading] = "needed"

    def views(self, modalities: Sequence[str]) -> tuple[str, ...]:
        return (FULL, *hidden_views(modalities))

    def forward(self, predictions: Mapping[str, ModelOutput], targets: Tensor, modalities: Sequence[str]) -> Tensor:
        full = self.task_loss(predictions[FULL], targets)  # [N]
        scores = [self.task_loss(predictions[view], targets) - full for view in hidden_views(modalities)]
        return torch.stack(scores, -1)  # [N, M]
