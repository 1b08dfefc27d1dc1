"""Weights by how noisy each view's loss is, learned with the student."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from msd_framework.ranges import positive
from msd_framework.views import View
from msd_framework.weighting.base import WEIGHTINGS, Evidence, WeightingStrategy


@WEIGHTINGS.register("uncertainty")
class UncertaintyWeights(WeightingStrategy):
    r"""Each view counts by the inverse of its variance, which is learned with the student.

    .. math:: \sum_v w_v D_v + \tfrac12 \sum_v s_v, \qquad w_v = e^{-s_v} = 1 / \sigma_v^2

    with :math:`s_v = \log \sigma_v^2` a parameter of each view, 0 at first, and :math:`D_v` its distillation loss (Kendall
    et al., CVPR 2018, arXiv:1705.07115, section 3.2, in the form for class probabilities, equation 10). Where the loss of a
    view stays the same, its weight tends to :math:`1 / (2 D_v)`: **a view that is hard to learn counts less and one that is
    nearly learned counts more**, without a bound as its loss nears 0, and the weights do not average to 1. All views are
    weighed, `full` as well; lambda and the task loss are left alone.

    Args:
        lr_factor: how much faster than the student's parameters the variances learn, above 0.
    """

    log_variance: nn.Parameter

    def __init__(self, lr_factor: float = 100.0):
        super().__init__()
        positive(lr_factor=lr_factor)
        self.lr_factor = lr_factor

    def prepare(self, views: tuple[View, ...]) -> None:
        self.log_variance = nn.Parameter(torch.zeros(len(views)))

    def forward(self, evidence: Evidence) -> Tensor:
        return torch.exp(-self.log_variance)  # [V]

    def penalty(self) -> Tensor:
        return self.log_variance.sum() / 2
