"""The steps that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.made import VIEWS, Sizes
from benchmarks.ours import Ours
from benchmarks.table import LONGEST, NAIVE, NAIVE_LONGEST, PADDED, TORCHDISTILL
from benchmarks.theirs import Theirs
from benchmarks.timing import PRECISIONS, Step, Variant
from msd_framework.engine.precision import Precision, choose, probe_objective
from msd_framework.structures import Batch

ROUNDS, QUICK_ROUNDS = 9, 5

WIDTH = 2048
"""The side of the square matrices whose product is the peak that steps are held against."""


def step_variants(sizes: Sizes, auto: str, quick: bool) -> list[Variant]:
    """All steps, those of a kind next to each other.

    Args:
        sizes: the sizes of student and teacher.
        auto: the precision that a run would choose by itself.
        quick: takes fewer rounds, and leaves out the longest of what no bar is set for.
    """
    ours, unpacked, theirs = Ours(sizes), Ours(sizes, packed=False), Theirs(sizes)
    often, seldom, once = (QUICK_ROUNDS, 3, 1) if quick else (ROUNDS, 7, 5)
    chosen = sorted({"fp32", auto})

    variants = [Variant("matmul", p, matmul, often) for p in PRECISIONS]
    variants += [Variant("plain", p, ours.plain, often) for p in PRECISIONS]
    variants += [Variant("msd cached", p, ours.msd_cached, often) for p in PRECISIONS]
    variants += [Variant("kd cached", p, ours.kd_cached, often) for p in chosen]
    variants += [Variant("learned weights", p, ours.learned, often) for p in ("fp32", "bf16")]
    variants += [Variant("learned weights, a quarter held out", "fp32", partial(ours.learned, share=0.25), often)]
    variants += [Variant("learned weights by second derivatives", "fp32", ours.second_order, seldom, long=True)]
    variants += [Variant(PADDED, p, theirs.plain, seldom if p == "fp32" else once) for p in PRECISIONS]
    variants += [Variant(LONGEST, "fp32", partial(theirs.plain, longest=True), seldom)]
    variants += [Variant("kd live", p, ours.kd_live, seldom, long=True) for p in chosen]
    variants += [Variant("msd live", p, ours.msd_live, once, long=True) for p in ("fp32", "bf16")]
    variants += [Variant("teacher's pass", p, ours.teachers_pass, once, long=True) for p in ("fp32", "bf16")]
    variants += [Variant(TORCHDISTILL, "fp32", theirs.torchdistill, once, long=True)]
    variants += [Variant(NAIVE, "fp32", theirs.naive, once, long=True)]
    if quick:
        return variants
    variants += [Variant("plain, packed: false", "fp32", unpacked.plain, once)]
    variants += [Variant("msd cached, packed: false", "fp32", unpacked.msd_cached, once)]
    variants += [Variant(NAIVE, "bf16", theirs.naive, 3, long=True)]
    return [*variants, Variant(NAIVE_LONGEST, "fp32", partial(theirs.naive, longest=True), 3, long=True)]


def matmul(batch: Batch, precision: Precision) -> Step:
    """A product of square matrices in the type that a step's products have."""
    a, b = (torch.randn(WIDTH, WIDTH, dtype=precision.cast or torch.float32) for _ in range(2))

    def step() -> None:
        torch.mm(a, b)

    return step


def chosen_precision(sizes: Sizes, batches: Sequence[Batch]) -> tuple[str, str]:
    """The precision that a run of distillation chooses by itself, by its name in keys, and the line that says why."""
    ours = Ours(sizes)
    choice = choose(probe_objective(ours.objective(ours.cached, VIEWS), batches))
    (name,) = (name for name, precision in PRECISIONS.items() if precision.name == choice.name)
    return name, choice.line
