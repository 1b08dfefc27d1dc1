"""Weights by saliency: a view counts by how much its modalities matter to the teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from msd_framework.components.registry import split
from msd_framework.ranges import below_one
from msd_framework.saliency.base import SALIENCIES, Saliency
from msd_framework.saliency.prediction import DropSaliency
from msd_framework.schedules import Mean, Progress
from msd_framework.structures import Outcomes, Setting, Task, has_label
from msd_framework.views import View, visible_modalities
from msd_framework.weighting.base import WEIGHTINGS, Evidence, WeightingStrategy
from msd_framework.weighting.normalise import Normalise, non_negative, normaliser, weigh


def view_saliency(scores: Tensor, modalities: Sequence[str], views: Sequence[View]) -> Tensor:
    """The saliency of each view, [V] or [V, B]: the sum of the scores [M] or [B, M] of the modalities that the teacher sees in it.

    >>> views = [View.parse(name) for name in ("full", "image", "~image")]
    >>> view_saliency(torch.tensor([1.0, 2.0, 4.0]), ["audio", "image", "text"], views)
    tensor([7., 2., 5.])
    """
    score_of = dict(zip(modalities, scores.unbind(-1)))
    sums = []
    for view in views:
        visible = visible_modalities(view.teacher, modalities)
        sums.append(torch.stack([score_of[m] for m in visible]).sum(0))
    return torch.stack(sums)


class _SaliencyWeights(WeightingStrategy):
    """Normalised saliency scores.

    Args:
        saliency: S_m; `drop` with the task's usual distance if null.
        normalise: weights in proportion to the scores (`ratio`), or to their exponential (`softmax`).
        temperature: T, above 0; larger gives more equal weights. A ratio is taken of the scores to the power 1 / T.
        smoothing: the share of equal weights that is mixed in, between 0 and 1.
        added: what is added to each score of a ratio, at least 0; it evens out the weights of examples whose scores are small.
        full_weight: the weight of the view `full`, at least 0.
        task: how targets are read.
        outcomes: how logits are read; as is usual for the task if null.
    """

    def __init__(
        self,
        saliency: Saliency | None = None,
        normalise: Normalise = "ratio",
        temperature: float = 1.0,
        smoothing: float = 0.0,
        added: float = 0.0,
        full_weight: float = 1.0,
        task: Task = "single_label",
        outcomes: Outcomes | None = None,
    ):
        super().__init__()
        self.saliency = saliency or DropSaliency(task=task, outcomes=outcomes)
        if normalise == "ratio" and not self.saliency.non_negative:
            name = type(self.saliency).__name__
            raise ValueError(f"the scores of {name} can be negative, which no ratio can use; take normalise: softmax.")
        self.normalise = normaliser(normalise, temperature, smoothing, added)
        self.full_weight = non_negative("full_weight", full_weight)
        self._add_buffers()

    def _add_buffers(self) -> None: ...

    def weigh(self, scores: Tensor, floor: Tensor | float, evidence: Evidence) -> Tensor:
        return weigh(scores, evidence.views, self.full_weight, partial(self.normalise, floor=floor), evidence.shown)

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting, views: tuple[View, ...]) -> list[str]:
        return saliency_problems(options)


@WEIGHTINGS.register("instance")
class InstanceWeights(_SaliencyWeights):
    r"""Each example's views count by its own saliency scores.

    .. math:: w_v(x) = V \frac{S_v(x)}{\sum_u S_u(x)}, \qquad S_v(x) = \sum_{m \in v} S_m(x)

    over the V views other than `full`, whose mean weight is 1 for every example. `softmax` puts :math:`e^{S / T}` in the place of
    S. In a ratio each :math:`S_v` counts as `floor` times the mean score of all examples so far at least, and no less than what
    rounding makes (`noise`): an example with no larger score weighs its views equally.

    Args:
        floor: what a score of a ratio counts as at least, as a share of the mean score, at least 0 and below 1.
    """

    scale: Tensor

    def __init__(
        self,
        saliency: Saliency | None = None,
        normalise: Normalise = "ratio",
        temperature: float = 1.0,
        smoothing: float = 0.0,
        added: float = 0.0,
        floor: float = 1e-3,
        full_weight: float = 1.0,
        task: Task = "single_label",
        outcomes: Outcomes | None = None,
    ):
        super().__init__(saliency, normalise, temperature, smoothing, added, full_weight, task, outcomes)
        below_one(floor=floor)
        self.floor = floor
        self.means: list[Tensor] = []  # mean scores of the parts of this update

    def _add_buffers(self) -> None:
        self.register_buffer("scale", torch.zeros(2, dtype=torch.float64))  # the mean score so far, and of how many updates

    def begin_update(self, progress: Progress) -> None:
        self.means.clear()

    def forward(self, evidence: Evidence) -> Tensor:
        assert evidence.saliency is not None
        scores = view_saliency(evidence.saliency, evidence.modalities, evidence.views)  # [V, B]
        if self.training:
            self.means.append(_mean_score(evidence))
        floor = (self.floor * self.scale[0]).clamp(min=noise(scores.dtype, evidence.teacher.dtype)).to(scores.dtype)
        return self.weigh(scores, floor, evidence)

    def end_update(self, mean: Mean) -> None:
        if self.means:
            old, count = self.scale
            now = mean(torch.stack(self.means).mean())
            self.scale.copy_(torch.stack([old + (now - old) / (count + 1), count + 1]))


@WEIGHTINGS.register("population")
class PopulationWeights(_SaliencyWeights):
    r"""Each view counts by the mean saliency of its modalities over the training examples.

    .. math:: w_v = V \frac{\bar S_v}{\sum_u \bar S_u}, \qquad
        \bar S_v = \sum_{m \in v} \frac{1}{N} \sum_i S_m(x_i)

    over the V views other than `full`, whose mean weight is 1. `softmax` puts :math:`e^{\bar S / T}` in the place of
    :math:`\bar S`.
    """

    needs_fit = True

    mean_saliency: Tensor

    def _add_buffers(self) -> None:
        self.register_buffer("mean_saliency", torch.empty(0))  # [M] once it is fitted or loaded
        self.register_load_state_dict_pre_hook(_expect_mean)  # type: ignore[no-untyped-call]

    def fit(self, scores: Iterable[Tensor]) -> None:
        """Takes the mean of the scores, float [B, M] a batch, of all training examples, each modality's over those that have it."""
        sums, counts = [], []
        for batch in scores:
            sums.append(batch.double().nansum(0))
            counts.append((~batch.isnan()).sum(0))
        if not sums:
            raise ValueError("population weights were given no training example to take the mean saliency of.")
        count = torch.stack(counts).sum(0)  # [M]
        self.mean_saliency = (torch.stack(sums).sum(0) / count.clamp(min=1)).float()

    def forward(self, evidence: Evidence) -> Tensor:
        """Weights [V]."""
        if self.mean_saliency.numel() == 0:
            raise RuntimeError(
                "the mean saliency is not known: fit the population weights on training scores, or load fitted ones."
            )
        scores = view_saliency(self.mean_saliency, evidence.modalities, evidence.views)  # [V]
        return self.weigh(scores, noise(scores.dtype, evidence.teacher.dtype), evidence)


