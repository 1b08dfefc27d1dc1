"""The parts of an update, each with how many examples of the whole update have a label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from msd_framework.engine.distributed import World
from msd_framework.structures import Batch


def parts_of_update(batches: Iterator[Batch], num_parts: int, world: World) -> Iterator[Batch]:
    """The parts of an update that this process computes, on its device.

    Where examples may lack a label, all parts are read before the first is computed, and `num_labelled` of each becomes its mean
    over all parts and processes. The mean over the parts of losses that are divided by this number is then exactly the sum over
    all labelled examples divided by their number.
    """
    first = next(batches).to(world.device)
    others = (next(batches).to(world.device) for _ in range(num_parts - 1))
    if first.num_labelled is None:
        yield first
        yield from others
        return
    parts = [first, *others]
    counts = torch.stack([part.num_labelled for part in parts if part.num_labelled is not None])
    mean = world.mean(counts.sum()) / num_parts
    for part in parts:
        yield replace(part, num_labelled=mean)
