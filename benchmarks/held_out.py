"""Held-out examples that go with a batch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

from benchmarks.made import make_batch
from msd_framework.structures import Batch


class HeldOutOf:
    """Other examples than those of a batch, of like lengths; ready before anything is timed.

    Args:
        batch: B examples.
        share: how many others, as a share of B.
    """

    def __init__(self, batch: Batch, share: float = 1.0):
        self.batch = make_batch(max(1, round(share * len(batch))), seed=10_000 + batch.places[0])

    def starting_at(self, update: int) -> Iterator[Batch]:
        """The same ones again and again."""
        return repeat(self.batch)
