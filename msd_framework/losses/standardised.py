"""Any loss on logits, of logits that are standardised first."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from msd_framework.losses.base import DISTILLATION_LOSSES, DistillationLoss, LabelledDistillationLoss, compare
from msd_framework.losses.distributions import logits_of
from msd_framework.structures import DatasetInfo, ModelOutput, Task

SMALLEST = 1e-7  # added to the standard deviation


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

    >>> import torch
    >>> from msd_framework.losses.logits import SoftenedKL
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

    @classmethod
    def check(cls, info: DatasetInfo) -> list[str]:
        few = f"needs three classes or more, got {info.num_classes}: two standardised logits are always 1 and -1. Leave it out."
        return [few] if info.num_classes < 3 else []


def _standardised(output: ModelOutput) -> ModelOutput:
    z = logits_of(output)
    return replace(output, logits=(z - z.mean(1, keepdim=True)) / (z.std(1, correction=0, keepdim=True) + SMALLEST))
