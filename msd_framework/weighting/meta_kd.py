"""How important each modality is, learned from held-out examples; important ones teach the others more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from msd_framework.ranges import not_negative, positive
from msd_framework.schedules import HeldOut, Mean, Progress
from msd_framework.structures import Setting
from msd_framework.views import FULL, View, named_in
from msd_framework.weighting.base import WEIGHTINGS, Evidence, WeightingStrategy
from msd_framework.weighting.learned import Adam


@WEIGHTINGS.register("meta_kd")
class ModalityImportance(WeightingStrategy):
    r"""A view in which one modality teaches another counts by how much more important the teaching one is.

    .. math::
        w_{m > n} = \frac{s_m}{s_n}, \qquad s = \mathrm{softmax}(a), \qquad
        a \leftarrow a - \mathrm{Adam}\Big(\nabla_a \, \ell_\mathrm{held\ out}\big(\theta'(a)\big)\Big)

    with :math:`a` [M] one number for each modality that teaches or learns alone, 0 at first, and :math:`\theta'` the student's
    parameters after one step of its own optimizer with these weights. Views such as `full`, in which no single modality teaches
    another, count 1. Source: Wang et al., Meta-Learned Modality-Weighted Knowledge Distillation for Robust Multi-Modal Learning
    with Missing Data (MetaKD), arXiv:2405.07155: the importances, their ratio, the pairs, Adam and its rates are those of the
    paper and its released code. With `teacher: {ema: 0.99}` the student's own modalities teach each other, as there. Where an
    example lacks either modality, the view is left out.

    **What differs from the paper.** There importances learn from how much it lowers a validation loss to scale each modality's
    features by its importance before they are fused, which no model here does; here they learn from how much they help an
    update, exactly, as those of `learned` do (docs/learned_weights.md). There features are compared, by their absolute
    difference; here predictions are, by the objective's distillation loss. There importances begin at random numbers, learn
    every 100 updates (`every`), and decay through the gradient.

    Args:
        held_out: the share of the training examples that is kept out of the batches and learned from, above 0 and below 1.
        held_out_batch_size: how many of them are in a batch, over all processes.
        every: updates from one change of the importances to the next.
        lr: the learning rate of Adam, above 0.
        weight_decay: its weight decay, at least 0, decoupled from the gradient.
    """

    signs: Tensor
    importance: Tensor

    def __init__(
        self,
        held_out: float = 0.1,
        held_out_batch_size: int = 32,
        every: int = 1,
        lr: float = 1e-2,
        weight_decay: float = 5e-4,
    ):
        super().__init__()
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must be above 0 and below 1, got {held_out}.")
        positive(held_out_batch_size=held_out_batch_size, every=every, lr=lr)
        not_negative(weight_decay=weight_decay)
        self.lr, self.weight_decay = lr, weight_decay
        self._held_out = HeldOut(held_out, held_out_batch_size, every)

    @property
    def held_out(self) -> HeldOut:
        return self._held_out

    def learned(self, views: tuple[View, ...]) -> tuple[bool, ...]:
        return tuple(map(_is_pair, views))

    def prepare(self, views: tuple[View, ...]) -> None:
        pairs = [view for view in views if _is_pair(view)]
        modalities = sorted({side for view in pairs for side in (view.teacher, view.student)})
        signs = torch.zeros(len(views), len(modalities))
        for row, view in zip(signs, views):
            if _is_pair(view):
                row[modalities.index(view.teacher)], row[modalities.index(view.student)] = 1.0, -1.0
        # log w is signs @ a: what the softmax divides by falls out of the ratio
        self.register_buffer("signs", signs, persistent=False)  # [V, M]
        self.register_buffer("importance", torch.zeros(len(modalities)))  # a
        self.adam = Adam(len(modalities), self.lr, self.weight_decay)

    def begin_update(self, progress: Progress) -> None:
        self.looks_ahead = len(self.importance) > 0 and progress.update % self._held_out.every == 0

    def forward(self, evidence: Evidence) -> Tensor:
        return (self.signs @ self.importance).exp().to(evidence.losses)  # [V]

    def learn(self, slopes: Sequence[Tensor], mean: Mean) -> None:
        by_view = torch.stack([part.sum(1) for part in slopes]).sum(0).to(self.importance)  # by log w, [V]
        self.importance.copy_(self.adam(self.importance, mean(by_view @ self.signs)))
        self.looks_ahead = False

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting, views: tuple[View, ...]) -> list[str]:
        if any(map(_is_pair, views)):
            return []
        shown = ", ".join(view.name for view in views)
        text = "meta_kd weighs views in which one modality teaches another, such as {teacher: audio, student: image}"
        return [f"type: {text}, and these are {shown}. Add one, or take learned."]


def _is_pair(view: View) -> bool:
    """Whether one modality alone teaches another one alone."""
    single = all(side != FULL and list(named_in(side)) == [side] for side in (view.teacher, view.student))
    return single and view.teacher != view.student
