"""Correlations instead of equality: DIST, for students that are much weaker than their teacher."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from msd_framework.losses.base import DISTILLATION_LOSSES, DistillationLoss
from msd_framework.losses.distributions import BERNOULLI, SOFTMAX, log_distributions, probabilities
from msd_framework.ranges import not_negative
from msd_framework.schedules import Number, positive_scheduled
from msd_framework.structures import ModelOutput, Outcomes, Task

SMALLEST = 1e-8  # the least length that a vector is divided by


@DISTILLATION_LOSSES.register("dist")
class ClassRelations(DistillationLoss):
    r"""How badly the class probabilities correlate, within each example and, class by class, over the batch.

    .. math:: D = T^2 \left[\beta \frac1B \sum_i \left(1 - \rho(p_{i \cdot}, q_{i \cdot})\right)
        + \gamma \frac1C \sum_c \left(1 - \rho(p_{\cdot c}, q_{\cdot c})\right)\right]

    with :math:`\rho` Pearson's correlation and :math:`p, q` [B, C] the softmax of the teacher's and the student's logits
    divided by :math:`T` (Huang et al., NeurIPS 2022, arXiv:2205.10536, section 3). A batch of one has no second term. As
    :math:`1 - \rho(a, b) = \tfrac12 \lVert \hat a - \hat b \rVert^2` for vectors centred and scaled to length 1, example i has
    its own share of it, :math:`\tfrac{B}{2C} \sum_c (\hat p_{ic} - \hat q_{ic})^2`; the mean over the batch is the paper's loss.

    Args:
        beta: weight of the relations between the classes of an example, at least 0.
        gamma: weight of the relations between the examples of a class, at least 0.
        temperature: T, above 0, or a schedule such as `{start: 4, end: 1}`.
    """

    tasks: ClassVar[frozenset[Task]] = SOFTMAX
    outcomes: ClassVar[Outcomes] = "softmax"
    mixes_examples: ClassVar[bool] = True

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: Number = 1.0):
        super().__init__()
        not_negative(beta=beta, gamma=gamma)
        self.beta, self.gamma, self.temperature = beta, gamma, positive_scheduled("temperature", temperature)

    def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        temperature = self.temperature.value
        log_q, log_p = log_distributions(student, teacher, self.outcomes, temperature)
        q, p = probabilities(log_q, self.outcomes), probabilities(log_p, self.outcomes)  # [N, C]
        inter = (_unit(p, 1) - _unit(q, 1)).square().sum(1) / 2
        intra = (_unit(p, 0) - _unit(q, 0)).square().mean(1) * len(p) / 2
        return temperature**2 * (self.beta * inter + self.gamma * intra)


@DISTILLATION_LOSSES.register("bernoulli_dist")
class LabelRelations(ClassRelations):
    """How badly the probabilities of labels correlate, within each example and, label by label, over the batch.

    `dist` with the sigmoid in the place of the softmax; the paper has single labels only.
    """

    tasks: ClassVar[frozenset[Task]] = BERNOULLI
    outcomes: ClassVar[Outcomes] = "bernoulli"


def _unit(values: Tensor, dim: int) -> Tensor:
    """Centred and scaled to length 1 along a dimension; 0 where nothing varies."""
    return F.normalize(values - values.mean(dim, keepdim=True), dim=dim, eps=SMALLEST)
