"""The inputs of a net that computes weights, for each view of each example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

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
"""`view`: which of the views it is; `loss`: the distillation loss; `teacher_loss`: the teacher's task loss; `entropy` and
`probabilities`: of the teacher's predictions; `saliency`: of the modalities that the teacher sees."""


class WeightInputs:
    """F numbers for each view of each example.

    Args:
        names: which ones.
        num_views: V.
        num_classes: C.
        task: how targets are read.
        outcomes: how the teacher's logits are read; as is usual for the task if None.

    Raises:
        ValueError: if there is none, or one is unknown.

    >>> WeightInputs(["view", "loss"], num_views=3, num_classes=2, task="single_label").size
    4
    """

    def __init__(self, names: Sequence[str], num_views: int, num_classes: int, task: Task, outcomes: Outcomes | None = None):
        if not names:
            raise ValueError(f"inputs must name at least one of {', '.join(READINGS)}, got none.")
        for name in names:
            if name not in READINGS:
                raise ValueError(f"inputs must be of {', '.join(READINGS)}, got {name!r}.{did_you_mean(name, READINGS)}")
        sizes = {"view": num_views, "probabilities": num_classes}
        self.names, self.size = tuple(names), sum(sizes.get(name, 1) for name in names)
        self.outcomes = outcomes_of(task, outcomes)

    def __call__(self, evidence: Evidence) -> Tensor:
        """The inputs, [V, B, F], in the precision of the losses."""
        read = [READINGS[name](evidence, self.outcomes).to(evidence.losses) for name in self.names]
        return torch.cat(read, -1)


def _view(evidence: Evidence, outcomes: Outcomes) -> Tensor:
    num_views, num_examples = evidence.losses.shape
    of = torch.arange(num_views, device=evidence.losses.device)[:, None].expand(-1, num_examples)
    return F.one_hot(of, num_views)  # [V, B, V]


def _log_probabilities(evidence: Evidence, outcomes: Outcomes) -> Tensor:
    """Of the outcomes that exclude each other: C classes, or yes and no of each label; [V, N, C] or [V, N, C, 2]."""
    logits = at_least_float32(evidence.teacher)
    return log_softmax(logits) if outcomes == "softmax" else log_bernoulli(logits)


def _entropy(evidence: Evidence, outcomes: Outcomes) -> Tensor:
    log_p = _log_probabilities(evidence, outcomes)
    terms = -(log_p.exp() * log_p).sum(-1)  # [V, N] or [V, N, C]
    return terms.mean(-1, keepdim=True) if outcomes == "bernoulli" else terms[..., None]


def _probabilities(evidence: Evidence, outcomes: Outcomes) -> Tensor:
    p = _log_probabilities(evidence, outcomes).exp()
    return p if outcomes == "softmax" else p[..., 0]  # [V, B, C]


def _saliency(evidence: Evidence, outcomes: Outcomes) -> Tensor:
    assert evidence.saliency is not None
    return view_saliency(evidence.saliency, evidence.modalities, evidence.views)[..., None]


READINGS: dict[str, Callable[[Evidence, Outcomes], Tensor]] = {
    "view": _view,
    "loss": lambda evidence, outcomes: evidence.losses[..., None],
    "teacher_loss": lambda evidence, outcomes: evidence.teacher_losses[..., None],
    "entropy": _entropy,
    "probabilities": _probabilities,
    "saliency": _saliency,
}
