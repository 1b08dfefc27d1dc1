"""The terms of the distillation objective and their sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from msd_framework.structures import Batch, LossTerm
from msd_framework.views import View
from msd_framework.weighting.base import mean_of_shown


@dataclass(frozen=True)
class DistillationTerms:
    r"""The terms of a batch, with their graphs.

    .. math:: L = \frac1B \sum_i \left[(1 - \lambda) \, \ell_i + \frac{\lambda}{N_i} \sum_{n \in i} \sum_v w_{vn} D_{vn}\right]
        + \lambda \sum_k \beta_k \frac1B \sum_i F_{ki} + \lambda P

    with :math:`N_i` the targets of example i, one of a classifier.
    """

    batch: Batch  # B examples, and their N targets
    views: Sequence[View]
    distill_weight: float  # lambda
    task: Tensor  # l, float [B]
    distill: Tensor  # D, float [V, N]
    weights: Tensor  # w, float [V, 1] or [V, N]
    features: Sequence[LossTerm]  # F and beta
    penalty: Tensor | None  # P, what the weighting adds, a scalar
    shown: Tensor | None  # bool [V, N], which targets are distilled on a view; None if all are on each

    def loss(self) -> Tensor:
        """L, a scalar."""
        lam = self.distill_weight
        distill = self.batch.mean_of_targets((self.weights * self.distill).sum(0))  # [B]
        loss = ((1 - lam) * self.task + lam * distill).mean()
        if self.features:
            loss = loss + lam * torch.stack([term.weight * term.values.mean() for term in self.features]).sum()
        if self.penalty is not None:
            loss = loss + lam * self.penalty
        return loss

    def each(self) -> Iterator[LossTerm]:
        """The terms one by one; their contributions add up to the loss."""
        lam = self.distill_weight
        yield LossTerm("task", self.task, 1 - lam, option="objective.distill_weight", setting=lam)
        distill, share = self.distill, self.batch.target_share(self.distill.dtype)
        if share is not None:
            # the mean over N targets of these is the mean over examples of the mean over their targets
            distill = distill * share * (distill.shape[1] / len(self.batch))
        for view, values, weight in zip(self.views, distill, self.weights):
            yield LossTerm(f"distill/{view.name}", values, lam, weight, f"weights.{view.name} of objective.weighting")
        for term in self.features:
            yield replace(term, share=lam)
        if self.penalty is not None:
            yield LossTerm("penalty", self.penalty, lam)

    def logged(self) -> dict[str, Tensor]:
        """Detached batch means for the log; those of a view are over the targets that are distilled on it."""
        means = {"task": self.task.detach().mean()}
        for kind, values in (("distill", self.distill), ("weight", self.weights)):
            for view, mean in zip(self.views, mean_of_shown(values.detach(), self.shown)):
                means[f"{kind}/{view.name}"] = mean
        for term in self.features:
            means[term.name] = term.values.detach().mean()
        return means
