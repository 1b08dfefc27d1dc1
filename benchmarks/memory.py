"""How much memory a step takes beyond the models: the peak of a process of its own.

python -m benchmarks.memory VARIANT SIZES prints it in bytes.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.made import SIZES, first_of, make_batch
from benchmarks.quantities import Quantity, quantity
from benchmarks.table import NAIVE
from benchmarks.variants import step_variants

MEASURED = ("msd cached fp32", f"{NAIVE} fp32")


def quantities(size: str) -> list[Quantity]:
    """Each measured in a fresh process."""
    return [quantity(f"memory of {name}", float(said(name, size)), "bytes") for name in MEASURED]


def said(*words: str) -> str:
    """What a fresh process of this module prints."""
    command = [sys.executable, "-m", "benchmarks.memory", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]).stdout


def extra_memory(variant: str, size: str) -> int:
    """The peak of this process over what it holds before the first step, in bytes.

    The step before is one on a single example: it makes what the optimizer keeps, so that one full step shows the peak.
    """
    sizes = SIZES[size]
    (found,) = (v for v in step_variants(sizes, auto="fp32", quick=True) if v.full_name == variant)
    batch = make_batch(sizes.num_examples, seed=1)
    warm_up, step = found.step(first_of(batch)), found.step(batch)
    before = resident()
    forget_peak()
    warm_up()
    step()
    return peak() - before


def resident() -> int:
    """Bytes of memory that this process holds."""
    return _status("VmRSS")


def peak() -> int:
    """The most that it held since `forget_peak`, or since it began where a system cannot forget."""
    return _status("VmHWM")


def forget_peak() -> None:
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def _status(key: str) -> int:
    file = Path("/proc/self/status")
    if not file.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    lines = dict(line.split(":", 1) for line in file.read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(extra_memory(*sys.argv[1:]))
