"""How long examples are, measured before training, so that a batch can have examples of similar length."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from msd_framework.data.batches.reader import ExampleReader

PATIENCE = 2.0  # seconds before a bar is shown


@dataclass(frozen=True)
class LengthPools:
    """How batches of similar length are made: some batches are pooled, sorted by length and dealt out again."""

    lengths: npt.NDArray[np.int32]  # how many positions each example of the split has, [N]
    num_batches: int  # how many make a pool


def measure_lengths(reader: ExampleReader, rank: int = 0, size: int = 1) -> npt.NDArray[np.int32]:
    """The lengths of every ``size``-th example from ``rank`` on, int32 [N / size]; a terminal shows how far it is."""
    mine = range(rank, len(reader.dataset), size)
    return np.fromiter((reader.length(i) for i in (_shown(mine) if rank == 0 else mine)), np.int32, len(mine))


def _shown(indices: range) -> Iterator[int]:
    from msd_framework.screen import progress_bar

    bar = progress_bar()
    task, begun = bar.add_task("measuring lengths", total=len(indices)), time.monotonic()
    try:
        for done, index in enumerate(indices):
            if done % 100 == 0 and not bar.disable and time.monotonic() - begun > PATIENCE:
                bar.start()
                bar.update(task, completed=done)
            yield index
    finally:
        if bar.live.is_started:
            bar.stop()
