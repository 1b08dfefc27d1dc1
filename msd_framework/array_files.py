"""The parts that stores on disk share: hashed keys, cards with a checksum, mapped arrays, and writers that can be resumed."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from msd_framework.errors import MSDError
from msd_framework.files import write_json

KEY_BYTES = 16  # of a name's hash: two of a million names share one with a probability of 1e-27
FLUSH_SECONDS = 2.0  # how much work a process that is killed may lose
NO_RESERVE = 0x4000 if hasattr(mmap, "MADV_DONTFORK") else 0  # of Linux alone: a file may then be larger than the memory

Damaged: TypeAlias = Callable[[Path, str], MSDError]
"""Makes the error of a damaged file. The text continues a sentence that begins with the file, as in "is missing"."""

W = TypeVar("W", bound="ResumableWriter")


def key_of(name: str) -> bytes:
    """A hash of a name, 128 bits: BLAKE2b (Aumasson et al., ACNS 2013)."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def digest(values: Any) -> str:
    """A hash of values of JSON's types, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_card(file: Path, values: Mapping[str, Any]) -> None:
    """Writes what a store holds as JSON, with a checksum."""
    write_json(file, {**values, "sha256": digest(values)})


def read_card(file: Path, version: int, damaged: Damaged) -> dict[str, Any]:
    """What `write_card` has written; of another format, edited, or unreadable, it is damaged."""
    values = read_object(file, damaged)
    if values.get("format") != version:
        raise damaged(file, f"is of format {values.get('format')}, wanted {version}")
    if values.pop("sha256", None) != digest(values):
        raise damaged(file, "is not what was written")
    return values


def read_object(file: Path, damaged: Damaged) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise damaged(file, "is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(file, f"is damaged ({error})") from error
    if not isinstance(values, dict):
        raise damaged(file, f"is damaged (wanted an object, got a {type(values).__name__})")
    return values


class MappedArrays:
    """Arrays in files, mapped into memory: processes share what the system keeps cached of them.

    Args:
        resident: bytes that may have been read before they are let go; the system keeps them cached, so nothing is read again.
    """

    def __init__(self, damaged: Damaged, resident: int):
        self.damaged, self.resident, self._maps, self._read = damaged, resident, list[mmap.mmap](), 0

    def open(
        self,
        file: Path,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        offset: int = 0,
        writable: bool = False,
        scattered: bool = False,
        whole: bool = False,
    ) -> NDArray[Any]:
        """An array that begins at some byte of a file.

        Args:
            writable: whether the array may be written to, which then changes this process's copy of a page and not the file.
            scattered: whether what lies beside what is read need not be fetched with it.
            whole: whether the file must end where the array does.
        """
        size = offset + dtype.itemsize * math.prod(shape)
        try:
            actual_size = file.stat().st_size
        except OSError as error:
            raise self.damaged(file, "is missing") from error
        if actual_size < size:  # to read behind the end of a mapped file would end the process
            raise self.damaged(file, f"holds {actual_size:,} bytes, wanted {size:,}: it was cut off")
        if whole and actual_size > size:
            raise self.damaged(file, f"holds {actual_size:,} bytes, wanted {size:,}: it belongs to another store")
        if size == offset:
            return np.empty(shape, dtype)
        flags, protection = mmap.MAP_SHARED, mmap.PROT_READ
        if writable:
            flags, protection = mmap.MAP_PRIVATE | NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        with file.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), size, flags, protection)
        if scattered:
            mapped.madvise(mmap.MADV_RANDOM)
        self._maps.append(mapped)
        return np.frombuffer(mapped, dtype, offset=offset).reshape(shape)

    def reads(self, num_bytes: int) -> None:
        """Notes that so many bytes are about to be read, and lets go of what was read before once it may have become much."""
        self._read += num_bytes
        if self._read > self.resident and sum(map(len, self._maps)) > self.resident:
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
            self._read = 0


class ResumableWriter(ABC):
    """Writes records into a store. A record counts once `flush` has seen it reach the disk."""

    def __init__(self) -> None:
        self._flushed = time.monotonic()

    def __enter__(self: W) -> W:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            # the system reports once what a full disk has lost: a second fsync would say that all was written
            if not isinstance(error, OSError):
                self.flush()
        finally:
            self.close()

    def flush_in_time(self, seconds: float = FLUSH_SECONDS) -> None:
        """Flushes if that was last done long ago."""
        if time.monotonic() - self._flushed >= seconds:
            self.flush()
            self._flushed = time.monotonic()

    @abstractmethod
    def flush(self) -> None:
        """Waits until all records have reached the disk, and then notes that they count."""

    @abstractmethod
    def close(self) -> None:
        """Closes the files."""
