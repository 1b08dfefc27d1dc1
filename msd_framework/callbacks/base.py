"""The contract of callbacks, and what they may watch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import torch

from msd_framework.components.registry import Registry
from msd_framework.objectives.base import Objective
from msd_framework.structures import StepOutput


class WatchedPlan(Protocol):
    @property
    def num_updates(self) -> int: ...
    @property
    def monitor(self) -> str: ...
    @property
    def larger_is_better(self) -> bool: ...


class WatchedWorld(Protocol):
    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def is_first(self) -> bool: ...


class Watched(Protocol):
    """The part of the runner that a callback may read."""

    @property
    def update(self) -> int: ...  # updates made so far
    @property
    def best(self) -> float | None: ...  # the best value of the monitored metric so far, None before the first validation
    @property
    def watched(self) -> dict[str, Any]: ...  # what a best value is the best of: the metric, its options, its examples
    @property
    def plan(self) -> WatchedPlan: ...
    @property
    def world(self) -> WatchedWorld: ...
    @property
    def objective(self) -> Objective: ...

    def stop(self, reason: str) -> None:
        """Ends training after this update; a callback must ask for it on every process."""


class Callback:
    """Watches a run; every method does nothing by default, and none may change the loss or a batch.

    Order of calls, on every process: `on_fit_start`, then an update's `on_step_end`, at some updates followed by
    `on_log`, `on_validation_end` and `on_checkpoint`; last, however the run ends, `on_fit_end`.
    """

    needs_validation: ClassVar[bool] = False  # whether it does nothing in a run that never validates

    def on_fit_start(self, runner: Watched) -> None:
        """Before the first update, or the first after a resumption."""

    def on_step_end(self, runner: Watched, output: StepOutput) -> None:
        """After each update; reading a value of the output here would wait for the device."""

    def on_log(self, runner: Watched, terms: Mapping[str, float]) -> None:
        """Every `log_every` updates, with the means of the loss and its terms since the last time."""

    def on_validation_end(self, runner: Watched, metrics: Mapping[str, float]) -> None:
        """After a validation; all processes have the same metrics."""

    def on_checkpoint(self, runner: Watched) -> None:
        """After a checkpoint is written."""

    def on_fit_end(self, runner: Watched) -> None:
        """After the last update, or after an error."""

    def state(self) -> dict[str, Any]:
        """What a resumed run must know, in JSON's types."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes what `state` gave; called only where a checkpoint holds a state of a callback of this class."""

    def still_stops(self, runner: Watched) -> bool:
        """Whether a run that this callback has ended stays ended when it is resumed; called once its state is restored."""
        return True


CALLBACKS: Registry[Callback] = Registry("callback", "callbacks", Callback)
