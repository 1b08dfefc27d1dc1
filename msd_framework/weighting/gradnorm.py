"""Weights that let every view pull on the student with a like force."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from msd_framework.models.base import MultimodalModel
from msd_framework.ranges import not_negative, positive
from msd_framework.schedules import Mean, Progress
from msd_framework.views import View
from msd_framework.weighting.base import WEIGHTINGS, Evidence, WeightingStrategy
from msd_framework.weighting.normalise import SMALLEST, ratio


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
