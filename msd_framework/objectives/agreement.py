"""Learning from labels with each modality alone, and to give the same logits with each."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from msd_framework.losses import default_task_loss
from msd_framework.losses.base import TaskLoss, at_least_float32
from msd_framework.losses.labelled import known_losses
from msd_framework.maskers.base import Masker, Views
from msd_framework.models.base import MultimodalModel
from msd_framework.objectives.base import OBJECTIVES, Objective
from msd_framework.structures import Batch, LossTerm, ModelOutput, Setting, StepOutput, Task, check_logits
from msd_framework.views import FULL


@OBJECTIVES.register("agreement")
class AgreementObjective(Objective):
    r"""The task loss of each modality alone, and how far their logits are apart.

    .. math:: L = \sum_m \ell(f(x_m), y) + w \sum_{m < n} \frac{1}{C} \lVert f(x_m) - f(x_n) \rVert^2

    averaged over the batch, with :math:`x_m` the example with modality m alone (Xue et al., The Modality Focusing Hypothesis,
    ICLR 2023, arXiv:2206.06487, Algorithm 1, step 1, with w = 1).

    Args:
        agree_weight: w.
        task_loss: what a prediction is compared with its target by; the task's usual one if null.
        task: how targets are read.
    """

    masker: Masker

    def __init__(
        self,
        model: MultimodalModel,
        masker: Masker,
        agree_weight: float = 1.0,
        task_loss: TaskLoss | None = None,
        task: Task = "single_label",
    ):
        super().__init__()
        if agree_weight < 0:
            raise ValueError(f"agree_weight must be 0 or more, got {agree_weight}.")
        self.model, self.masker, self.agree_weight = model, masker, agree_weight
        self.task_loss = task_loss or default_task_loss(task)

    def forward(self, batch: Batch) -> StepOutput:
        shown = Views(self.masker, batch)
        names = [FULL, *self.model.modalities]
        logits = self.model.forward_views([shown[name].inputs for name in names]).logits
        full, *alone = at_least_float32(check_logits(logits, batch, type(self.model).__name__))  # [N, C] each

        having, losses, gaps = [], [], []
        for modality, z in zip(self.model.modalities, alone):
            own = batch.spread(batch.having[modality]) if modality in batch.having else None
            having.append(own)
            # an example that lacks a modality has no loss of it alone
            losses.append(_where(known_losses(self.task_loss, ModelOutput(z), batch), own))
        for (z, own), (other, theirs) in combinations(zip(alone, having), 2):
            gaps.append(_where((z - other).square().mean(1), own, theirs))
        task = batch.mean_of_targets(torch.stack(losses).sum(0))  # [B]
        apart = batch.mean_of_targets(torch.stack(gaps).sum(0))  # [B]

        loss = (task + self.agree_weight * apart).mean()
        apart_term = LossTerm("apart", apart, weight=self.agree_weight, option="objective.agree_weight")
        logged = {"task": task.detach().mean(), "apart": apart.detach().mean()}
        return StepOutput(loss, logged, ModelOutput(full), (LossTerm("task", task), apart_term))

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        taken = setting.student_modalities
        if len(taken) > 1:
            return []
        return [f"agreement is between two modalities or more, and the model takes {', '.join(taken)} alone."]


def _where(losses: Tensor, *having: Tensor | None) -> Tensor:
    """Losses [N], 0 of examples that lack something."""
    for rows in having:
        losses = losses if rows is None else losses.where(rows, 0.0)
    return losses
