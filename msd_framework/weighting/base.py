"""How much each view of each example counts in the distillation loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from msd_framework.saliency.base import Saliency
from msd_framework.structures import Setting, View


@dataclass(frozen=True)
class Evidence:
    """What a strategy may look at; nothing in it carries a graph.

    Args:
        views: V views.
        modalities: M names of the teacher's modalities, sorted.
        teacher: the teacher's logits on the teacher's side of each view, float [V, B, C].
        student: the student's logits on the student's side of each view, float [V, B, C].
        losses: distillation losses, float [V, B].
        teacher_losses: the teacher's task loss on each view, float [V, B].
        saliency: scores float [B, M] if the strategy has a `saliency`, else None.
        targets: int64 [B] or float [B, C].
    """

    views: tuple[View, ...]
    modalities: tuple[str, ...]
    teacher: Tensor
    student: Tensor
    losses: Tensor
    teacher_losses: Tensor
    saliency: Tensor | None
    targets: Tensor


class WeightingStrategy(nn.Module, ABC):
    """Non-negative weights for the views of a batch.

    Attributes:
        saliency: the scores that it wants in its evidence; None if it wants none.
    """

    needs_fit: ClassVar[bool] = False
    """Whether `fit` must see the training examples before the first step."""

    saliency: Saliency | None

    def __init__(self) -> None:
        super().__init__()
        self.saliency = None  # in the instance: a default of the class would hide a submodule of that name

    @abstractmethod
    def forward(self, evidence: Evidence) -> Tensor:
        """Weights [V] when shared by all examples, else [V, B]."""

    def fit(self, scores: Iterable[Tensor]) -> None:
        """Looks at the saliency scores, float [B, M] a batch, of all training examples once."""

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting, views: tuple[View, ...]) -> list[str]:
        """What would not work in a run with these views, as sentences."""
        return []
