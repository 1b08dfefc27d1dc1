"""Ends a run that no longer gets better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msd_framework.callbacks.base import CALLBACKS, Callback, Watched
from msd_framework.ranges import not_negative


@CALLBACKS.register("early_stopping")
class EarlyStopping(Callback):
    """Stops after some validations without a new best value of the monitored metric.

    Args:
        patience: validations in a row that may bring nothing better.
        min_delta: by how much a value must be better to count.
    """

    needs_validation = True

    def __init__(self, patience: int = 3, min_delta: float = 0.0):
        if patience < 1:
            raise ValueError(f"patience must be 1 or more, got {patience}.")
        not_negative(min_delta=min_delta)
        self.patience, self.min_delta = patience, min_delta
        self.best: float | None = None
        self.waited = 0
        self.watched: dict[str, Any] = {}

    def on_fit_start(self, runner: Watched) -> None:
        if self.watched != runner.watched:  # values of another metric are not compared with
            self.best, self.waited, self.watched = None, 0, runner.watched

    def on_validation_end(self, runner: Watched, metrics: Mapping[str, float]) -> None:
        value = metrics[runner.plan.monitor] * (1 if runner.plan.larger_is_better else -1)
        if self.best is None or value > self.best + self.min_delta:
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.waited >= self.patience:
            runner.stop(f"{runner.plan.monitor} has not improved in {self.patience} validations")

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "watched": self.watched}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited, self.watched = (state[name] for name in ("best", "waited", "watched"))

    def still_stops(self, runner: Watched) -> bool:
        return self.watched == runner.watched and self.waited >= self.patience
