"""Losses on relations between predictions: correlations instead of equality (DIST), and pairs of examples and of classes."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.losses.base import DISTILLATION_LOSSES
from msd_framework.losses.distributions import OfClasses, OfLabels, kl, log_distributions, probabilities
from msd_framework.ranges import not_negative, positive
from msd_framework.schedules import Number, positive_scheduled
from msd_framework.structures import ModelOutput

SMALLEST = 1e-8  # the least length that a vector is divided by
PUBLISHED_TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


@DISTILLATION_LOSSES.register("dist")
class ClassRelations(OfClasses):
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
class LabelRelations(OfLabels, ClassRelations):
    """How badly the probabilities of labels correlate, within each example and, label by label, over the batch.

    `dist` with the sigmoid in the place of the softmax; the paper has single labels only.
    """


@DISTILLATION_LOSSES.register("multi_level")
class MultiLevel(OfClasses):
    r"""Class probabilities compared by example, by pair of examples and by pair of classes, at several temperatures.

    .. math::
        D = \sum_T \Big[ w_1 \frac{T^2}{B} \sum_i \mathrm{KL}(p_i \| q_i)
        + w_2 \frac1B \lVert p p^\top - q q^\top \rVert_F^2 + w_3 \frac1C \lVert p^\top p - q^\top q \rVert_F^2 \Big]

    with :math:`p, q` [B, C] the softmax of the teacher's and the student's logits divided by :math:`T` (Jin et al., CVPR
    2023, "Multi-level logit distillation", section 3, without its augmentation and its choice of examples and classes). Example
    i has its row of the second term, and all examples the same value of the third, which grows with the square of the batch.

    Args:
        temperatures: T, each above 0; 2, 3, 4, 5 and 6 as published if null.
        instance_weight: :math:`w_1`, at least 0.
        batch_weight: :math:`w_2`, at least 0.
        class_weight: :math:`w_3`, at least 0.
    """

    mixes_examples: ClassVar[bool] = True

    def __init__(
        self,
        temperatures: list[float] | None = None,
        instance_weight: float = 1.0,
        batch_weight: float = 1.0,
        class_weight: float = 1.0,
    ):
        super().__init__()
        not_negative(instance_weight=instance_weight, batch_weight=batch_weight, class_weight=class_weight)
        self.temperatures = PUBLISHED_TEMPERATURES if temperatures is None else tuple(temperatures)
        if not self.temperatures:
            raise ValueError("temperatures must name at least one, got none.")
        for i, temperature in enumerate(self.temperatures):
            positive(**{f"temperatures[{i}]": temperature})
        self.weights = instance_weight, batch_weight, class_weight

    def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        value = self.levels(student, teacher, self.temperatures[0])
        for temperature in self.temperatures[1:]:
            value = value + self.levels(student, teacher, temperature)
        return value

    def levels(self, student: ModelOutput, teacher: ModelOutput, temperature: float) -> Tensor:
        of_instances, of_batch, of_classes = self.weights
        log_q, log_p = log_distributions(student, teacher, self.outcomes, temperature)
        divergence = kl(log_p, log_q).sum(-1)
        q, p = probabilities(log_q, self.outcomes), probabilities(log_p, self.outcomes)  # [N, C]
        # autocast would compute these products in half precision
        with torch.autocast(p.device.type, enabled=False):
            examples = (p @ p.T - q @ q.T).square().sum(1)
            classes = (p.T @ p - q.T @ q).square().sum() / p.shape[1]  # one value for all examples
        return of_instances * temperature**2 * divergence + of_batch * examples + of_classes * classes


@DISTILLATION_LOSSES.register("bernoulli_multi_level")
class BernoulliMultiLevel(OfLabels, MultiLevel):
    """Probabilities of labels compared by example, by pair of examples and by pair of labels, at several temperatures.

    `multi_level` with the sigmoid in the place of the softmax and `bernoulli_kl` in that of `kl`; the paper has single labels only.
    """


def _unit(values: Tensor, dim: int) -> Tensor:
    """Centred and scaled to length 1 along a dimension; 0 where nothing varies."""
    return F.normalize(values - values.mean(dim, keepdim=True), dim=dim, eps=SMALLEST)
