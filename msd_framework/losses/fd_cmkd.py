"""Summaries compared by frequency: the low ones strictly, the high ones loosely, both also by a classifier of the two models."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msd_framework.losses.base import FEATURE_LOSSES, FeatureLoss, at_least_float32
from msd_framework.losses.defaults import default_task_loss
from msd_framework.losses.labelled import labelled_losses
from msd_framework.ranges import not_negative
from msd_framework.structures import Batch, Feature, FeatureKind, FeatureShape, ModelOutput, Outcomes, Task

SMALLEST = 1e-8  # the least length that a band is divided by


@FEATURE_LOSSES.register("fd_cmkd")
class FrequencyDecoupled(FeatureLoss):
    r"""Distance of the low frequencies of two summaries and, on a logarithmic scale, of their high ones.

    .. math::
        D &= \frac{1}{D'} \left\lVert \hat s^{\,l} - \hat t^{\,l} \right\rVert^2
            + \frac{1}{D'} \left\lVert g(\hat s^{\,h}) - g(\hat t^{\,h}) \right\rVert^2
            + \gamma \sum_{b \in \{l, h\}} \left[\ell\left(W_b \, \mathrm{relu}(s^b), y\right)
            + \ell\left(W_b \, \mathrm{relu}(t^b), y\right)\right] \\
        g(x) &= \mathrm{sgn}(x) \log(1 + |x|), \qquad \hat x = x / \lVert x \rVert

    with :math:`s^l, s^h` [B, D'] what is left of the student's summary :math:`s` if only the lower or the higher frequencies of
    its Fourier transform over the features are kept, the constant in neither; :math:`t` the teacher's; :math:`W_b` a linear
    classifier of both models' band, bias included, which learns with the student; and :math:`\ell` the usual loss of the task,
    0 where the label is unknown. Source: Liu et al., Distilling Cross-Modal Knowledge via Feature Disentanglement, AAAI 2026
    (arXiv:2511.19887): strong and weak consistency, scale consistency (the lengths), shared classifier. Bands, distances and
    classifiers are those of the released code.

    **What differs from the paper.** It gives the student two more classifiers, of its low and of its high band alone, and
    reports the best of the three; here the student keeps the one that it has. It distils audio and images into each other in one
    run; here each direction is a run. Both its models are 512 wide; here a student of another width is mapped by the adaptor. Its
    form for segmentation, on maps, is left out.

    Args:
        cutoff: the share of the frequencies that are low, above 0 and below 1.
        classifier_weight: gamma, at least 0.
        num_classes: C.
        task: how targets are read.
        outcomes: how logits are read; as is usual for the task if null.
    """

    takes: ClassVar[frozenset[FeatureKind]] = frozenset({"pooled"})
    same_width: ClassVar[bool] = True

    def __init__(
        self,
        cutoff: float = 0.5,
        classifier_weight: float = 1.0,
        num_classes: int = 2,
        task: Task = "single_label",
        outcomes: Outcomes | None = None,
    ):
        super().__init__()
        if not 0 < cutoff < 1:
            raise ValueError(f"cutoff must be above 0 and below 1, got {cutoff}.")
        not_negative(classifier_weight=classifier_weight)
        self.cutoff, self.classifier_weight, self.num_classes = cutoff, classifier_weight, num_classes
        self.task_loss = default_task_loss(task, outcomes)

    def prepare(self, student: FeatureShape, teacher: FeatureShape) -> None:
        frequencies = teacher.width // 2  # but for the constant
        self.num_low = round(self.cutoff * frequencies)
        if not 0 < self.num_low < frequencies:
            raise ValueError(
                f"cutoff={self.cutoff} leaves a band without any of the {frequencies} frequencies of {teacher.width} features."
            )
        self.classifiers = nn.ModuleList(nn.Linear(teacher.width, self.num_classes) for _ in ("low", "high"))

    def forward(self, student: Feature, teacher: Feature, batch: Batch) -> Tensor:
        # autocast would compute products in half precision
        with torch.autocast(student.values.device.type, enabled=False):
            of_student = self.bands(at_least_float32(student.values))
            of_teacher = self.bands(at_least_float32(teacher.values).detach())
            (s_low, s_high), (t_low, t_high) = map(_unit, of_student), map(_unit, of_teacher)
            value = (s_low - t_low).square().mean(1) + (_log(s_high) - _log(t_high)).square().mean(1)
            if self.classifier_weight == 0:
                return value
            for classify, *bands in zip(self.classifiers, of_student, of_teacher):
                for band in bands:
                    logits = batch.spread(classify(band.relu()).T).T  # [N, C]
                    value = value + self.classifier_weight * labelled_losses(self.task_loss, ModelOutput(logits), batch)
        return value

    def bands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The low and the high frequencies of vectors [B, D'], each as a vector [B, D']."""
        spectrum = torch.fft.rfft(x, dim=1)  # [B, 1 + D' // 2]
        place = torch.arange(spectrum.shape[1], device=x.device)
        low = (place > 0) & (place <= self.num_low)
        high = place > self.num_low
        return tuple(torch.fft.irfft(spectrum * band, n=x.shape[1], dim=1) for band in (low, high))


def _unit(band: Tensor) -> Tensor:
    return F.normalize(band, dim=1, eps=SMALLEST)


def _log(x: Tensor) -> Tensor:
    return x.sign() * x.abs().log1p()
