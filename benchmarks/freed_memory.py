"""What keeping freed memory buys: CPU time and page faults of a step with and without it, in processes that run in turn.

python -m benchmarks.freed_memory [SIZES]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.made import SIZES, make_batch
from benchmarks.variants import step_variants
from msd_framework.engine.memory import keep_freed_memory

ROUNDS, STEPS = 6, 4


def measure(size: str, keeps: bool) -> tuple[float, float]:
    """The median seconds of CPU time of a step, and its page faults."""
    torch.set_num_threads(1)
    sizes = SIZES[size]
    (variant,) = (v for v in step_variants(sizes, auto="fp32", quick=True) if v.full_name == "msd cached fp32")
    step = variant.step(make_batch(sizes.num_examples, seed=1))
    step()
    if keeps:
        keep_freed_memory()
    step()
    faults, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, []
    for _ in range(STEPS):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    return median(seconds), (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / STEPS


def main(size: str = "published") -> None:
    results: dict[str, list[list[float]]] = {"given back": [], "kept": []}
    for _ in range(ROUNDS):
        for name, rows in results.items():
            command = [sys.executable, "-m", "benchmarks.freed_memory", size, name]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
            rows.append([float(word) for word in done.stdout.split()])
    for name, rows in results.items():
        seconds, faults = (median(column) for column in zip(*rows))
        print(f"{name}: {seconds:.3f} s of CPU time and {faults:,.0f} page faults a step")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(*measure(sys.argv[1], sys.argv[2] == "kept"))
    else:
        main(*sys.argv[1:])
