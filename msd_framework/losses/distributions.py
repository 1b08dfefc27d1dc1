"""Logits as log-probabilities, and what losses on them share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.losses.base import at_least_float32
from msd_framework.structures import ModelOutput, Outcomes, Task

SOFTMAX: frozenset[Task] = frozenset({"single_label", "soft_target"})
"""The tasks whose logits may be read as one choice among C classes."""

BERNOULLI: frozenset[Task] = frozenset({"multi_label", "soft_target"})
"""The tasks whose logits may be read as C answers, yes or no each."""


def logits_of(output: ModelOutput) -> Tensor:
    """The logits [.., C], in float32 at least."""
    return at_least_float32(output.logits)


def log_softmax(output: ModelOutput, temperature: float = 1.0) -> Tensor:
    """Log-probabilities of the classes, [.., C]."""
    return (logits_of(output) / temperature).log_softmax(-1)


def log_bernoulli(output: ModelOutput, temperature: float = 1.0) -> Tensor:
    """Log-probabilities of yes and of no for each label, [.., C, 2]."""
    z = logits_of(output) / temperature
    return torch.stack([F.logsigmoid(z), F.logsigmoid(-z)], -1)


def log_distributions(output: ModelOutput, outcomes: Outcomes, temperature: float = 1.0) -> Tensor:
    """Log-probabilities of all that logits tell of: of one choice, [.., 1, C], or of C answers, [.., C, 2]."""
    if outcomes == "softmax":
        return log_softmax(output, temperature).unsqueeze(-2)
    return log_bernoulli(output, temperature)


def probabilities(log_p: Tensor, outcomes: Outcomes) -> Tensor:
    """The probability of each class, or of yes to each label, [.., C]; of what `log_distributions` gives."""
    return (log_p[..., 0, :] if outcomes == "softmax" else log_p[..., 0]).exp()


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Divergence of q from p, sum p (log p - log q), of log-probabilities [.., K]: float [..]."""
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)


def by_example(values: Tensor) -> Tensor:
    """Values [B] as they are, [B, L] averaged over positions."""
    return values if values.ndim == 1 else values.mean(1)
