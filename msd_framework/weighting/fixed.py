"""Weights that are options, the same for all examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from msd_framework.errors import did_you_mean
from msd_framework.structures import Setting
from msd_framework.views import FULL, View
from msd_framework.weighting.base import WEIGHTINGS, Evidence, WeightingStrategy
from msd_framework.weighting.normalise import non_negative


@WEIGHTINGS.register("uniform")
class UniformWeights(WeightingStrategy):
    """Every view counts 1.

    Args:
        modality_scale: the weight of every view but `full`, at least 0.
    """

    def __init__(self, modality_scale: float = 1.0):
        super().__init__()
        self.modality_scale = non_negative("modality_scale", modality_scale)

    def forward(self, evidence: Evidence) -> Tensor:
        return constants([1.0 if v.name == FULL else self.modality_scale for v in evidence.views], evidence.losses)


@WEIGHTINGS.register("fixed")
class FixedWeights(WeightingStrategy):
    """A fixed weight for every view, 1 unless stated.

    Args:
        weights: by the view's name, `{full: 1.0, text: 0.5}`; `audio>image` where teacher and student see different modalities.
    """

    def __init__(self, weights: dict[str, float] | None = None):
        super().__init__()
        self.weights = dict(weights or {})
        for name, weight in self.weights.items():
            non_negative(f"the weight of {name!r}", weight)

    def forward(self, evidence: Evidence) -> Tensor:
        return constants([self.weights.get(v.name, 1.0) for v in evidence.views], evidence.losses)

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting, views: tuple[View, ...]) -> list[str]:
        return unknown_views("weights", options, views)


def unknown_views(option: str, options: Mapping[str, Any], views: Sequence[View]) -> list[str]:
    """A sentence for each key of an option that is no view."""
    problems, names = [], [view.name for view in views]
    for name in options.get(option) or {}:
        if name not in names:
            problems.append(f"{option}: {name!r} is not one of the views {', '.join(names)}.{did_you_mean(name, names)}")
    return problems


def constants(weights: Sequence[float], like: Tensor) -> Tensor:
    """Numbers as a tensor [V], without a copy from the CPU to the device."""
    return torch.stack([like.new_full((), w) for w in weights])
