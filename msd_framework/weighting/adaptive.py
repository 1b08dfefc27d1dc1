"""Weights that adapt to how the views' losses and gradients go: schemes of multi-task learning, whose tasks are the views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from msd_framework.models.base import MultimodalModel
from msd_framework.ranges import not_negative, positive
from msd_framework.schedules import Mean, Progress
from msd_framework.views import View
from msd_framework.weighting.base import WEIGHTINGS, Evidence, WeightingStrategy
from msd_framework.weighting.normalise import SMALLEST, ratio, softmax


@WEIGHTINGS.register("uncertainty")
class UncertaintyWeights(WeightingStrategy):
    r"""Each view counts by the inverse of its variance, which is learned with the student.

    .. math:: \sum_v w_v D_v + \tfrac12 \sum_v s_v, \qquad w_v = e^{-s_v} = 1 / \sigma_v^2

    with :math:`s_v = \log \sigma_v^2` a parameter of each view, 0 at first, and :math:`D_v` its distillation loss (Kendall
    et al., CVPR 2018, arXiv:1705.07115, section 3.2, in the form for class probabilities, equation 10). Where the loss of a
    view stays the same, its weight tends to :math:`1 / (2 D_v)`: **a view that is hard to learn counts less and one that is
    nearly learned counts more**, without a bound as its loss nears 0, and the weights do not average to 1. All views are
    weighed, `full` as well; lambda and the task loss are left alone.

    Args:
        lr_factor: how much faster than the student's parameters the variances learn, above 0.
    """

    log_variance: nn.Parameter

    def __init__(self, lr_factor: float = 100.0):
        super().__init__()
        positive(lr_factor=lr_factor)
        self.lr_factor = lr_factor

    def prepare(self, views: tuple[View, ...]) -> None:
        self.log_variance = nn.Parameter(torch.zeros(len(views)))

    def forward(self, evidence: Evidence) -> Tensor:
        return torch.exp(-self.log_variance)  # [V]

    def penalty(self) -> Tensor:
        return self.log_variance.sum() / 2


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


@WEIGHTINGS.register("gradnorm")
class GradNormWeights(WeightingStrategy):
    r"""Weights that balance the norms of the views' gradients, with more for views that learn slowly.

    .. math::
        G_v &= w_v \lVert \nabla_W D_v \rVert_2, \qquad
        r_v = \frac{D_v / D_v(0)}{\frac1V \sum_u D_u / D_u(0)} \\
        w_v &\leftarrow w_v - \eta \, \frac{\partial}{\partial w_v} \frac{1}{\bar G} \sum_u \left| G_u - \bar G r_u^\alpha \right|

    then scaled to a mean of 1, with :math:`W` the weights of the student's last layer (of each modality's, where their logits
    are averaged), :math:`\bar G` the mean of :math:`G_v` (taken as a constant, as is :math:`r_v`), and :math:`D_v(0)` the view's
    loss in the first update (Chen et al., ICML 2018, arXiv:1711.02257, section 3 and algorithm 1). The division by
    :math:`\bar G` is ours: :math:`\eta` then means the same whatever the size of the loss. All V views are weighed, `full` as well.

    Args:
        alpha: how strongly slow views are favoured, at least 0; 0 makes all norms equal.
        lr: eta, above 0.
        every: updates from one change of the weights to the next.
    """

    weights: Tensor
    first: Tensor

    def __init__(self, alpha: float = 1.5, lr: float = 0.025, every: int = 1):
        super().__init__()
        not_negative(alpha=alpha)
        positive(lr=lr, every=every)
        self.alpha, self.lr, self.every = alpha, lr, every
        self.parts: list[tuple[Tensor, Tensor]] = []  # losses [V] and gradients [V, P] of the parts of this update
        self.looks = False

    def prepare(self, views: tuple[View, ...]) -> None:
        self.register_buffer("weights", torch.ones(len(views), dtype=torch.float64))  # [V]
        self.register_buffer("first", torch.full((len(views),), torch.inf, dtype=torch.float64))  # infinite until it is known

    def begin_update(self, progress: Progress) -> None:
        self.looks = progress.update % self.every == 0
        self.parts.clear()

    def watched(self, model: MultimodalModel) -> Sequence[nn.Parameter]:
        if not self.looks:
            return []
        weights = [dict(layer.named_parameters())["weight"] for layer in model.output_layers()]
        weights = [weight for weight in weights if weight.requires_grad]
        if not weights:
            raise ValueError(
                f"gradnorm watches the linear layers that give the {model.num_classes} logits, and {type(model).__name__} has "
                f"none that learns. Take another weighting."
            )
        return weights

    def forward(self, evidence: Evidence) -> Tensor:
        if evidence.gradients is not None:
            self.parts.append((evidence.mean(evidence.losses.double()), evidence.gradients))
        return self.weights.to(evidence.losses.dtype, copy=True)  # the buffer changes in place

    def end_update(self, mean: Mean) -> None:
        if not self.parts:
            return
        losses, gradients = (mean(torch.stack(values).mean(0)) for values in zip(*self.parts))  # [V], [V, P]
        self.first.copy_(torch.where(self.first.isinf(), losses, self.first))
        norms = gradients.double().norm(dim=1)
        pulls = self.weights * norms
        progress = (losses + SMALLEST) / (self.first + SMALLEST)
        r = progress / progress.mean()
        slope = torch.sign(pulls - pulls.mean() * r**self.alpha) * norms / (pulls.mean() + SMALLEST)
        self.weights.copy_(ratio(self.weights - self.lr * slope))
