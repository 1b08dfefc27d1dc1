"""How much a modality matters to the teacher, an example at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from msd_framework.components.registry import Registry
from msd_framework.models.base import MultimodalModel
from msd_framework.saliency.reading import Reading
from msd_framework.structures import Batch, Inputs, ModelOutput


def scores_of(
    saliency: Saliency, predictions: Mapping[str, ModelOutput], batch: Batch, modalities: Sequence[str], lacking: float = torch.nan
) -> Tensor:
    """The scores of a batch, float [B, M].

    Args:
        saliency: makes them.
        predictions: the teacher's, by view.
        batch: the examples.
        modalities: M names of the teacher's modalities.
        lacking: the score of a modality that an example lacks.
    """
    if not batch.having:
        scores: Tensor = saliency(predictions, batch.targets, modalities)
        return scores
    seen = {view: saliency.completed(said, batch.shown(view, modalities)) for view, said in predictions.items()}
    scores = saliency(seen, batch.targets, modalities)
    having = [batch.having.get(m, torch.ones_like(scores[:, 0], dtype=torch.bool)) for m in modalities]
    return scores.where(torch.stack(having, 1), lacking)


class Saliency(nn.Module, ABC):
    """A score S_m(x) for each modality m of each example x; larger means more salient."""

    non_negative: ClassVar[bool]
    """Whether a score can never be below 0, so that scores can be used as weights as they are."""

    reading: ClassVar[Reading] = "share"
    """What a large score says: that the modality is needed, that it is enough, or that its share is large."""

    asks_labels: bool = False
    """Whether it looks at the targets, which unlabelled examples do not have."""

    asks_model: ClassVar[bool] = False
    """Whether it looks at the teacher's model itself, which a teacher whose answers are cached does not have."""

    def look(self, model: MultimodalModel, inputs: Inputs) -> dict[str, Tensor]:
        """What it wants to know of the teacher itself, beside its predictions.

        Args:
            model: the teacher's.
            inputs: the full view.

        Returns:
            what `forward` then finds among the features of the view `full`.
        """
        return {}

    def completed(self, prediction: ModelOutput, shown: Tensor | None) -> ModelOutput:
        """A teacher's output on a view, once examples of which the view shows nothing are taken care of.

        Args:
            prediction: the output, logits [B, C].
            shown: bool [B], the others; None if the view shows something of each.
        """
        return prediction

    @abstractmethod
    def views(self, modalities: Sequence[str]) -> tuple[str, ...]:
        """The views on which it wants the teacher's predictions."""

    @abstractmethod
    def forward(self, predictions: Mapping[str, ModelOutput], targets: Tensor, modalities: Sequence[str]) -> Tensor:
        """The scores.

        Args:
            predictions: the teacher's output, logits [B, C], on each of `views(modalities)` by name.
            targets: int64 [B] or float [B, C].
            modalities: M names, the order of the scores.

        Returns:
            float [B, M].
        """


SALIENCIES: Registry[Saliency] = Registry("saliency", "saliencies", Saliency)
