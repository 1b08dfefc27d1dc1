"""Predictions compared on three levels: examples, pairs of examples, and pairs of classes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from msd_framework.losses.base import DISTILLATION_LOSSES, DistillationLoss
from msd_framework.losses.distributions import BERNOULLI, SOFTMAX, kl, log_distributions, probabilities
from msd_framework.ranges import not_negative, positive
from msd_framework.structures import ModelOutput, Outcomes, Task

PUBLISHED_TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


@DISTILLATION_LOSSES.register("multi_level")
class MultiLevel(DistillationLoss):
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

    tasks: ClassVar[frozenset[Task]] = SOFTMAX
    outcomes: ClassVar[Outcomes] = "softmax"
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
class BernoulliMultiLevel(MultiLevel):
    """Probabilities of labels compared by example, by pair of examples and by pair of labels, at several temperatures.

    `multi_level` with the sigmoid in the place of the softmax and `bernoulli_kl` in that of `kl`; the paper has single labels only.
    """

    tasks: ClassVar[frozenset[Task]] = BERNOULLI
    outcomes: ClassVar[Outcomes] = "bernoulli"
