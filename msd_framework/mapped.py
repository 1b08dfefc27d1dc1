"""Arrays in files that are mapped into memory: processes share what the system keeps cached of them."""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_RESERVE = 0x4000 if hasattr(mmap, "MADV_DONTFORK") else 0  # of Linux alone: a file may then be larger than the memory


class MappedArrays:
    """Arrays in files, mapped into memory.

    Args:
        resident: bytes that may have been read before they are let go; the system keeps them cached, so nothing is read again.
    """

    def __init__(self, resident: int):
        self.resident, self._maps, self._read = resident, list[mmap.mmap](), 0

    def open(
        self,
        file: Path,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        offset: int = 0,
        writable: bool = False,
        scattered: bool = False,
    ) -> NDArray[Any]:
        """An array that begins at some byte of a file.

        Args:
            file: which; it must be as long as that.
            dtype: of the numbers.
            shape: of the array.
            offset: bytes before it.
            writable: whether the array may be written to, which then changes this process's copy of a page and not the file.
            scattered: whether what lies beside what is read need not be fetched with it.
        """
        size = dtype.itemsize * math.prod(shape)
        if size == 0:
            return np.empty(shape, dtype)
        shared = (mmap.MAP_SHARED, mmap.PROT_READ)
        flags, protection = (mmap.MAP_PRIVATE | NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE) if writable else shared
        with file.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), offset + size, flags, protection)
        if scattered:
            mapped.madvise(mmap.MADV_RANDOM)
        self._maps.append(mapped)
        return np.frombuffer(mapped, dtype, offset=offset).reshape(shape)

    def reads(self, num_bytes: int) -> None:
        """Says that so many bytes are about to be read, and lets go of what was read before once it may have become much."""
        self._read += num_bytes
        if self._read > self.resident and sum(map(len, self._maps)) > self.resident:
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
            self._read = 0
