"""Freed memory is kept where the C library lets it be kept."""

import os
import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from msd_framework.engine.memory import keep_freed_memory

kept = keep_freed_memory()
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.empty(1_000_000).fill_(1.0) for _ in range(30)]
    del blocks
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, faults[0], faults[-1])
"""


def page_faults(**environment: str) -> tuple[bool, int, int]:
    """Whether memory is kept, and the pages that the first and the last of four equal rounds ask the system for."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "LD_PRELOAD"}
    run = subprocess.run([sys.executable, "-c", COUNT], env=ours | environment, capture_output=True, text=True, check=True)
    kept, first, last = run.stdout.split()
    return kept == "True", int(first), int(last)


@pytest.mark.skipif(os.confstr("CS_GNU_LIBC_VERSION") is None, reason="a setting of glibc")
def test_memory_that_was_freed_is_not_asked_for_again() -> None:
    kept, first, last = page_faults()
    assert kept
    assert first > 20 * last  # 120 MB are some 30,000 pages, or 60 huge ones


def test_who_set_the_allocator_up_is_left_alone() -> None:
    kept, _, _ = page_faults(MALLOC_ARENA_MAX="4")
    assert not kept
