"""Weights that are options, the same for all examples: fixed, or on a schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from msd_framework.errors import did_you_mean
from msd_framework.schedules import Progress, Schedule, Shape
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


@WEIGHTINGS.register("scheduled")
class ScheduledWeights(WeightingStrategy):
    """Every view's weight goes from one number to another; 1 where none is stated.

    Args:
        start: weight by the view's name until it begins to change, such as `{image: 0}`.
        end: weight by the view's name afterwards.
        begin: the part of the run after which weights begin to change, at least 0 and below 1.
        over: the part of the run that the change takes, above 0 and at most 1.
        shape: how they change, `linear` or `cosine`.
    """

    def __init__(
        self,
        start: dict[str, float] | None = None,
        end: dict[str, float] | None = None,
        begin: float = 0.0,
        over: float = 1.0,
        shape: Shape = "linear",
    ):
        super().__init__()
        first, last = start or {}, end or {}
        for option, weights in {"start": first, "end": last}.items():
            for name, weight in weights.items():
                non_negative(f"{option}: the weight of {name!r}", weight)
        self.schedules = {n: Schedule(first.get(n, 1.0), last.get(n, 1.0), begin, over, shape) for n in {**first, **last}}
        self.constant = Schedule(1.0, 1.0, begin, over, shape)
        self.share = 0.0

    def begin_update(self, progress: Progress) -> None:
        self.share = progress.share

    def forward(self, evidence: Evidence) -> Tensor:
        return constants([self.schedules.get(v.name, self.constant).at(self.share) for v in evidence.views], evidence.losses)

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting, views: tuple[View, ...]) -> list[str]:
        return unknown_views("start", options, views) + unknown_views("end", options, views)


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
