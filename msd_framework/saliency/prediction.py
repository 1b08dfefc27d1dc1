"""Saliency by prediction: how far the teacher's answer moves when it sees less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from msd_framework.losses.base import DistillationLoss
from msd_framework.losses.defaults import default_distillation_loss
from msd_framework.saliency.base import SALIENCIES, Saliency, hidden_views, refuse_other_tasks
from msd_framework.saliency.reading import Reading
from msd_framework.structures import ModelOutput, Outcomes, Task
from msd_framework.views import FULL


class _PredictionSaliency(Saliency):
    """A score from distances between the teacher's predictions.

    Args:
        distance: D, such as `kl`, `tvd` (of probabilities) or `mse` (of logits); the task's usual divergence if null.
        task: how targets are read.
        outcomes: how logits are read; as is usual for the task if null.
    """

    def __init__(self, distance: DistillationLoss | None = None, task: Task = "single_label", outcomes: Outcomes | None = None):
        super().__init__()
        refuse_other_tasks("distance", distance, task)
        self.distance = distance or default_distillation_loss(task, outcomes)


@SALIENCIES.register("drop")
class DropSaliency(_PredictionSaliency):
    r"""How far the teacher's prediction moves when the modality is hidden: is it *necessary*?

    .. math:: S_m(x) = D\left(f_T(x), f_T(x_{\setminus m})\right)

    with :math:`f_T` the teacher and :math:`x_{\setminus m}` the example without modality m. The full prediction takes the
    teacher's place in D, so `kl` is the divergence from it of the prediction without m.

    **With two modalities this looks at the other one's view**: `drop(image)` is read off the text-only view, so that
    `drop(image) = -keep(text)`, and both rank the two of an example alike.

    >>> predictions = {"full": ModelOutput(torch.tensor([[2.0, 0.0]])), "image": ModelOutput(torch.tensor([[2.0, 0.0]])),
    ...                "text": ModelOutput(torch.tensor([[0.0, 2.0]]))}
    >>> DropSaliency()(predictions, torch.tensor([0]), ["image", "text"])  # text alone gets it wrong: the image is needed
    tensor([[1.5232, 0.0000]])
    """

    non_negative: ClassVar[bool] = True
    reading: ClassVar[Reading] = "needed"

    def views(self, modalities: Sequence[str]) -> tuple[str, ...]:
        return (FULL, *hidden_views(modalities))

    def forward(self, predictions: Mapping[str, ModelOutput], targets: Tensor, modalities: Sequence[str]) -> Tensor:
        full = predictions[FULL]
        return torch.stack([self.distance(predictions[view], full) for view in hidden_views(modalities)], -1)  # [N, M]


@SALIENCIES.register("keep")
class KeepSaliency(_PredictionSaliency):
    r"""How near the teacher's prediction stays when it sees the modality alone: is it *sufficient*?

    .. math:: S_m(x) = -D\left(f_T(x), f_T(x_m)\right)

    with :math:`f_T` the teacher and :math:`x_m` the example with modality m alone. The full prediction takes the
    teacher's place in D. Scores are at most 0. With two modalities, `keep(image) = -drop(text)`.
    """

    non_negative: ClassVar[bool] = False
    reading: ClassVar[Reading] = "enough"

    def views(self, modalities: Sequence[str]) -> tuple[str, ...]:
        return (FULL, *modalities)

    def forward(self, predictions: Mapping[str, ModelOutput], targets: Tensor, modalities: Sequence[str]) -> Tensor:
        return torch.stack([-self.distance(predictions[m], predictions[FULL]) for m in modalities], -1)  # [N, M]