def saliency_problems(options: Mapping[str, Any]) -> list[str]:
    """A sentence on a saliency that looks at the teacher's model, which a cached teacher does not have."""
    if options.get("saliency") is None:
        return []
    name, _ = split(options["saliency"], "saliency", SALIENCIES)
    if not SALIENCIES.get(name).needs_model:
        return []
    text = f"{name} looks at the teacher's model and not at its answers, so it is for `msd saliency`. Take drop, keep, loss or gap."
    return [f"saliency: {text}"]


def noise(scores: torch.dtype, logits: torch.dtype) -> float:
    r"""The largest divergence that rounding makes of two equal predictions with logits of size 10.

    .. math:: 10 \epsilon_S + \frac{(10 \epsilon_z)^2}{2}

    with :math:`\epsilon` the precision of the scores and of the logits: a divergence grows with the square of what these differ by.
    """
    return 10 * torch.finfo(scores).eps + (10 * torch.finfo(logits).eps) ** 2 / 2


def _mean_score(evidence: Evidence) -> Tensor:
    """The mean score of a batch, padding left out, a float64 scalar."""
    assert evidence.saliency is not None
    scores = evidence.saliency.double()
    if evidence.example_of is None:
        return scores.mean()
    counted = has_label(evidence.targets)[:, None]
    return scores.where(counted, 0.0).sum() / (counted.sum() * scores.shape[1]).clamp(min=1)


def _expect_mean(weights: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Makes room for the mean scores in a state that is about to be loaded: one for each modality that it knew."""
    if f"{prefix}mean_saliency" in state:
        device = weights.get_buffer("mean_saliency").device
        weights.mean_saliency = torch.empty_like(state[f"{prefix}mean_saliency"], device=device)
