r"""How far a student's logits are from its teacher's.

Most of these losses have two names. As published, a loss is for one choice among C classes: their probabilities :math:`p` (of the
teacher) and :math:`q` (of the student) are the softmax of the logits, divided by T where there is a temperature. With `bernoulli_`
in front it is for C labels, each a yes or a no by itself: their probabilities are the sigmoid of the logits, and

.. math:: D = \sum_c D\left((p_c, 1 - p_c), (q_c, 1 - q_c)\right)

For `kl` and `reverse_kl` that is the loss of all labels together where they are independent.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from msd_framework.losses.base import DISTILLATION_LOSSES, DistillationLoss, LabelledDistillationLoss, compare
from msd_framework.losses.distributions import OfClasses, OfLabels, kl, log_distributions, logits_of, probabilities
from msd_framework.schedules import Number, positive_scheduled
from msd_framework.structures import DatasetInfo, ModelOutput, Task

SMALLEST = 1e-7  # added to the standard deviation of logits


class _SoftenedDivergence(OfClasses):
    """A divergence of probabilities that a temperature softens, times its square, which keeps the size of the gradient.

    Args:
        temperature: T, above 0; larger shows more of the wrong classes. Or a schedule such as `{start: 4, end: 1}`.
    """

    def __init__(self, temperature: Number = 1.0):
        super().__init__()
        self.temperature = positive_scheduled("temperature", temperature)

    def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        temperature = self.temperature.value
        log_q, log_p = log_distributions(student, teacher, self.outcomes, temperature)
        return temperature**2 * self.divergence(log_p, log_q).sum(-1)

    @abstractmethod
    def divergence(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Float [N, 1] of a softmax or [N, C] of labels, from the teacher's and the student's `log_distributions`."""


