"""A whole run of ten epochs, the teacher asked once for each example or in each step."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.cache import new_store, teacher_of
from benchmarks.made import NUM_CLASSES, Sizes, make_batches
from benchmarks.ours import Ours
from benchmarks.quantities import SECONDS, Quantity, quantity
from benchmarks.table import NAIVE
from benchmarks.theirs import Theirs
from benchmarks.timing import CPU, PRECISIONS, Step
from msd_framework.structures import Batch
from msd_framework.teachers.filling import fill, outputs_to_store
from msd_framework.teachers.store import Writer

NUM_EPOCHS, NUM_BATCHES = 10, 2
SUFFIX = f", {NUM_EPOCHS} epochs"


def quantities(sizes: Sizes, told: Callable[[str], None]) -> list[Quantity]:
    """Each run once."""
    runs = {f"{NAIVE}{SUFFIX} fp32": naive_run(sizes)}
    runs |= {f"msd cached{SUFFIX} {p}": cached_run(sizes, p) for p in ("fp32", "bf16")}
    batches = make_batches(NUM_BATCHES, sizes.num_examples)
    found = []
    for name, run in runs.items():
        told(name)
        started = time.process_time()
        run(batches)
        seconds = time.process_time() - started
        found.append(quantity(name, seconds, SECONDS, rounds=1, cpu_s=seconds, **counts(sizes)))
    return found


def derived(sizes: Sizes, measured: Mapping[str, float]) -> list[Quantity]:
    """The same from how long steps take."""
    naive = NUM_EPOCHS * measured[f"{NAIVE} fp32"]
    cached = {p: NUM_EPOCHS * measured[f"msd cached {p}"] + measured[f"teacher's pass {p}"] for p in ("fp32", "bf16")}
    batches = {f"{NAIVE}{SUFFIX} fp32": naive} | {f"msd cached{SUFFIX} {p}": seconds for p, seconds in cached.items()}
    return [quantity(n, NUM_BATCHES * s, SECONDS, derived=True, **counts(sizes)) for n, s in batches.items()]


def counts(sizes: Sizes) -> dict[str, int]:
    return {"epochs": NUM_EPOCHS, "examples": NUM_BATCHES * sizes.num_examples}


def naive_run(sizes: Sizes) -> Callable[[Sequence[Batch]], None]:
    """The naive loop on transformers."""
    theirs = Theirs(sizes)

    def run(batches: Sequence[Batch]) -> None:
        repeat([theirs.naive(batch, PRECISIONS["fp32"]) for batch in batches])

    return run


def cached_run(sizes: Sizes, name: str) -> Callable[[Sequence[Batch]], None]:
    """The teacher fills a cache, and the student learns from that; both in the precision of this name."""
    ours, precision = Ours(sizes), PRECISIONS[name]

    def run(batches: Sequence[Batch]) -> None:
        ids = [name for batch in batches for name in batch.ids]
        with tempfile.TemporaryDirectory() as folder:
            store = new_store(Path(folder), ids, NUM_CLASSES)
            rows = store.rows(ids)
            with Writer(store) as writer, precision.active(CPU):
                fill(writer, lambda batch: outputs_to_store(ours.live, batch, store.layout), batches, rows, lambda count: None)
            with precision.products():
                repeat([ours.msd(teacher_of(store), batch, precision) for batch in batches])

    return run


def repeat(steps: Sequence[Step]) -> None:
    for _ in range(NUM_EPOCHS):
        for step in steps:
            step()
