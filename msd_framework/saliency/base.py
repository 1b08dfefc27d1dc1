"""How much a modality matters to the teacher, for each target by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from msd_framework.components.registry import Registry
from msd_framework.losses.base import DistillationLoss, TaskLoss
from msd_framework.models.base import MultimodalModel
from msd_framework.saliency.reading import Reading
from msd_framework.structures import Batch, Inputs, ModelOutput, Task
from msd_framework.views import without


def scores_of(
    saliency: Saliency,
    predictions: Mapping[str, ModelOutput],
    batch: Batch,
    modalities: Sequence[str],
    lacking: float = torch.nan,
    shown_in: Callable[[str], Tensor | None] | None = None,
) -> Tensor:
    """The scores of a batch, float [N, M]; `lacking` for a modality that an example lacks, and for padding.

    `shown_in` says which examples a view shows the teacher something of, bool [B], where the batch alone does not.
    """
    completed, look = dict(predictions), shown_in or partial(batch.shown, modalities=modalities)
    if batch.having or shown_in is not None:
        for view, prediction in predictions.items():
            shown = look(view)
            completed[view] = saliency.completed(prediction, None if shown is None else batch.spread(shown))
    scores: Tensor = saliency(completed, batch.targets, modalities)
    if batch.having:
        everyone = torch.ones(len(batch), dtype=torch.bool, device=scores.device)
        having = torch.stack([batch.having.get(m, everyone) for m in modalities])  # [M, B]
        scores = scores.where(batch.spread(having).T, lacking)
    return scores if batch.is_target is None else scores.where(batch.is_target[:, None], lacking)


class Saliency(nn.Module, ABC):
    """A score S_m for each modality m of each target of an example x; larger means more salient."""

    renamed: ClassVar[Mapping[str, str]] = {"asks_labels": "needs_labels", "asks_model": "needs_model"}  # of earlier versions

    non_negative: ClassVar[bool]  # no score is ever below 0, so that scores can be used as weights as they are
    reading: ClassVar[Reading] = "share"  # what a large score means
    needs_labels: bool = False  # its scores depend on the targets, which unlabelled examples do not have
    needs_model: ClassVar[bool] = False  # `look` needs the teacher's model, which a cached teacher does not have

    def look(self, model: MultimodalModel, inputs: Inputs) -> dict[str, Tensor]:
        """What it reads off the teacher's model on the full view, which `forward` finds among that view's features."""
        return {}

    def completed(self, prediction: ModelOutput, shown: Tensor | None) -> ModelOutput:
        """A teacher's output on a view, with a stand-in for examples of which it shows nothing: all but `shown`, bool [N]."""
        return prediction

    @abstractmethod
    def views(self, modalities: Sequence[str]) -> tuple[str, ...]:
        """The views on which it wants the teacher's predictions."""

    @abstractmethod
    def forward(self, predictions: Mapping[str, ModelOutput], targets: Tensor, modalities: Sequence[str]) -> Tensor:
        """The scores, float [N, M], by logits [N, C] on `views(modalities)` and targets int64 [N] or float [N, C]."""


def hidden_views(modalities: Sequence[str]) -> list[str]:
    """The views without one of the modalities, in their order."""
    return [without(modality, modalities) for modality in modalities]


def refuse_other_tasks(option: str, loss: DistillationLoss | TaskLoss | None, task: Task) -> None:
    """Raises a ValueError if the loss of an option is not for the task."""
    if loss is not None and task not in loss.tasks:
        raise ValueError(f"{option}: {type(loss).__name__} is for {', '.join(sorted(loss.tasks))}, and the task is {task}.")


SALIENCIES: Registry[Saliency] = Registry("saliency", "saliencies", Saliency)
