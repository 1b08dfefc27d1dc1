"""The divergence of Hinton et al. in two parts: of the right class against the others, and among the others."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from msd_framework.losses.base import DISTILLATION_LOSSES, LabelledDistillationLoss
from msd_framework.losses.distributions import kl, log_distributions, log_softmax, logits_of
from msd_framework.ranges import not_negative
from msd_framework.schedules import Number, positive_scheduled
from msd_framework.structures import IGNORED, DatasetInfo, ModelOutput, Task


@DISTILLATION_LOSSES.register("dkd")
class DecoupledKL(LabelledDistillationLoss):
    r"""Divergence about the right class against all others, and that among the wrong classes, each with its own weight.

    .. math::
        D &= T^2 \left[\alpha \, \mathrm{KL}(b^T \| b^S) + \beta \, \mathrm{KL}(\hat p^T \| \hat p^S)\right] \\
        b &= (p_y, 1 - p_y), \qquad \hat p_c = p_c / (1 - p_y) \quad (c \ne y)

    with :math:`p` the softmax of the logits divided by :math:`T` and :math:`y` the target, or the teacher's likeliest class
    where it is unknown (Zhao et al., CVPR 2022, arXiv:2203.08679, section 3). With :math:`\alpha = 1` and
    :math:`\beta = 1 - p^T_y` it is `kl`; with two classes, one wrong class, :math:`\alpha` times `kl`. The paper lets D grow over
    the first epochs: `distill_weight: {start: 0, end: 0.5, over: 0.1}` does so.

    Args:
        alpha: weight of the right class against the others, at least 0.
        beta: weight of the wrong classes among each other, at least 0.
        temperature: T, above 0, or a schedule such as `{start: 4, end: 1}`.

    >>> student, teacher = ModelOutput(torch.zeros(1, 3)), ModelOutput(torch.tensor([[0.0, 100.0, 0.0]]))
    >>> DecoupledKL(alpha=1, beta=8, temperature=1)(student, teacher, torch.tensor([1]))  # log 3: only the right class differs
    tensor([1.0986])
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"single_label"})

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: Number = 4.0):
        super().__init__()
        not_negative(alpha=alpha, beta=beta)
        self.alpha, self.beta, self.temperature = alpha, beta, positive_scheduled("temperature", temperature)

    def forward(self, student: ModelOutput, teacher: ModelOutput, targets: Tensor | None = None) -> Tensor:
        temperature = self.temperature.value
        log_q = log_softmax(logits_of(student), temperature)
        log_p = log_softmax(logits_of(teacher).detach(), temperature)
        likeliest = log_p.argmax(-1)
        y = likeliest if targets is None else torch.where(targets == IGNORED, likeliest, targets)
        right_q, wrong_q = _decoupled(log_q, y)
        right_p, wrong_p = _decoupled(log_p, y)
        return temperature**2 * (self.alpha * kl(right_p, right_q) + self.beta * kl(wrong_p, wrong_q))


@DISTILLATION_LOSSES.register("non_target_kl")
class NonTargetKL(DecoupledKL):
    r"""Divergence among the wrong classes alone: how sure of the right one each modality may be is left to it.

    .. math:: D = T^2 \sum_{c \ne y} \hat p_c \log \frac{\hat p_c}{\hat q_c}, \qquad \hat p_c = p_c / (1 - p_y)

    with the symbols of `dkd`, which it is with `alpha: 0` and `beta: 1`. **Half of C2KD's selective distillation** (Huo et al.,
    CVPR 2024), whose other half is the weighting `rank_filter`. The paper's proxies of student and teacher, and the training of
    the teacher, are in the objective `c2kd`. The released code sets the right class's logit to 0 where this takes the class out.

    Args:
        temperature: T, above 0, or a schedule such as `{start: 4, end: 1}`.
    """

    def __init__(self, temperature: Number = 1.0):
        super().__init__(0.0, 1.0, temperature)

    @classmethod
    def check(cls, info: DatasetInfo) -> list[str]:
        few = f"needs three classes or more, got {info.num_classes}: nothing can be said among one wrong class. Take kl."
        return [few] if info.num_classes < 3 else []


@DISTILLATION_LOSSES.register("bernoulli_non_target_kl")
class BernoulliNonTargetKL(LabelledDistillationLoss):
    r"""Divergence about the labels that an example does not have, added up over them.

    .. math:: D = T^2 \sum_{c : y_c = 0} \left[p_c \log \frac{p_c}{q_c} + (1 - p_c) \log \frac{1 - p_c}{1 - q_c}\right]

    `bernoulli_kl` without the labels that are right, or that the teacher gives more than one half where they are not known. The
    paper of `non_target_kl` has single labels only.

    Args:
        temperature: T, above 0, or a schedule such as `{start: 4, end: 1}`.
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"multi_label"})

    def __init__(self, temperature: Number = 1.0):
        super().__init__()
        self.temperature = positive_scheduled("temperature", temperature)

    def forward(self, student: ModelOutput, teacher: ModelOutput, targets: Tensor | None = None) -> Tensor:
        temperature = self.temperature.value
        log_q, log_p = log_distributions(student, teacher, "bernoulli", temperature)  # [N, C, 2]
        likely = log_p[..., 0] > log_p[..., 1]
        right = likely if targets is None else torch.where(targets.isnan(), likely, targets > 0.5)
        return temperature**2 * kl(log_p, log_q).masked_fill(right, 0.0).sum(-1)


def _decoupled(log_p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the class y and of all others together, [.., 2], and of each other one if it is not y, [.., C - 1]."""
    others = torch.arange(log_p.shape[-1] - 1, device=log_p.device)
    others = others + (others >= y[..., None])  # [.., C - 1], the classes but y
    right, wrong = log_p.gather(-1, y[..., None]), log_p.gather(-1, others)
    return torch.cat([right, wrong.logsumexp(-1, keepdim=True)], -1), wrong.log_softmax(-1)
