"""Divergences beside that of Hinton et al.: reversed, symmetric, and bounded."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from msd_framework.losses.base import DistillationLoss
from msd_framework.losses.distributions import by_example, kl, log_bernoulli, log_softmax
from msd_framework.progress import Number, positive_dial
from msd_framework.registry import DISTILLATION_LOSSES
from msd_framework.structures import ModelOutput, Task

SOFTMAX: frozenset[Task] = frozenset({"single_label", "soft_target"})
BERNOULLI: frozenset[Task] = frozenset({"multi_label", "soft_target"})


@DISTILLATION_LOSSES.register("reverse_kl")
class ReverseKL(DistillationLoss):
    r"""Divergence of the teacher's class probabilities from the student's, both softened by a temperature.

    .. math:: D = T^2 \sum_c q_c (\log q_c - \log p_c)

    with :math:`p` and :math:`q` the softmax of the teacher's and the student's logits divided by :math:`T`. It punishes
    what the student believes and the teacher does not, where `kl` punishes what the student misses: a student that is too
    small for all of the teacher's answer keeps to its peaks (Gu et al., 2024, arXiv:2306.08543, section 2.1).

    Args:
        temperature: T, above 0, or a ramp such as `{start: 4, end: 1}`.

    Raises:
        ValueError: if the temperature is not positive.

    >>> student, teacher = ModelOutput(torch.tensor([[0.0, 100.0]])), ModelOutput(torch.zeros(1, 2))
    >>> ReverseKL()(student, teacher)  # log 2: the student is sure, the teacher tosses a coin
    tensor([0.6931])
    """

    tasks: ClassVar[frozenset[Task]] = SOFTMAX

    def __init__(self, temperature: Number = 1.0):
        super().__init__()
        self.temperature = positive_dial("temperature", temperature)

    def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        temperature = self.temperature.value
        log_q = log_softmax(student, temperature)
        log_p = log_softmax(teacher, temperature).detach()
        return temperature**2 * by_example(kl(log_q, log_p))


@DISTILLATION_LOSSES.register("bernoulli_reverse_kl")
class BernoulliReverseKL(DistillationLoss):
    r"""Divergence of the teacher's probability of each label from the student's, added up over labels.

    .. math:: D = T^2 \sum_c \left[q_c \log \frac{q_c}{p_c} + (1 - q_c) \log \frac{1 - q_c}{1 - p_c}\right]

    with :math:`p` and :math:`q` the sigmoid of the teacher's and the student's logits divided by :math:`T`: `reverse_kl`
    between all labels together, where they are independent given the input.

    Args:
        temperature: T, above 0, or a ramp such as `{start: 4, end: 1}`.

    Raises:
        ValueError: if the temperature is not positive.

    >>> student, teacher = ModelOutput(torch.tensor([[0.0, 100.0, -100.0]])), ModelOutput(torch.zeros(1, 3))
    >>> BernoulliReverseKL()(student, teacher)  # 2 log 2: they agree on the first label alone
    tensor([1.3863])
    """

    tasks: ClassVar[frozenset[Task]] = BERNOULLI

    def __init__(self, temperature: Number = 1.0):
        super().__init__()
        self.temperature = positive_dial("temperature", temperature)

    def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        temperature = self.temperature.value
        log_q = log_bernoulli(student, temperature)
        log_p = log_bernoulli(teacher, temperature).detach()
        return temperature**2 * by_example(kl(log_q, log_p).sum(-1))


@DISTILLATION_LOSSES.register("bernoulli_js")
class BernoulliJensenShannon(DistillationLoss):
    r"""Jensen-Shannon divergence between the probabilities of each label, added up over labels: from 0 to C.

    .. math:: D = \sum_c \mathrm{JS}\left(\mathrm{Bernoulli}(p_c), \mathrm{Bernoulli}(q_c)\right)

    in bits, with :math:`p` and :math:`q` the sigmoid of the teacher's and the student's logits: `js` (Lin, 1991, equation
    4.1) of each label by itself.

    >>> student, teacher = ModelOutput(torch.tensor([[100.0, 0.0]])), ModelOutput(torch.tensor([[-100.0, 0.0]]))
    >>> BernoulliJensenShannon()(student, teacher)  # they disagree on the first label as much as can be
    tensor([1.])
    """

    tasks: ClassVar[frozenset[Task]] = BERNOULLI

    def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        log_q = log_bernoulli(student)
        log_p = log_bernoulli(teacher).detach()
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        return by_example((kl(log_p, log_m) + kl(log_q, log_m)).sum(-1)) / (2 * math.log(2))


@DISTILLATION_LOSSES.register("tvd")
class TotalVariation(DistillationLoss):
    r"""Total variation distance between the class probabilities: symmetric, and between 0 and 1.

    .. math:: D = \tfrac12 \sum_c |p_c - q_c|

    with :math:`p` and :math:`q` the softmax of the teacher's and the student's logits. No single class pulls harder than
    another however wrong it is, so it bears with a teacher that is sometimes badly wrong (Wen et al., 2023,
    arXiv:2307.15190, section 3).

    >>> TotalVariation()(ModelOutput(torch.zeros(1, 2)), ModelOutput(torch.tensor([[0.0, 100.0]])))
    tensor([0.5000])
    """

    tasks: ClassVar[frozenset[Task]] = SOFTMAX

    def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        q, p = log_softmax(student).exp(), log_softmax(teacher).exp().detach()
        return by_example((p - q).abs().sum(-1)) / 2


@DISTILLATION_LOSSES.register("bernoulli_tvd")
class BernoulliTotalVariation(DistillationLoss):
    r"""Total variation distance between the probabilities of each label, added up over labels: from 0 to C.

    .. math:: D = \sum_c |p_c - q_c|

    with :math:`p` and :math:`q` the sigmoid of the teacher's and the student's logits: `tvd` of each label by itself, which
    is at least that of all labels together.

    >>> BernoulliTotalVariation()(ModelOutput(torch.zeros(1, 2)), ModelOutput(torch.tensor([[0.0, 100.0]])))
    tensor([0.5000])
    """

    tasks: ClassVar[frozenset[Task]] = BERNOULLI

    def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        q, p = log_bernoulli(student)[..., 0].exp(), log_bernoulli(teacher)[..., 0].exp().detach()
        return by_example((p - q).abs().sum(-1))
