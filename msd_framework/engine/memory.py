"""What is freed on a CPU is kept for the next step, which asks for the same again."""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""The names of two settings in glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Tells the C library to hand nothing more back to the system until the process ends; whether it could be told.

    What is free now, after files were opened and indexed, goes back to the system before.

    A step frees hundreds of megabytes and asks for them again. glibc gives blocks of some megabytes back at once, and the system
    then clears and maps every page of them anew, which takes a seventh of a step. Who set a ``MALLOC_`` variable of the
    environment, or preloads another allocator, knows better.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or os.environ.get("LD_PRELOAD"):
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    trim(0)
    return bool(mallopt(M_TRIM_THRESHOLD, -1) and mallopt(M_MMAP_MAX, 0))
