"""How much each view of each example counts in the distillation loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from msd_framework.components.registry import Registry
from msd_framework.models.base import MultimodalModel
from msd_framework.saliency.base import Saliency
from msd_framework.schedules import HeldOut, Mean, UpdateHook
from msd_framework.structures import Setting
from msd_framework.views import View


@dataclass(frozen=True)
class Evidence:
    """What a strategy may look at; nothing in it carries a graph.

    Where `shown` is False the target does not count and its weight is 0: padding, and where an example has nothing of what a view
    shows.
    """

    views: tuple[View, ...]
    modalities: tuple[str, ...]  # M names of the teacher's, sorted
    teacher: Tensor  # the teacher's logits on the teacher's side of each view, float [V, N, C]
    student: Tensor  # the student's logits on the student's side, float [V, N, C]
    losses: Tensor  # distillation losses, float [V, N]
    teacher_losses: Tensor  # the teacher's task loss on each view, float [V, N]; 0 for an unknown target
    saliency: Tensor | None  # scores float [N, M] if the strategy has a `saliency`
    targets: Tensor  # int64 [N] or float [N, C]
    # of each view's mean loss with respect to the P numbers that the strategy watches, float [V, P]; None where it watches
    # nothing, and where nothing is learned
    gradients: Tensor | None = None
    shown: Tensor | None = None  # bool [V, N]; None where each target counts on each view
    example_of: Tensor | None = None  # int64 [N], the example of each target where examples have several; None where N = B

    def mean(self, values: Tensor) -> Tensor:
        """Values [V, N, ..] averaged over the targets that count on the view, [V, ..]."""
        return mean_of_shown(values, self.shown)


def mean_of_shown(values: Tensor, shown: Tensor | None) -> Tensor:
    """Values [V, N, ..] averaged over the targets that count, bool [V, N], all of them if None; 0 where none does."""
    if shown is None:
        return values.mean(1)
    counts = shown.sum(1).clamp(min=1).to(values.dtype)  # [V]
    values = torch.where(shown.view(*shown.shape, *[1] * (values.ndim - 2)), values, 0.0)
    return values.sum(1) / counts.view(-1, *[1] * (values.ndim - 2))


class WeightingStrategy(UpdateHook, ABC):
    """Non-negative weights for the views of a batch.

    A strategy whose weights follow the run overrides `begin_update` and `end_update`, keeps what it knows in buffers, and
    takes the mean over the processes of what it saw in its own examples before it keeps it.
    """

    renamed: ClassVar[Mapping[str, str]] = {"asks_labels": "needs_labels", "change_gradients": "after_backward"}

    needs_fit: ClassVar[bool] = False  # whether `fit` must see the training examples before the first step
    needs_labels: ClassVar[bool] = False  # whether it looks at labels so that training examples without one are not allowed
    per_example: ClassVar[bool] = False  # whether its weights [V, B] are of examples, whose targets share them, not of N targets

    saliency: Saliency | None  # the scores that it wants in its evidence

    def __init__(self) -> None:
        super().__init__()
        self.saliency = None  # in the instance: a default of the class would hide a submodule of that name
        self.looks_ahead = False  # whether it learns from held-out examples in the update that is under way

    @abstractmethod
    def forward(self, evidence: Evidence) -> Tensor:
        """Weights [V] when shared by all targets, else [V, N], or [V, B] of a strategy that weighs examples (`per_example`)."""

    def prepare(self, views: tuple[View, ...]) -> None:
        """Makes the parameters and buffers that depend on the views, when an objective takes the strategy."""

    def penalty(self) -> Tensor | None:
        """What is added to the weighted losses, a scalar; None where weights are not learned by the loss itself."""
        return None

    def watched(self, model: MultimodalModel) -> Sequence[nn.Parameter]:
        """Parameters of the student whose gradient from each view it wants in its evidence in this forward pass."""
        return ()

    @property
    def held_out(self) -> HeldOut | None:
        """The training examples that it learns from, which the batches must not hold; None if it learns from none."""
        return None

    def learned(self, views: tuple[View, ...]) -> tuple[bool, ...]:
        """Whether it learns the weight of each view from held-out examples."""
        return (False,) * len(views)

    def learn(self, slopes: Sequence[Tensor], mean: Mean) -> None:
        """Learns from how the loss of held-out examples, after an update, depends on the weights that it was made with.

        Slopes are its derivatives with respect to the weights' logarithms, float [V, B], for each part of the update's batch;
        `mean` is over the processes.
        """

    def fit(self, scores: Iterable[Tensor]) -> None:
        """Looks at the saliency scores, float [B, M] a batch, of all training examples once; NaN of what an example lacks."""

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting, views: tuple[View, ...]) -> list[str]:
        """What would not work in a run with these views, as sentences."""
        return []


WEIGHTINGS: Registry[WeightingStrategy] = Registry("weighting", "weightings", WeightingStrategy)
