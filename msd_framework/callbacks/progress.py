"""How far a run is, on the screen."""

from __future__ import annotations

from collections.abc import Mapping

from rich.progress import Progress, TaskID

from msd_framework.callbacks.base import CALLBACKS, Callback, Watched
from msd_framework.screen import progress_bar, say
from msd_framework.structures import StepOutput


@CALLBACKS.register("progress")
class ProgressBar(Callback):
    """A bar with the number of updates, the time left, the last loss and the last validation.

    On a screen that is no terminal it prints a line at each validation and no bar.

    Args:
        label: what stands in front of the bar.
    """

    def __init__(self, label: str = "training"):
        self.label = label
        self.loss = self.score = ""
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def on_fit_start(self, runner: Watched) -> None:
        if not runner.world.is_first:
            return
        self.bar = progress_bar("values")
        self.task = self.bar.add_task(self.label, total=runner.plan.num_updates, completed=runner.update, values="")
        self.bar.start()

    def on_step_end(self, runner: Watched, output: StepOutput) -> None:
        if self.bar:
            self.bar.update(self.task, completed=runner.update)

    def on_log(self, runner: Watched, terms: Mapping[str, float]) -> None:
        self.loss = f"loss {terms['loss']:.4f}"
        self.show()

    def on_validation_end(self, runner: Watched, metrics: Mapping[str, float]) -> None:
        self.score = f"{runner.plan.monitor} {metrics[runner.plan.monitor]:.4f} (best {runner.best:.4f})"
        self.show()
        if self.bar and self.bar.disable:
            parts = [f"{self.label}: update {runner.update}/{runner.plan.num_updates}", self.loss, self.score]
            say(", ".join(filter(None, parts)))

    def on_fit_end(self, runner: Watched) -> None:
        if self.bar and not self.bar.disable:  # stopping a disabled bar prints an empty line in older versions of rich
            self.bar.stop()

    def show(self) -> None:
        if self.bar:
            self.bar.update(self.task, values=f"{self.loss}  {self.score}")
