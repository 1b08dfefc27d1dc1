r"""The one way to the screen: every table, line and bar that a command shows goes through here.

Names come from data, files and other people. So brackets are no markup, colons no pictures, numbers are not coloured, and a
character that a terminal cannot encode is shown by its number (`\u2603`). Whoever stops reading (`msd ... | head`) ends no run.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from msd_framework.escaping import visible


class Screen(Console):
    """A terminal, or the file or pipe in its place (`width` columns), that shows texts as they are."""

    def __init__(self, stderr: bool = False, width: int = 132):
        accept_any_text()
        super().__init__(stderr=stderr, markup=False, highlight=False, emoji=False)
        if not self.is_terminal:
            self.width = width

    def show(self, *parts: RenderableType) -> None:
        """Prints tables, and lines that are not broken."""
        for part in parts:
            self.print(part, soft_wrap=isinstance(part, str))

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)

    def on_broken_pipe(self) -> None:
        """Leaves it to the command line, which ends quietly; rich itself would exit with 1."""
        raise BrokenPipeError


def say(text: str, screen: Console | None = None) -> None:
    """A line on standard error, above a bar that runs on the screen given; nothing where nobody reads it any more."""
    try:
        (screen or Screen(stderr=True)).print(text, soft_wrap=True)
    except BrokenPipeError:
        return


def put(text: str, stream: TextIO | None = None) -> None:
    """Prints lines, with nothing in them that a terminal would obey; on standard output if no stream is given."""
    print(visible(text), file=stream or sys.stdout)


class _Words(TextColumn):
    def render(self, task: Task) -> Text:
        return Text(visible(super().render(task).plain))


def progress_bar(*shown: str, remaining: bool = True) -> Progress:
    """A bar on standard error, disabled where that is no terminal; the shown fields of its task stand behind it."""
    screen = Screen(stderr=True)
    times = [TimeElapsedColumn(), *([TimeRemainingColumn()] if remaining else [])]
    fields = [_Words(f"{{task.fields[{name}]}}", markup=False) for name in shown]
    columns = [_Words("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn(), *times, *fields]
    return Progress(*columns, console=screen, disable=not screen.is_terminal)


@contextmanager
def bar(label: str, total: int, is_first: bool) -> Iterator[Callable[[int], None]]:
    """A bar with the time left, on a terminal; what is yielded moves it on."""
    progress = progress_bar()
    if not is_first or progress.disable:
        yield lambda done: None
        return
    with progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.advance(task, done)


def shortened(texts: Sequence[str], most: int, rest: str) -> list[str]:
    """The first of many texts, and how many more there are, for which `rest` has room."""
    return [*texts[:most], rest.format(f"{len(texts) - most:,}")] if len(texts) > most else list(texts)


def shown_bytes(size: float) -> str:
    """A size as people write it, such as 12.3 GB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"


def accept_any_text() -> None:
    """Lets standard output and error show what their encoding does not have by its number, in place of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")
