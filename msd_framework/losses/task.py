"""How far a prediction is from its label, its labels, or its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from msd_framework.losses.base import TASK_LOSSES
from msd_framework.losses.class_weights import ClassWeights, WeighedTaskLoss, as_weights, balanced_answers, balanced_labels
from msd_framework.losses.distributions import logits_of
from msd_framework.ranges import below_one
from msd_framework.structures import IGNORED, ModelOutput, Outcomes, Task


class _OfCompetingClasses(WeighedTaskLoss):
    """A loss of the softmax of the logits, with smoothed targets and weighted classes.

    Args:
        label_smoothing: probability mass that is spread over all classes, at least 0 and below 1.
        class_weights: w, a list, `{name: number}` with 1 for the others, or `balanced`: by their frequency in training; 1 if null.
        num_classes: C, if the weights are to be checked against it.
        class_names: the names of the classes.
    """

    outcomes: ClassVar[Outcomes | None] = "softmax"

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] = (),
    ):
        super().__init__(as_weights("class_weights", class_weights, num_classes, class_names))
        below_one(label_smoothing=label_smoothing)
        self.label_smoothing = label_smoothing

    def balance(self, counts: Tensor, num_examples: int) -> None:
        self.weights = balanced_labels(counts, num_examples).to(self.weights)


@TASK_LOSSES.register("cross_entropy")
class CrossEntropy(_OfCompetingClasses):
    r"""Negative log-probability of the right class, for one label an example.

    .. math:: \ell = -\sum_c w_c \left[(1 - \varepsilon) 1_{c = y} + \varepsilon / C\right] \log p_c

    with :math:`p` the softmax of the logits, :math:`y` the target, :math:`\varepsilon` the label smoothing (Szegedy
    et al., 2016, section 7) and :math:`w` the weights of the classes, as in torch's `cross_entropy` without reduction. The mean
    over a batch divides by its examples, not by their weights. A target of -100 has loss 0.
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"single_label"})

    def forward(self, output: ModelOutput, targets: Tensor) -> Tensor:
        logits = logits_of(output)
        weights = None if self.weights is None else self.weights.to(logits.dtype)
        smoothing = self.label_smoothing
        losses = F.cross_entropy(logits, targets, weights, ignore_index=IGNORED, label_smoothing=smoothing, reduction="none")
        # torch gives -0.0 where the right class has probability 1, and reports would print its sign
        return losses + 0.0


@TASK_LOSSES.register("binary_cross_entropy")
class BinaryCrossEntropy(WeighedTaskLoss):
    r"""Negative log-probability of each label by itself, for several labels or scores an example.

    .. math:: \ell = -\sum_c \left[w_c \tilde y_c \log \sigma(z_c) + (1 - \tilde y_c) \log(1 - \sigma(z_c))\right],
        \qquad \tilde y_c = (1 - \varepsilon) y_c + \varepsilon / 2

    with :math:`z` the logits, :math:`y` the targets in [0, 1], :math:`\varepsilon` the label smoothing, each label being a
    choice between two, and :math:`w` the weights of a yes. The sum over classes is what VQA models are trained with
    (Anderson et al., 2018; MMF's `logit_bce` is the mean times C).

    Args:
        class_reduction: whether the classes' losses are added up or averaged.
        label_smoothing: probability mass that is spread over yes and no of each label, at least 0 and below 1.
        pos_weight: w, a list, `{name: number}` with 1 for the others, or `balanced`: yes and no count the same; 1 if null.
        num_classes: C, if the weights are to be checked against it.
        class_names: the names of the labels.
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"multi_label", "soft_target"})
    outcomes: ClassVar[Outcomes | None] = "bernoulli"

    def __init__(
        self,
        class_reduction: Literal["sum", "mean"] = "sum",
        label_smoothing: float = 0.0,
        pos_weight: ClassWeights | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] = (),
    ):
        super().__init__(as_weights("pos_weight", pos_weight, num_classes, class_names))
        below_one(label_smoothing=label_smoothing)
        self.class_reduction, self.label_smoothing = class_reduction, label_smoothing

    def balance(self, counts: Tensor, num_examples: int) -> None:
        self.weights = balanced_answers(counts, num_examples).to(self.weights)

    def forward(self, output: ModelOutput, targets: Tensor) -> Tensor:
        logits = logits_of(output)
        y = smoothed(targets.to(logits.dtype), self.label_smoothing, 2)
        weights = None if self.weights is None else self.weights.to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, y, reduction="none", pos_weight=weights)  # [N, C]
        return losses.sum(1) if self.class_reduction == "sum" else losses.mean(1)


@TASK_LOSSES.register("soft_cross_entropy")
class SoftCrossEntropy(_OfCompetingClasses):
    r"""Negative log-probability of the classes, each counted by its score, for soft targets that compete.

    .. math:: \ell = -\sum_c w_c \left[(1 - \varepsilon) y_c + \varepsilon / C\right] \log p_c

    with :math:`p` the softmax of the logits, :math:`y` the scores, which need not add up to 1, :math:`\varepsilon` the label
    smoothing, and :math:`w` the weights of the classes.
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({"soft_target"})

    def forward(self, output: ModelOutput, targets: Tensor) -> Tensor:
        y = smoothed(targets, self.label_smoothing, targets.shape[-1])
        y = y if self.weights is None else y * self.weights.to(y.dtype)
        return -(y * logits_of(output).log_softmax(1)).sum(1)  # [N]


def smoothed(targets: Tensor, label_smoothing: float, num_outcomes: int) -> Tensor:
    """Targets of which a share is spread over all outcomes (Szegedy et al., 2016, section 7)."""
    return (1 - label_smoothing) * targets + label_smoothing / num_outcomes if label_smoothing else targets
