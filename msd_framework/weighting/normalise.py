"""Scores become weights whose mean is 1, so that a scheme changes how views share the weight and not how much there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from msd_framework.views import FULL, View

Normalise: TypeAlias = Literal["ratio", "softmax"]  # weights in proportion to scores, or to their exponential
# scores [V, ..], what they count as at least (`floor`) and which of them count (`shown`), to weights of the same shape
Normaliser: TypeAlias = Callable[..., Tensor]

SMALLEST = 1e-12  # what scores count as at least, so that scores that are all 0 give equal weights


def ratio(
    scores: Tensor, temperature: float = 1.0, added: float = 0.0, floor: Tensor | float = SMALLEST, shown: Tensor | None = None
) -> Tensor:
    r"""Weights in proportion to the scores, :math:`w_v = V S_v^{1/T} / \sum_u S_u^{1/T}`; equal where all are below the floor.

    Args:
        scores: float [V, ..], not negative but by rounding; `added` is added to every one first.
        floor: what a score counts as at least, above 0: below it there is nothing but rounding.
        shown: bool, the shape of the scores: those that count, of which V are counted; the others' weights are 0. All if None.

    >>> ratio(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    tensor([[0.5000, 1.0000],
            [1.5000, 1.0000]])
    """
    shares = (scores.clamp(min=floor) + added) ** (1 / temperature)
    if shown is None:
        return len(scores) * shares / shares.sum(0)
    shares = shares.where(shown, 0.0)
    return (shown.sum(0) * shares / shares.sum(0)).where(shown, 0.0)


def softmax(scores: Tensor, temperature: float, floor: Tensor | float = SMALLEST, shown: Tensor | None = None) -> Tensor:
    r"""Weights in proportion to the scores' exponential, :math:`w_v = V e^{S_v / T} / \sum_u e^{S_u / T}`; there is no floor."""
    if shown is None:
        return len(scores) * (scores / temperature).softmax(0)
    shares = (scores / temperature).where(shown, -torch.inf).softmax(0)
    return (shown.sum(0) * shares).where(shown, 0.0)


def normaliser(name: Normalise, temperature: float, smoothing: float = 0.0, added: float = 0.0) -> Normaliser:
    r"""The function of that name, whose weights are then drawn towards equal ones: :math:`(1 - s) w + s`."""
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must lie between 0 and 1, got {smoothing}.")
    if non_negative("added", added) and name == "softmax":
        raise ValueError("added changes nothing of a softmax; take smoothing, or normalise: ratio.")
    function = partial(softmax if name == "softmax" else partial(ratio, added=added), temperature=temperature)

    def normalised(scores: Tensor, floor: Tensor | float = SMALLEST, shown: Tensor | None = None) -> Tensor:
        drawn = torch.lerp(function(scores, floor=floor, shown=shown), torch.ones_like(scores), smoothing)
        return drawn if shown is None else drawn.where(shown, 0.0)

    return normalised


def weigh(scores: Tensor, views: Sequence[View], full_weight: float, normalise: Normaliser, shown: Tensor | None = None) -> Tensor:
    """Normalised weights for the views that hide something, in the shape of the scores.

    A fixed one for the view `full`, and for views that show another row, of which the scores of the example say nothing.

    Args:
        scores: float [V] or [V, B]; those of views with the fixed weight are not looked at.
        shown: bool [V, B], the views of which an example has something; all of them if None.

    >>> views = [View.parse(name) for name in ("full", "image", "text")]
    >>> weigh(torch.tensor([4.0, 1.0, 3.0]), views, full_weight=2.0, normalise=ratio)
    tensor([2.0000, 0.5000, 1.5000])
    """
    if shown is not None and scores.ndim == 1:
        scores = scores[:, None].expand(shown.shape)
    others = [i for i, view in enumerate(views) if view.name != FULL and not view.recombines]
    weights = list(torch.full_like(scores, full_weight))
    if others:
        # Rows are stacked one by one, since a list of indices would be copied to the device in each step.
        counted = None if shown is None else torch.stack([shown[i] for i in others])
        normalised = normalise(torch.stack([scores[i] for i in others]), shown=counted)
        for i, weight in zip(others, normalised):
            weights[i] = weight
    return torch.stack(weights)


def non_negative(name: str, weight: float) -> float:
    """The weight, or a ValueError if it is negative or not a number."""
    if not weight >= 0:
        raise ValueError(f"{name} must be at least 0, got {weight}.")
    return weight
