"""Locks of files: what several runs share is written by one of them at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from msd_framework.engine.distributed import World

POLL_SECONDS = 0.5


@contextmanager
def locked(world: World, file: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the lock of a file, which the system frees when the process ends; all processes of the run enter together.

    `waiting` is called once if another run has the lock.
    """
    lock = FileLock(file, mode=0o666)  # several users may share the folder
    is_waiting = False
    try:
        # the others poll with the first process: one collective that waits for hours would run into its timeout
        while not world.gather(not world.is_first or try_lock(lock))[0]:
            if not is_waiting:
                waiting()
            is_waiting = True
            time.sleep(POLL_SECONDS)
        yield
    finally:
        lock.release()


def try_lock(lock: FileLock) -> bool:
    """Takes a lock, unless another process has it."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True
