"""Weights by the teacher's error: a view counts by how right the teacher is on it."""

from __future__ import annotations

from torch import Tensor

from msd_framework.weighting.base import WEIGHTINGS, Evidence, WeightingStrategy
from msd_framework.weighting.normalise import non_negative, normaliser, weigh


@WEIGHTINGS.register("teacher_loss")
class TeacherLossWeights(WeightingStrategy):
    r"""Each example's views count by how small the teacher's loss is on them.

    .. math:: w_v(x) = V \frac{e^{-\ell(f_T(x_v), y) / T}}{\sum_u e^{-\ell(f_T(x_u), y) / T}}

    over the V views other than `full`, whose mean weight is 1 for every example.

    Args:
        temperature: T, above 0; larger gives more equal weights.
        full_weight: the weight of the view `full`, at least 0.
    """

    def __init__(self, temperature: float = 1.0, full_weight: float = 1.0):
        super().__init__()
        self.normalise = normaliser("softmax", temperature)
        self.full_weight = non_negative("full_weight", full_weight)

    def forward(self, evidence: Evidence) -> Tensor:
        return weigh(-evidence.teacher_losses, evidence.views, self.full_weight, self.normalise, evidence.shown)  # [V, B]
