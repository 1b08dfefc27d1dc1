"""Divergence at a temperature that learns to make the student's task harder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from msd_framework.losses.base import DISTILLATION_LOSSES
from msd_framework.losses.distributions import OfClasses, OfLabels, kl, log_distributions
from msd_framework.ranges import not_negative, positive
from msd_framework.schedules import Mean, Number, Progress, Scheduled, UpdateHook
from msd_framework.structures import ModelOutput

PUBLISHED_STRENGTH: Number = {"start": 0.0, "end": 1.0, "over": 0.04, "shape": "cosine"}  # 10 of 240 epochs


@DISTILLATION_LOSSES.register("ctkd")
class LearnedTemperature(OfClasses, UpdateHook):
    r"""`kl` at a temperature that climbs the loss while the student descends it, ever more as the run goes.

    .. math::
        D = T^2 \sum_c p_c (\log p_c - \log q_c), \qquad T = a + (b - a) \, \sigma(\theta), \qquad
        \theta \leftarrow \theta + s(t) \, \Delta\theta, \qquad \frac{\partial D}{\partial \theta}
        \text{ is replaced by } -\frac{\partial D}{\partial \theta}

    with :math:`p, q` the softmax of the teacher's and the student's logits divided by T, :math:`\theta` one number for all
    examples and views, 1 at first, :math:`\Delta\theta` the step of the student's optimizer, and :math:`s(t)` the strength, which
    grows from 0 (Li et al., Curriculum Temperature for Knowledge Distillation, AAAI 2023, arXiv:2211.16231, section 3, the global
    form; with plain SGD, values, the student's gradients and T are those of the released code). T is saved and resumed with the
    objective.

    **What differs from the paper.** It counts the growth of s in epochs, 10 of 240; here it is a schedule over the run, whose
    default has the same share. Its strength scales the gradient of T, whose optimizer is SGD; here it scales the step, since
    Adam's steps are as large as the rate whatever the gradient. For the same reason T has a rate of its own, and does not decay.
    The instance-wise form, in which a net reads T from both models' logits, is left out: the released code has none. Lambda and
    the views' weights scale the gradient of T as they scale D. In a loop of your own s acts through `begin_update` and
    `end_update` of the objective.

    `temperature` in the log is T.

    Args:
        smallest: a, above 0, which T stays above.
        largest: b, above a, which T stays below.
        strength: s, 0 or more, how much of the optimizer's step is made; as published if null,
            `{start: 0, end: 1, over: 0.04, shape: cosine}`.
        lr_factor: how much faster than the student's parameters the temperature learns, above 0.
    """

    def __init__(self, smallest: float = 1.0, largest: float = 21.0, strength: Number | None = None, lr_factor: float = 10.0):
        super().__init__()
        positive(smallest=smallest, largest=largest, lr_factor=lr_factor)
        if largest <= smallest:
            raise ValueError(f"largest must be above smallest, {smallest}, got {largest}.")
        self.smallest, self.largest, self.lr_factor = smallest, largest, lr_factor
        self.strength = Scheduled("strength", PUBLISHED_STRENGTH if strength is None else strength)
        not_negative(**{f"strength.{end}": value for end, value in zip(("start", "end"), self.strength.ends)})
        self.theta = nn.Parameter(torch.ones(()))
        self.before = self.theta.detach().clone()  # theta at the start of this update

    @property
    def temperature(self) -> Tensor:
        """T, a scalar, whose gradient is reversed."""
        fixed = self.theta.detach()
        theta = fixed - (self.theta - fixed)  # the same number, with another gradient
        return self.smallest + (self.largest - self.smallest) * theta.sigmoid()

    def begin_update(self, progress: Progress) -> None:
        self.before = self.theta.detach().clone()

    def end_update(self, mean: Mean) -> None:
        # Of a gradient times s Adam makes the same step as of the gradient.
        with torch.no_grad():
            self.theta.copy_(self.before.lerp(self.theta, self.strength.value))

    def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        temperature = self.temperature
        log_q, log_p = log_distributions(student, teacher, self.outcomes, temperature)
        return temperature**2 * kl(log_p, log_q).sum(-1)

    def logged(self) -> dict[str, Tensor]:
        return {"temperature": self.temperature.detach()}


@DISTILLATION_LOSSES.register("bernoulli_ctkd")
class LearnedTemperatureOfLabels(OfLabels, LearnedTemperature):
    """`bernoulli_kl` at a temperature that learns as that of `ctkd` does; the paper has single labels only."""
