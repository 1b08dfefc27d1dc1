"""How much a modality matters to the teacher, an example at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from msd_framework.structures import ModelOutput


def without(modality: str, modalities: Sequence[str]) -> str:
    """The name of the view that hides one modality; where one other is left, that one's name, so that no view has two names.

    Raises:
        ValueError: if no other modality is left.

    >>> without("image", ["image", "text"]), without("image", ["audio", "image", "text"])
    ('text', '~image')
    """
    others = [m for m in modalities if m != modality]
    if not others:
        raise ValueError(f"no view is without {modality!r}, which is the only modality; this saliency needs two or more.")
    return others[0] if len(others) == 1 else f"~{modality}"


class Saliency(nn.Module, ABC):
    """A score S_m(x) for each modality m of each example x; larger means more salient."""

    non_negative: ClassVar[bool]
    """Whether a score can never be below 0, so that scores can be used as weights as they are."""

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
