"""What a callback may watch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from msd_framework.engine.runner import Runner
    from msd_framework.structures import StepOutput


class Callback:
    """Watches a run; every method does nothing by default, and none may change the loss or a batch.

    Order of calls, on every process: `on_fit_start`, then an update's `on_step_end`, at some updates followed by
    `on_log`, `on_validation_end` and `on_checkpoint`; last, however the run ends, `on_fit_end`.
    """

    needs_validation: ClassVar[bool] = False
    """Whether it does nothing in a run that never validates."""

    def on_fit_start(self, runner: Runner) -> None:
        """Before the first update, or the first after a resumption."""

    def on_step_end(self, runner: Runner, output: StepOutput) -> None:
        """After each update; reading a value of the output here would wait for the device."""

    def on_log(self, runner: Runner, terms: Mapping[str, float]) -> None:
        """Every `log_every` updates, with the means of the loss and its terms since the last time."""

    def on_validation_end(self, runner: Runner, metrics: Mapping[str, float]) -> None:
        """After a validation; all processes have the same metrics."""

    def on_checkpoint(self, runner: Runner) -> None:
        """After a checkpoint is written."""

    def on_fit_end(self, runner: Runner) -> None:
        """After the last update, or after an error."""

    def state(self) -> dict[str, Any]:
        """What a resumed run must know, in JSON's types."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes what `state` gave; called only where a checkpoint holds a state of a callback of this class."""

    def still_stops(self, runner: Runner) -> bool:
        """Whether a run that this callback has ended stays ended when it is resumed; asked once its state is back."""
        return True
