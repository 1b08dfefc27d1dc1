"""Weights that change over the run as options say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from msd_framework.schedules import Progress, Schedule, Shape
from msd_framework.structures import Setting
from msd_framework.views import View
from msd_framework.weighting.base import WEIGHTINGS, Evidence, WeightingStrategy
from msd_framework.weighting.fixed import constants, unknown_views
from msd_framework.weighting.normalise import non_negative


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
