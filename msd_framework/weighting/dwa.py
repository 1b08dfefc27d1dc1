"""Weights by how slowly each view's loss falls."""

from __future__ import annotations

import torch
from torch import Tensor

from msd_framework.ranges import positive
from msd_framework.schedules import Mean, Progress
from msd_framework.views import View
from msd_framework.weighting.base import WEIGHTINGS, Evidence, WeightingStrategy
from msd_framework.weighting.normalise import SMALLEST, softmax


@WEIGHTINGS.register("dwa")
class DynamicWeightAverage(WeightingStrategy):
    r"""Each view counts by how slowly its loss fell lately.

    .. math:: w_v = V \frac{e^{r_v / T}}{\sum_u e^{r_u / T}}, \qquad r_v = \frac{\bar D_v(k - 1)}{\bar D_v(k - 2)}

    with :math:`\bar D_v(k)` the mean distillation loss of the view in window k of the run, over all V views, `full` as well;
    in the first two windows all weights are 1 (Liu et al., CVPR 2019, arXiv:1803.10704, section 3.2, where a window is an
    epoch and T is 2). The means are over all processes and parts of a batch.

    Args:
        window: updates of a window; below 1, a share of all updates.
        temperature: T, above 0; larger gives more equal weights.
    """

    weights: Tensor
    total: Tensor
    count: Tensor
    last: Tensor
    before: Tensor

    def __init__(self, window: float = 0.05, temperature: float = 2.0):
        super().__init__()
        positive(window=window, temperature=temperature)
        self.window, self.temperature = window, temperature
        self.losses, self.parts = torch.zeros(()), 0  # the sum over the parts of this update so far, [V]
        self.ends_window = False

    def prepare(self, views: tuple[View, ...]) -> None:
        nothing = torch.zeros(len(views), dtype=torch.float64)
        self.register_buffer("weights", nothing + 1)  # [V]
        self.register_buffer("total", nothing.clone())  # of the losses in this window so far
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))  # of the updates in it
        self.register_buffer("last", nothing + torch.inf)  # in the last window; what is divided by this is 0 for every view
        self.register_buffer("before", nothing + torch.inf)  # in the one before

    def begin_update(self, progress: Progress) -> None:
        length = self.window * progress.num_updates if self.window < 1 else self.window
        self.ends_window = (progress.update + 1) % max(1, round(length)) == 0
        self.losses, self.parts = torch.zeros(()), 0

    def forward(self, evidence: Evidence) -> Tensor:
        self.losses = evidence.mean(evidence.losses.double()) + self.losses.to(evidence.losses.device)
        self.parts += 1
        return self.weights.to(evidence.losses.dtype, copy=True)  # the buffer changes in place

    def end_update(self, mean: Mean) -> None:
        self.total += mean(self.losses / self.parts)
        self.count += 1
        if self.ends_window:
            self.before.copy_(self.last)
            self.last.copy_(self.total / self.count)
            self.weights.copy_(softmax((self.last + SMALLEST) / (self.before + SMALLEST), self.temperature))
            self.total.zero_()
            self.count.zero_()
