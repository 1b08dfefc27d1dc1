"""Processes that do one task after another, each as soon as what it needs is done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from msd_framework.errors import MSDError, mendable
from msd_framework.escaping import visible
from msd_framework.files import naming
from msd_framework.screen import accept_any_text


@dataclass(frozen=True)
class Task:
    """A call that a worker makes.

    Args:
        name: what it is called.
        function: what is called; it and its arguments must be picklable.
        arguments: what it is called with.
        log: the file that takes what it prints.
        needs: names of tasks that must be done before.
    """

    name: str
    function: Callable[..., object]
    arguments: tuple[Any, ...]
    log: Path
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Event:
    """What has happened to a task.

    Args:
        task: the task.
        happened: ``started``, ``done``, ``failed``, or ``skipped`` because something that it needs failed.
        error: why it failed or was skipped, a sentence.
        seconds: how long it took.
    """

    task: Task
    happened: str
    error: str = ""
    seconds: float = 0.0


def work(tasks: Sequence[Task], num_workers: int) -> Generator[Event, None, None]:
    """Does tasks in their order, as far as their needs allow, and tells what happens.

    A task that fails takes down those that need it, and no others. Whatever ends the iteration (its end, an error, Ctrl-C)
    ends the workers.

    Args:
        tasks: what is done.
        num_workers: processes at once.

    Yields:
        what happens, as it happens.
    """
    waiting, done, failed = list(tasks), set[str](), set[str]()
    workers = [_Worker() for _ in range(min(num_workers, len(tasks)))]
    try:
        while waiting or any(w.task for w in workers):
            for task in list(waiting):
                if missing := failed.intersection(task.needs):
                    waiting.remove(task)
                    failed.add(task.name)
                    yield Event(task, "skipped", f"needs {', '.join(sorted(missing))}")
            for worker in [w for w in workers if w.task is None]:
                ready = next((t for t in waiting if done.issuperset(t.needs)), None)
                if ready is not None:
                    waiting.remove(ready)
                    worker.start(ready)
                    yield Event(ready, "started")
            for worker in _answering([w for w in workers if w.task]):
                event = worker.finish()
                (failed if event.error else done).add(event.task.name)
                yield event
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process, and the task that it does."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.started = 0.0
        self.spawn()

    def spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs,))
        self.process.start()
        theirs.close()  # so that the pipe ends when the process does

    def start(self, task: Task) -> None:
        self.task, self.started = task, time.monotonic()
        with suppress(OSError):  # a process that is gone already, as `finish` tells
            self.pipe.send((task.function, task.arguments, task.log))

    def finish(self) -> Event:
        """Takes the answer; a process that ended without one is replaced."""
        assert self.task is not None
        try:
            error = self.pipe.recv()
        except (EOFError, OSError):  # it ended in its task, or before it read what that is
            self.process.join()
            error = f"its process ended with {_ending(self.process.exitcode)}"
            self.pipe.close()
            self.spawn()
        task, self.task = self.task, None
        return Event(task, "failed" if error else "done", error, time.monotonic() - self.started)

    def end(self) -> None:
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def _answering(workers: list[_Worker]) -> list[_Worker]:
    ready = wait([w.pipe for w in workers]) if workers else []
    return [w for w in workers if w.pipe in ready]


def _serve(pipe: Connection) -> None:
    """What a worker does: a call, its error or nothing as the answer, and the next call."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    accept_any_text()
    while True:
        try:
            function, arguments, log = pipe.recv()
        except EOFError:
            return
        pipe.send(_call(function, arguments, log))


def _call(function: Callable[..., object], arguments: tuple[Any, ...], log: Path) -> str:
    """Makes a call with all output in a file; returns why it failed, or nothing."""
    said = ""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with naming(log), log.open("a") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
            try:
                function(*arguments)
            except Exception as error:  # whatever it is, the other tasks go on
                sentence = mendable(error) if isinstance(error, (MSDError, OSError)) else ""
                said = sentence or f"{type(error).__name__}: {error}"
                print(visible(sentence or traceback.format_exc()), file=sys.stderr)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
    except OSError as error:  # the log itself, of which the task may have filled the disk
        return said or mendable(error) or f"{log}: {error}"
    return said


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code} ({signal.Signals(-code).name}), which is often a lack of memory"
    return f"exit code {code}"
