"""Divergence of all classes but the right one, for teachers that see another modality."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from msd_framework.losses.base import DISTILLATION_LOSSES, LabelledDistillationLoss
from msd_framework.losses.decoupled import DecoupledKL
from msd_framework.losses.distributions import kl, log_bernoulli, logits_of
from msd_framework.schedules import Number, positive_scheduled
from msd_framework.structures import DatasetInfo, ModelOutput, Task


@DISTILLATION_LOSSES.register("non_target_kl")
class NonTargetKL(LabelledDistillationLoss):
    r"""Divergence among the wrong classes alone: how sure of the right one each modality may be is left to it.

    .. math:: D = T^2 \sum_{c \ne y} \hat p_c \log \frac{\hat p_c}{\hat q_c}, \qquad \hat p_c = p_c / (1 - p_y)

    with the symbols of `dkd`, which it is with `alpha: 0` and `beta: 1`.

    **Half of C2KD's selective distillation** (Huo et al., CVPR 2024), whose other half is the weighting `rank_filter`. Left out
    are the paper's proxies of student and teacher, and what flows back: there the teacher is trained too, here it stays as it
    is. The released code sets the right class's logit to 0 where this takes the class out.

    Args:
        temperature: T, above 0, or a schedule such as `{start: 4, end: 1}`.

    >>> student, teacher = ModelOutput(torch.tensor([[9.0, 0.0, 0.0]])), ModelOutput(torch.tensor([[1.0, 2.0, 2.0]]))
    >>> NonTargetKL()(student, teacher, torch.tensor([0])).abs() < 1e-6  # neither prefers one of the wrong classes
    tensor([True])
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"single_label"})

    def __init__(self, temperature: Number = 1.0):
        super().__init__()
        self.decoupled = DecoupledKL(alpha=0.0, beta=1.0, temperature=temperature)

    def forward(self, student: ModelOutput, teacher: ModelOutput, targets: Tensor | None = None) -> Tensor:
        value: Tensor = self.decoupled(student, teacher, targets)
        return value

    @classmethod
    def check(cls, info: DatasetInfo) -> list[str]:
        few = f"needs three classes or more, got {info.num_classes}: nothing can be said among one wrong class. Take kl."
        return [few] if info.num_classes < 3 else []


@DISTILLATION_LOSSES.register("bernoulli_non_target_kl")
class BernoulliNonTargetKL(LabelledDistillationLoss):
    r"""Divergence about the labels that an example does not have, added up over them.

    .. math:: D = T^2 \sum_{c : y_c = 0} \left[p_c \log \frac{p_c}{q_c} + (1 - p_c) \log \frac{1 - p_c}{1 - q_c}\right]

    with :math:`p` and :math:`q` the sigmoid of the teacher's and the student's logits divided by :math:`T`: `bernoulli_kl`
    without the labels that are right, for which the teacher's answer (above one half) stands where they are not known. The
    paper of `non_target_kl` has single labels only.

    Args:
        temperature: T, above 0, or a schedule such as `{start: 4, end: 1}`.

    >>> student, teacher = ModelOutput(torch.tensor([[0.0, 0.0]])), ModelOutput(torch.tensor([[100.0, 100.0]]))
    >>> BernoulliNonTargetKL()(student, teacher, torch.tensor([[1.0, 0.0]]))  # log 2, of the second label
    tensor([0.6931])
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"multi_label"})

    def __init__(self, temperature: Number = 1.0):
        super().__init__()
        self.temperature = positive_scheduled("temperature", temperature)

    def forward(self, student: ModelOutput, teacher: ModelOutput, targets: Tensor | None = None) -> Tensor:
        temperature = self.temperature.value
        log_q = log_bernoulli(logits_of(student), temperature)  # [N, C, 2]
        log_p = log_bernoulli(logits_of(teacher).detach(), temperature)
        likely = log_p[..., 0] > log_p[..., 1]
        right = likely if targets is None else torch.where(targets.isnan(), likely, targets > 0.5)
        return temperature**2 * kl(log_p, log_q).masked_fill(right, 0.0).sum(-1)
