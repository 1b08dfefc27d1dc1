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
    """A call that a worker makes."""

    name: str
    function: Callable[..., object]  # it and its arguments must be picklable
    arguments: tuple[Any, ...]
    log: Path  # takes its output
    needs: tuple[str, ...] = ()  # names of tasks that must be done before


@dataclass(frozen=True)
class Event:
    """A change of a task's state."""

    task: Task
    happened: str  # `started`, `done`, `failed`, or `skipped` because something that it needs failed
    error: str = ""  # why it failed or was skipped, a sentence
    seconds: float = 0.0


def work(tasks: Sequence[Task], num_workers: int) -> Generator[Event, None, None]:
    """Does tasks in their order, as far as their needs allow, so many at once, and yields what happens.

    A task that fails takes down those that need it, and no others. Whatever ends the iteration (its end, an error, Ctrl-C)
    ends the workers.
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
            for worker in workers:
                if worker.task is not None:
                    continue
                ready = next((t for t in waiting if done.issuperset(t.needs)), None)
                if ready is not None:
                    waiting.remove(ready)
                    worker.start(ready)
                    yield Event(ready, "started")
            busy = {worker.pipe: worker for worker in workers if worker.task}
            for pipe in wait(busy) if busy else ():
                event = busy[pipe].finish()  # type: ignore[index]
                (failed if event.error else done).add(event.task.name)
                yield event
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process, and the task that it does.

    `concurrent.futures.ProcessPoolExecutor` cannot stand in for it: a process that is killed there breaks the pool for all
    tasks, without saying which task it did and which signal ended it, and before Python 3.14 a running task cannot be ended.
    """

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
        with suppress(OSError):  # the process is gone already, as `finish` finds out
            self.pipe.send((task.function, task.arguments, task.log))

    def finish(self) -> Event:
        """Takes the answer; a process that ended without one is replaced."""
        assert self.task is not None
        try:
            error = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            error = f"its process ended with exit code {code}"
            if code is not None and code < 0:
                name = signal.Signals(-code).name
                error = f"its process ended with signal {-code} ({name}), which is often a lack of memory"
            self.pipe.close()
            self.spawn()
        task, self.task = self.task, None
        return Event(task, "failed" if error else "done", error, time.monotonic() - self.started)

    def end(self) -> None:
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection) -> None:
    """The loop of a worker's process: a call, its error or an empty text as the answer, and the next call."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    accept_any_text()
    with suppress(EOFError):
        while True:
            pipe.send(_call(*pipe.recv()))


def _call(function: Callable[..., object], arguments: tuple[Any, ...], log: Path) -> str:
    """Makes a call with all output in a file; returns why it failed, or nothing."""
    error = ""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with naming(log), log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            try:
                function(*arguments)
            except Exception as raised:  # whatever it is, the other tasks go on
                sentence = mendable(raised) if isinstance(raised, (MSDError, OSError)) else ""
                error = sentence or f"{type(raised).__name__}: {raised}"
                print(visible(sentence or traceback.format_exc()), file=sys.stderr)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
    except OSError as raised:  # the log itself: the task may have filled the disk
        return error or mendable(raised) or f"{log}: {raised}"
    return error


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
