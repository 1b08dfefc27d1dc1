"""What was measured: quantities by name, each with how it was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.timing import Timing

Quantity = dict[str, Any]
"""``name``, ``value``, ``unit`` and how it was measured; ``derived`` if it was computed from others instead."""

SECONDS = "CPU seconds"


def quantity(name: str, value: float, unit: str, **how: Any) -> Quantity:
    return {"name": name, "value": value, "unit": unit, **how}


def timed(timing: Timing, num_examples: int) -> Quantity:
    """The medians of a variant's rounds; its value is that of CPU time."""
    cpu, system, wall = map(statistics.median, (timing.cpu, timing.system, timing.wall))
    spread = {"cpu_s": cpu, "system_s": system, "wall_s": wall, "min": min(timing.cpu), "max": max(timing.cpu)}
    how = {"precision": timing.variant.precision, "rounds": len(timing.cpu), **spread, "examples": num_examples}
    return quantity(timing.variant.full_name, cpu, SECONDS, **how)


def values(quantities: Iterable[Quantity]) -> dict[str, float]:
    """Values by name."""
    return {q["name"]: q["value"] for q in quantities}
