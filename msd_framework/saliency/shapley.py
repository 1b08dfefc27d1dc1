"""Saliency by Shapley values: what each modality adds, whichever of the others are there already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from typing import ClassVar, Literal

import torch
from torch import Tensor

from msd_framework.losses.base import DistillationLoss, TaskLoss
from msd_framework.losses.defaults import default_distillation_loss, default_task_loss
from msd_framework.saliency.base import SALIENCIES, Saliency, refuse_other_tasks
from msd_framework.structures import ModelOutput, Outcomes, Task, outcomes_of
from msd_framework.views import FULL, view_name

MOST = 5  # modalities up to which every subset is looked at: 31 views


@SALIENCIES.register("shapley")
class ShapleySaliency(Saliency):
    r"""What the modality adds to the teacher's answer, on average over the orders in which modalities are shown.

    .. math::
        S_m(x) = \sum_{s \subseteq \{1..M\} \setminus m} \frac{|s|! \, (M - |s| - 1)!}{M!}
            \left[v(s \cup m) - v(s)\right]

    with :math:`v(s)` the worth of the teacher's prediction :math:`f_T(x_s)` when it sees the modalities s (Shapley, 1953):

    - ``prediction``: :math:`v(s) = -D(f_T(x), f_T(x_s))`, how near it is to the full prediction;
    - ``loss``: :math:`v(s) = -\ell(f_T(x_s), y)`, how right it is.

    No model can be shown nothing: there, the prediction is the `prior`. The scores of an example add up to the full effect
    :math:`v(\text{all}) - v(\text{none})`, exactly, and may be below 0. It needs all :math:`2^M - 1` views; with two modalities
    it is the mean of both opposite views.

    Args:
        value: v, by the teacher's own full answer or by the target.
        prior: what is predicted where nothing is shown, a probability for each of C classes; all logits are 0 if null.
        distance: D of the value `prediction`; the task's usual divergence if null, at temperature 1.
        task_loss: l of the value `loss`; the task's usual one if null.
        num_classes: C, if the prior is to be checked against it.
        task: how targets are read.
        outcomes: how logits are read; as is usual for the task if null.
    """

    non_negative: ClassVar[bool] = False
    prior: Tensor | None

    def __init__(
        self,
        value: Literal["prediction", "loss"] = "prediction",
        prior: list[float] | None = None,
        distance: DistillationLoss | None = None,
        task_loss: TaskLoss | None = None,
        num_classes: int | None = None,
        task: Task = "single_label",
        outcomes: Outcomes | None = None,
    ):
        super().__init__()
        name, idle = {"prediction": ("task_loss", task_loss), "loss": ("distance", distance)}[value]
        if idle is not None:
            raise ValueError(f"{name} is not looked at by value: {value}. Leave it out, or take the other value.")
        self.value, self.needs_labels = value, value == "loss"
        refuse_other_tasks("distance", distance, task)
        refuse_other_tasks("task_loss", task_loss, task)
        self.distance = distance or default_distillation_loss(task, outcomes)
        self.task_loss = task_loss or default_task_loss(task, outcomes)
        nothing = None if prior is None else _logits(prior, num_classes, outcomes_of(task, outcomes))
        self.register_buffer("prior", nothing, persistent=False)  # [C]

    def views(self, modalities: Sequence[str]) -> tuple[str, ...]:
        """All views, the full one first; a ValueError if there are more than `MOST` modalities."""
        if len(modalities) > MOST:
            text = f"Shapley values look at every subset of the modalities, which is for {MOST} at most, got {len(modalities)}."
            raise ValueError(f"{text} Take the saliency drop or keep.")
        views = list[str]()
        for s in subsets(modalities)[1:]:
            views.insert(0, view_name(s, modalities))
        return tuple(views)

    def completed(self, prediction: ModelOutput, shown: Tensor | None) -> ModelOutput:
        """A view that shows nothing of an example is the empty set, whatever the teacher predicts."""
        if shown is None:
            return prediction
        return ModelOutput(torch.where(shown[:, None], prediction.logits, self.nothing(prediction.logits)))

    def nothing(self, like: Tensor) -> Tensor:
        """What is predicted where nothing is shown, logits [N, C]."""
        return torch.zeros_like(like) if self.prior is None else self.prior.to(like.dtype).expand_as(like)

    def forward(self, predictions: Mapping[str, ModelOutput], targets: Tensor, modalities: Sequence[str]) -> Tensor:
        full = predictions[FULL]
        v: dict[tuple[str, ...], Tensor] = {(): self.worth(ModelOutput(self.nothing(full.logits)), full, targets)}
        for s in subsets(modalities)[1:]:
            v[s] = self.worth(predictions[view_name(s, modalities)], full, targets)  # [N] each
        shares, size = [], len(modalities)
        for modality in modalities:
            share = torch.zeros_like(v[()])
            for s in subsets([m for m in modalities if m != modality]):
                joined = tuple(m for m in modalities if m in (*s, modality))
                share = share + (v[joined] - v[s]) / (size * comb(size - 1, len(s)))
            shares.append(share)
        return torch.stack(shares, -1)  # [N, M]

    def worth(self, prediction: ModelOutput, full: ModelOutput, targets: Tensor) -> Tensor:
        lost: Tensor = self.distance(prediction, full) if self.value == "prediction" else self.task_loss(prediction, targets)
        return -lost


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """All subsets of names, each in their order, the smallest first: (), (a), (b), (a, b)."""
    found: list[tuple[str, ...]] = []
    for size in range(len(names) + 1):
        found += combinations(names, size)
    return found


def _logits(prior: Sequence[float], num_classes: int | None, outcomes: Outcomes) -> Tensor:
    """The logits, float64 [C], that say what the probabilities do."""
    p = torch.tensor(prior, dtype=torch.float64)
    if num_classes is not None and len(p) != num_classes:
        raise ValueError(f"prior: wanted a probability for each of {num_classes} classes, got {len(p)}.")
    if not bool(((p > 0) & (p < 1)).all()):
        raise ValueError(f"prior: wanted probabilities above 0 and below 1, got {', '.join(f'{x:g}' for x in prior)}.")
    if outcomes == "bernoulli":
        return p.logit()
    if abs(sum(prior) - 1) > 1e-3:
        raise ValueError(f"prior: wanted probabilities that add up to 1, got {sum(prior):g}.")
    return p.log()
