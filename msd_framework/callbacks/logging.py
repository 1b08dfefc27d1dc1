"""Numbers of a run, written where they are looked for: metrics.jsonl, and TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msd_framework.callbacks.base import CALLBACKS, Callback, Watched
from msd_framework.files import finite, naming, write_text
from msd_framework.reading import read_text


@CALLBACKS.register("json_lines")
class JsonLines(Callback):
    """Writes a line of JSON at each log and each validation.

    A resumed run first takes away the lines of updates that it makes again. What is not defined is null.

    Args:
        path: the file.
    """

    def __init__(self, path: str):
        self.path = Path(path)

    def on_fit_start(self, runner: Watched) -> None:
        if not runner.world.is_first:
            return
        text = ""
        for line in read_text(self.path).split("\n") if self.path.exists() else ():
            if _update(line) <= runner.update:
                text += f"{line}\n"
        write_text(self.path, text)

    def on_log(self, runner: Watched, terms: Mapping[str, float]) -> None:
        self.write(runner, {f"train/{k}": v for k, v in terms.items()})

    def on_validation_end(self, runner: Watched, metrics: Mapping[str, float]) -> None:
        self.write(runner, {f"validation/{k}": v for k, v in metrics.items()})

    def write(self, runner: Watched, values: Mapping[str, float]) -> None:
        if runner.world.is_first:
            with naming(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"update": runner.update, **finite(values)}) + "\n")


@CALLBACKS.register("tensorboard")
class TensorBoard(Callback):
    """Writes the same numbers for TensorBoard.

    Args:
        folder: where its event files go.
    """

    def __init__(self, folder: str):
        if not tensorboard_is_installed():
            raise ValueError("tensorboard is not installed; pip install 'msd_framework[tensorboard]'.")
        self.folder = folder
        self.writer: Any = None
        self.hook = threading.excepthook

    def on_fit_start(self, runner: Watched) -> None:
        if runner.world.is_first:
            from torch.utils.tensorboard import SummaryWriter

            with naming(Path(self.folder)):
                self.writer = SummaryWriter(self.folder, purge_step=runner.update or None)
            self.hook, threading.excepthook = threading.excepthook, _leave_to_writer

    def on_log(self, runner: Watched, terms: Mapping[str, float]) -> None:
        self.write(runner, "train", terms)

    def on_validation_end(self, runner: Watched, metrics: Mapping[str, float]) -> None:
        self.write(runner, "validation", metrics)

    def on_fit_end(self, runner: Watched) -> None:
        if self.writer:
            threading.excepthook = self.hook
            with naming(Path(self.folder)):
                self.writer.close()

    def write(self, runner: Watched, group: str, values: Mapping[str, float]) -> None:
        for name, value in values.items() if self.writer else ():
            with naming(Path(self.folder)):
                self.writer.add_scalar(f"{group}/{name}", value, runner.update)


NO_TENSORBOARD = "TensorBoard is not installed, so it gets no files; metrics.jsonl has all numbers."


def tensorboard_is_installed() -> bool:
    """Whether TensorBoard can be imported, without importing it."""
    return importlib.util.find_spec("tensorboard") is not None


def _leave_to_writer(error: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread of its own and raises what went wrong there at the next write, so it is not shown twice."""
    if not isinstance(error.exc_value, OSError):
        threading.__excepthook__(error)


def _update(line: str) -> int:
    try:
        return int(json.loads(line)["update"])
    except (ValueError, KeyError, TypeError, OverflowError):  # a line that a killed run wrote in part
        return 2**62
