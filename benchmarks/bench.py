"""Measures everything, prints one table and writes it down: python -m benchmarks.bench; benchmarks/README.md says what it means."""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import cache, epochs, memory, scale
from benchmarks.flops import lengths_of, step_flops
from benchmarks.machine import describe
from benchmarks.made import SIZES, VIEWS, Sizes, make_batches
from benchmarks.quantities import Quantity, quantity, timed, values
from benchmarks.table import BARS, BESIDE, ratios, table
from benchmarks.timing import PRECISIONS, Timing, interleaved
from benchmarks.variants import QUICK_ROUNDS, ROUNDS, WIDTH, chosen_precision, step_variants
from msd_framework.structures import Batch


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, in under five minutes")
    parser.add_argument("--size", choices=SIZES, default="published")
    parser.add_argument("--out", type=Path, help="the file to write; if left out, one in benchmarks/results, another for each size")
    options = parser.parse_args()
    names = {"published": "latest.json"}
    out = options.out or Path(__file__).parent / "results" / names.get(options.size, f"{options.size}.json")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    console = Console()
    with console.status("") as status:
        report = measure(options.size, options.quick, status.update)
    out.write_text(json.dumps(report, indent=1) + "\n")
    console.print(table(report))
    console.print(f"written to {out}")


def measure(size: str, quick: bool, told: Callable[[str], None]) -> dict[str, Any]:
    """The machine, the ratios by key, those beside them, and the quantities that they are made of."""
    sizes = SIZES[size]
    batches = make_batches(1 + (QUICK_ROUNDS if quick else ROUNDS), sizes.num_examples)
    told("memory, in processes of their own")
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:  # no time of theirs counts
        elsewhere = [pool.submit(memory.quantities, size), pool.submit(scale.quantities, scale.ENDS if quick else scale.ALL)]
    runs = [found for future in elsewhere for found in future.result()]
    told("the precision that a run would choose")
    auto, line = chosen_precision(sizes, batches)
    runs += from_timings(interleaved(step_variants(sizes, auto, quick), batches, told), batches, sizes)
    told("the teacher cache")
    runs += cache.quantities(sizes.num_examples)
    runs += epochs.derived(sizes, values(runs)) if quick else epochs.quantities(sizes, told)

    measured = values(runs)
    measured |= {name.replace(f" {auto}", " auto"): value for name, value in measured.items() if name.endswith(f" {auto}")}
    machine = describe() | {"auto": line, "matmul_peaks": {p: measured[f"matmul peak {p}"] for p in PRECISIONS}}
    settings = {"size": size, "quick": quick, "student": sizes.student, "teacher": sizes.teacher, "examples": sizes.num_examples}
    report = {"machine": machine, "ratios": ratios(measured, BARS), "beside": ratios(measured, BESIDE)}
    return report | {"settings": settings, "runs": runs}


def from_timings(timings: Sequence[Timing], batches: Sequence[Batch], sizes: Sizes) -> list[Quantity]:
    """What each variant took, and what follows from it."""
    found = [timed(timing, sizes.num_examples) for timing in timings]
    named = {timing.variant.full_name: timing for timing in timings}
    needed = [step_flops(sizes.student, lengths_of(batch), VIEWS) for batch in batches]
    for p in PRECISIONS:
        msd, matmul = named[f"msd cached {p}"], named[f"matmul {p}"]
        useful = statistics.median(needed[i] / seconds for i, seconds in zip(msd.batch, msd.cpu))
        found.append(quantity(f"useful operations a second {p}", useful, "operations a second"))
        found.append(quantity(f"matmul peak {p}", 2 * WIDTH**3 / min(matmul.cpu), "operations a second"))
    return found


if __name__ == "__main__":
    main()
