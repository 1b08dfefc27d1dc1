"""How long steps take: they run in turn within one process, and their CPU time counts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.made import first_of
from msd_framework.engine.precision import BF16, FP32, MEDIUM, Precision
from msd_framework.structures import Batch

Step = Callable[[], None]


PRECISIONS = {"fp32": FP32, "onednn": MEDIUM, "bf16": BF16}
"""Precisions by the names that they have in keys."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Variant:
    """A step that is timed.

    Args:
        name: what it is called.
        precision: the name of what it computes in.
        prepare: makes the step, ready to be repeated on a batch.
        rounds: how often it is timed.
        long: whether it warms up on a single example.
    """

    name: str
    precision: str
    prepare: Callable[[Batch, Precision], Step]
    rounds: int
    long: bool = False

    def step(self, batch: Batch) -> Step:
        """A step on a batch, to be repeated."""
        precision = PRECISIONS[self.precision]
        once = self.prepare(batch, precision)

        def step() -> None:
            with precision.products():
                once()

        return step

    @property
    def full_name(self) -> str:
        return f"{self.name} {self.precision}"


@dataclass(frozen=True)
class Timing:
    """How long a variant took, in seconds, a round.

    Args:
        variant: which one.
        batch: which of the batches it was.
        cpu: CPU time of the process.
        system: the part of it that the system took, mostly to hand out memory.
        wall: time on the wall.
    """

    variant: Variant
    batch: list[int] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    system: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def add(self, batch: int, step: Step) -> None:
        """Times a step."""
        cpu, system, wall = time.process_time(), os.times().system, time.perf_counter()
        step()
        self.cpu.append(time.process_time() - cpu)
        self.system.append(os.times().system - system)
        self.wall.append(time.perf_counter() - wall)
        self.batch.append(batch)


def update(optimizer: torch.optim.Optimizer, precision: Precision, loss: Callable[[], Tensor]) -> Step:
    """One update of an optimizer."""

    def step() -> None:
        optimizer.zero_grad()
        with precision.autocast(CPU):
            value = loss()
        value.backward()
        optimizer.step()

    return step


def interleaved(variants: Sequence[Variant], batches: Sequence[Batch], told: Callable[[str], None]) -> list[Timing]:
    """Times variants in turn, there and back, each round on another batch.

    So no step meets shapes that it has met before, but those that padding makes alike, as in a run. Variants of fewer rounds
    take part in some of them.

    Args:
        variants: what is timed.
        batches: one to warm up on, and one for each round.
        told: hears what is going on.
    """
    for variant in variants:
        told(f"warming up: {variant.full_name}")
        variant.step(first_of(batches[0]) if variant.long else batches[0])()
    timings = [Timing(variant) for variant in variants]
    most = len(batches) - 1
    for i, batch in enumerate(batches[1:]):
        due = [(t, t.variant.step(batch)) for t in timings if takes_part(i, t.variant.rounds, most)]
        for timing, step in due if i % 2 == 0 else reversed(due):
            told(f"round {i + 1} of {most}: {timing.variant.full_name}")
            timing.add(i + 1, step)
    return timings


def takes_part(i: int, rounds: int, most: int) -> bool:
    """Whether a variant of some rounds runs in round i of most: they are spread evenly.

    >>> [takes_part(i, 2, 5) for i in range(5)]
    [False, False, True, False, True]
    """
    return (i + 1) * rounds // most > i * rounds // most
