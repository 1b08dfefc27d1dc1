"""Views in which student and teacher order the classes differently are left out, example by example."""

from __future__ import annotations

import torch
from torch import Tensor

from msd_framework.losses.base import at_least_float32
from msd_framework.weighting.base import WEIGHTINGS, Evidence, WeightingStrategy

BLOCK = 32  # classes that are compared with all others at once


@WEIGHTINGS.register("rank_filter")
class RankFilter(WeightingStrategy):
    r"""A view of an example counts if student and teacher rank the classes alike, else not at all.

    .. math:: w_v(x) = 1 \text{ if } \tau\left(f(x_v), f_T(x_v)\right) > \tau_0 \text{ else } 0

    with :math:`\tau` Kendall's rank correlation (tau-b) of the logits, from -1 to 1, of any task. The weights are not scaled up
    for what is left out; `weight/<view>` in the log is the part of the examples that is kept.

    **Half of C2KD's selective distillation** (Huo et al., CVPR 2024, "On-the-Fly Selection Distillation"), whose other half is
    the loss `non_target_kl`. There, learned classifiers on top of both models' features (proxies) are compared, and the teacher
    learns as well, as in the objective `c2kd`; here the models' own logits are, and it does not. A threshold of 0 is that of the
    released code.

    Args:
        threshold: :math:`\tau_0`, at least -1 and below 1.
    """

    def __init__(self, threshold: float = 0.0):
        super().__init__()
        if not -1 <= threshold < 1:
            raise ValueError(f"threshold must be at least -1 and below 1, got {threshold}.")
        self.threshold = threshold

    def forward(self, evidence: Evidence) -> Tensor:
        tau = kendall(evidence.student, evidence.teacher)  # [V, B], or [V, B, L] for a score a position
        tau = tau if tau.ndim == 2 else tau.mean(-1)
        return (tau > self.threshold).to(evidence.losses.dtype)


def kendall(a: Tensor, b: Tensor) -> Tensor:
    r"""Kendall's rank correlation along the last dimension, tau-b, 0 where one of both is constant.

    .. math:: \tau = \frac{\sum_{ij} \mathrm{sgn}(a_i - a_j) \, \mathrm{sgn}(b_i - b_j)}
        {\sqrt{\sum_{ij} \mathrm{sgn}(a_i - a_j)^2 \sum_{ij} \mathrm{sgn}(b_i - b_j)^2}}

    (Kendall, Biometrika 1945), of float [.., C]: float [..].

    >>> kendall(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]))  # two pairs of three are ordered alike
    tensor(0.3333)
    """
    a, b = at_least_float32(a), at_least_float32(b)
    alike, pairs_a, pairs_b = (a.new_zeros(a.shape[:-1]) for _ in range(3))
    for first in range(0, a.shape[-1], BLOCK):
        some = slice(first, first + BLOCK)
        sign_a = torch.sign(a[..., some, None] - a[..., None, :])  # [.., BLOCK, C]
        sign_b = torch.sign(b[..., some, None] - b[..., None, :])
        alike = alike + (sign_a * sign_b).sum((-2, -1))
        pairs_a = pairs_a + sign_a.abs().sum((-2, -1))
        pairs_b = pairs_b + sign_b.abs().sum((-2, -1))
    return alike / (pairs_a * pairs_b).sqrt().clamp(min=1)