@DISTILLATION_LOSSES.register("kl")
class SoftenedKL(_SoftenedDivergence):
    r"""Divergence of the student's class probabilities from the teacher's, both softened by a temperature.

    .. math:: D = T^2 \sum_c p_c (\log p_c - \log q_c)

    (Hinton et al., 2015, arXiv:1503.02531, section 2).

    >>> student, teacher = ModelOutput(torch.zeros(1, 2)), ModelOutput(torch.tensor([[0.0, 100.0]]))
    >>> SoftenedKL()(student, teacher)  # log 2: the teacher is sure, the student tosses a coin
    tensor([0.6931])
    """

    def divergence(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return kl(log_p, log_q)


@DISTILLATION_LOSSES.register("bernoulli_kl")
class BernoulliKL(OfLabels, SoftenedKL):
    r"""Divergence of the student's probability of each label from the teacher's, added up over labels.

    .. math:: D = T^2 \sum_c \left[p_c \log \frac{p_c}{q_c} + (1 - p_c) \log \frac{1 - p_c}{1 - q_c}\right]
    """


@DISTILLATION_LOSSES.register("reverse_kl")
class ReverseKL(_SoftenedDivergence):
    r"""Divergence of the teacher's class probabilities from the student's, both softened by a temperature.

    .. math:: D = T^2 \sum_c q_c (\log q_c - \log p_c)

    A student that is too small for all of the teacher's answer keeps to its peaks (Gu et al., 2024, arXiv:2306.08543, section 2.1).
    """

    def divergence(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return kl(log_q, log_p)


@DISTILLATION_LOSSES.register("bernoulli_reverse_kl")
class BernoulliReverseKL(OfLabels, ReverseKL):
    r"""Divergence of the teacher's probability of each label from the student's, added up over labels.

    .. math:: D = T^2 \sum_c \left[q_c \log \frac{q_c}{p_c} + (1 - q_c) \log \frac{1 - q_c}{1 - p_c}\right]
    """


@DISTILLATION_LOSSES.register("js")
class JensenShannon(OfClasses):
    r"""Jensen-Shannon divergence between the class probabilities: symmetric, and between 0 and 1.

    .. math:: D = \tfrac12 \sum_c p_c \log_2 \frac{p_c}{m_c} + \tfrac12 \sum_c q_c \log_2 \frac{q_c}{m_c},
        \qquad m = \tfrac12 (p + q)

    (Lin, 1991, equation 4.1).
    """

    def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        log_q, log_p = log_distributions(student, teacher, self.outcomes)
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        return (kl(log_p, log_m) + kl(log_q, log_m)).sum(-1) / (2 * math.log(2))


@DISTILLATION_LOSSES.register("bernoulli_js")
class BernoulliJensenShannon(OfLabels, JensenShannon):
    r"""Jensen-Shannon divergence between the probabilities of each label, added up over labels: from 0 to C.

    .. math:: D = \sum_c \mathrm{JS}_2\left((p_c, 1 - p_c), (q_c, 1 - q_c)\right)
    """


@DISTILLATION_LOSSES.register("tvd")
class TotalVariation(OfClasses):
    r"""Total variation distance between the class probabilities: symmetric, and between 0 and 1.

    .. math:: D = \tfrac12 \sum_c |p_c - q_c|

    No class pulls harder than another, however wrong it is (Wen et al., 2023, arXiv:2307.15190, section 3).
    """

    def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        log_q, log_p = log_distributions(student, teacher, self.outcomes)
        q, p = probabilities(log_q, self.outcomes), probabilities(log_p, self.outcomes)
        distance = (p - q).abs().sum(-1)
        # of a yes or no, the no is as far off as the yes: half of both is the yes alone
        return distance / 2 if self.outcomes == "softmax" else distance


@DISTILLATION_LOSSES.register("bernoulli_tvd")
class BernoulliTotalVariation(OfLabels, TotalVariation):
    r"""Total variation distance between the probabilities of each label, added up over labels: from 0 to C.

    .. math:: D = \sum_c |p_c - q_c|
    """


@DISTILLATION_LOSSES.register("mse")
class LogitMSE(DistillationLoss):
    r"""Squared difference of the logits, averaged over classes.

    .. math:: D = \frac{1}{C} \sum_c \left(z^S_c - z^T_c\right)^2

    Logits are compared as they are, so a constant added to all of a softmax's logits counts too (Ba and Caruana, 2014,
    section 2.1, who write half the sum).
    """

    def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        return (logits_of(student) - logits_of(teacher).detach()).square().mean(-1)


@DISTILLATION_LOSSES.register("standardised")
class Standardised(LabelledDistillationLoss):
    r"""Another loss, of logits with mean 0 and standard deviation 1 over the classes of each example.

    .. math:: D(z^S, z^T) = D'(\mathcal Z(z^S), \mathcal Z(z^T)),
        \qquad \mathcal Z(z) = \frac{z - \bar z}{\sigma(z)},
        \qquad \sigma(z)^2 = \frac{1}{C} \sum_c (z_c - \bar z)^2

    with :math:`D'` the other loss, of a softmax, whose temperature comes after (Sun et al., CVPR 2024, arXiv:2403.01427, section 4
    and algorithm 1). A student that cannot reach the size of its teacher's logits need only have their relations right. The
    released code divides by C - 1 where the paper and this divide by C: a temperature of :math:`\tau \sqrt{C / (C - 1)}` here
    is its :math:`\tau`. Two logits always become 1 and -1, so it is for three classes and more.

    Args:
        loss: D', such as `{type: kl, temperature: 2}`.

    >>> student, teacher = ModelOutput(torch.tensor([[1.0, 2.0, 4.0]])), ModelOutput(torch.tensor([[10.0, 30.0, 70.0]]))
    >>> Standardised(SoftenedKL())(student, teacher).abs() < 1e-6  # twenty times the size, and the same relations
    tensor([True])
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"single_label", "soft_target"})

    def __init__(self, loss: DistillationLoss):
        super().__init__()
        if "single_label" not in loss.tasks:
            name = type(loss).__name__
            raise ValueError(f"loss: {name} reads the level of each logit, which is gone once they are standardised. Take kl.")
        self.loss = loss

    def forward(self, student: ModelOutput, teacher: ModelOutput, targets: Tensor | None = None) -> Tensor:
        return compare(self.loss, _standardised(student), _standardised(teacher), targets)

    def logged(self) -> dict[str, Tensor]:
        return self.loss.logged()

    @classmethod
    def check(cls, info: DatasetInfo) -> list[str]:
        few = f"needs three classes or more, got {info.num_classes}: two standardised logits are always 1 and -1. Leave it out."
        return [few] if info.num_classes < 3 else []


def _standardised(output: ModelOutput) -> ModelOutput:
    z = logits_of(output)
    return replace(output, logits=(z - z.mean(1, keepdim=True)) / (z.std(1, correction=0, keepdim=True) + SMALLEST))
