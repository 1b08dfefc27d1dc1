"""What is freed on a CPU is kept for the next step, which needs as much again."""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # two settings in glibc's malloc.h


def keep_freed_memory() -> bool:
    """Makes the C library hand nothing more back to the system until the process ends; false where it cannot.

    Memory that is free at the call, such as that of opened files, goes back to the system first. Nothing is changed where a
    ``MALLOC_`` variable of the environment is set, or another allocator is preloaded.
    """
    # A step frees hundreds of megabytes; glibc gives large blocks back at once, and the system clears every page of them anew.
    # A step of a BERT-sized student takes 1.42 s of CPU time in place of 1.53 (medians of 9 processes each, in turn), and 1,800
    # page faults in place of 36,900; one of small models takes what it took. See benchmarks/freed_memory.py.
    if any(name.startswith("MALLOC_") for name in os.environ) or os.environ.get("LD_PRELOAD"):
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    trim(0)
    return bool(mallopt(M_TRIM_THRESHOLD, -1) and mallopt(M_MMAP_MAX, 0))
