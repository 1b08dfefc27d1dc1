"""Locks of files that several runs share."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from msd_framework.engine.distributed import World
from msd_framework.engine.locks import locked


def test_a_disk_without_locks_is_told_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    waits: list[int] = []
    with pytest.raises(OSError, match="No locks available"), locked(World(), tmp_path / "lock", lambda: waits.append(1)):
        pass
    assert waits == []
