"""Logits as log-probabilities, and what losses on them share."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.losses.base import DistillationLoss, at_least_float32
from msd_framework.structures import ModelOutput, Outcomes, Task


class OfClasses(DistillationLoss):
    """A loss that reads logits as one choice among C classes."""

    tasks: ClassVar[frozenset[Task]] = frozenset({"single_label", "soft_target"})
    outcomes: ClassVar[Outcomes] = "softmax"


class OfLabels(OfClasses):
    """A loss that reads logits as C answers, yes or no each."""

    tasks: ClassVar[frozenset[Task]] = frozenset({"multi_label", "soft_target"})
    outcomes: ClassVar[Outcomes] = "bernoulli"


def logits_of(output: ModelOutput) -> Tensor:
    """The logits [N, C], in float32 at least."""
    if output.logits.ndim != 2:
        raise ValueError(
            f"a loss takes logits [N, C], a row for each target, got {list(output.logits.shape)}. Of a model that writes text, "
            f"take the rows of its answers' tokens: logits[targets != -100]."
        )
    return at_least_float32(output.logits)


def log_softmax(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Log-probabilities of the classes, [.., C]."""
    return (logits / temperature).log_softmax(-1)


def log_bernoulli(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Log-probabilities of yes and of no for each label, [.., C, 2]."""
    z = logits / temperature
    return torch.stack([F.logsigmoid(z), F.logsigmoid(-z)], -1)


def log_distributions(
    student: ModelOutput, teacher: ModelOutput, outcomes: Outcomes, temperature: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the student and of the teacher: [N, 1, C] of a softmax, [N, C, 2] of C answers.

    The teacher's logits are without a graph; a temperature that learns has one on both sides.
    """
    z, z_teacher = logits_of(student), logits_of(teacher).detach()
    if outcomes == "softmax":
        return log_softmax(z, temperature)[:, None], log_softmax(z_teacher, temperature)[:, None]
    return log_bernoulli(z, temperature), log_bernoulli(z_teacher, temperature)


def probabilities(log_p: Tensor, outcomes: Outcomes) -> Tensor:
    """The probability of each class, or of yes to each label, [N, C]; of what `log_distributions` gives."""
    return (log_p[:, 0] if outcomes == "softmax" else log_p[..., 0]).exp()


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Divergence of q from p, sum p (log p - log q), of log-probabilities [.., K]: float [..]."""
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
