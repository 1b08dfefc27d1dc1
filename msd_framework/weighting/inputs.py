"""The inputs of a net that computes weights, for each view of each example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from msd_framework.errors import did_you_mean
from msd_framework.losses.base import at_least_float32
from msd_framework.losses.distributions import log_bernoulli, log_softmax
from msd_framework.structures import Outcomes, Task, outcomes_of
from msd_framework.weighting.base import Evidence
from msd_framework.weighting.saliency import view_saliency

Input: TypeAlias = Literal["view", "loss", "teacher_loss", "entropy", "probabilities", "saliency"]
INPUTS: tuple[str, ...] = get_args(Input)


class WeightInputs:
    """F numbers for each view of each example."""

    def __init__(self, names: Sequence[str], num_views: int, num_classes: int, task: Task, outcomes: Outcomes | None = None):
        if not names:
            raise ValueError(f"inputs must name at least one of {', '.join(INPUTS)}, got none.")
        for name in names:
            if name not in INPUTS:
                raise ValueError(f"inputs must be of {', '.join(INPUTS)}, got {name!r}.{did_you_mean(name, INPUTS)}")
        sizes = {"view": num_views, "probabilities": num_classes}
        self.names, self.size = tuple(names), sum(sizes.get(name, 1) for name in names)
        self.outcomes = outcomes_of(task, outcomes)

    def __call__(self, evidence: Evidence) -> Tensor:
        """The inputs, [V, B, F], in the precision of the losses."""
        return torch.cat([self._read(name, evidence).to(evidence.losses) for name in self.names], -1)

    def _read(self, name: str, evidence: Evidence) -> Tensor:
        """One of the inputs, [V, B, 1], [V, B, V] of `view` or [V, B, C] of `probabilities`."""
        if name == "view":
            num_views, num_examples = evidence.losses.shape
            rows = torch.arange(num_views, device=evidence.losses.device)[:, None].expand(-1, num_examples)
            return F.one_hot(rows, num_views)
        if name == "loss":
            return evidence.losses[..., None]
        if name == "teacher_loss":
            return evidence.teacher_losses[..., None]
        if name == "saliency":
            assert evidence.saliency is not None
            return view_saliency(evidence.saliency, evidence.modalities, evidence.views)[..., None]
        # of the outcomes that exclude each other: C classes, or yes and no of each label
        logits = at_least_float32(evidence.teacher)
        log_p = log_softmax(logits) if self.outcomes == "softmax" else log_bernoulli(logits)  # [V, N, C] or [V, N, C, 2]
        if name == "probabilities":
            return log_p.exp() if self.outcomes == "softmax" else log_p.exp()[..., 0]
        entropy = -(log_p.exp() * log_p).sum(-1)  # [V, N] or [V, N, C]
        return entropy[..., None] if self.outcomes == "softmax" else entropy.mean(-1, keepdim=True)
