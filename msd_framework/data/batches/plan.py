"""Which examples each update sees, and in which order a split is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler

from msd_framework.data.batches.lengths import LengthPools

Indices = npt.NDArray[np.int32]


@dataclass(frozen=True)
class MicroBatch:
    """The examples that one process computes at once."""

    number: int  # which part of the run or split this is, the seed of its random transforms
    indices: tuple[int, ...]
    epochs: tuple[int, ...] = ()  # the epoch that each example is of, where the split is gone through again and again


class TrainingPlan(Sampler[MicroBatch]):
    """Which examples each update sees: one order of the split after another, cut into batches of equal size.

    A batch may begin in one epoch and end in the next, so every example is seen once an epoch and every batch is full.
    Update u of a run is the same for any number of processes, any accumulation and after any interruption. Processes
    and the parts in which each computes its share are dealt the examples of a batch like cards, so that where it is
    sorted by length, all of them get short and long ones.
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        num_updates: int,
        accumulate: int,
        rank: int,
        size: int,
        seed: int,
        pools: LengthPools | None = None,
    ):
        self.num_examples, self.batch_size, self.num_updates = num_examples, batch_size, num_updates
        self.accumulate, self.rank, self.size, self.seed, self.pools = accumulate, rank, size, seed, pools
        self.start = 0
        self._epoch, self._order = -1, np.empty(0, np.int32)

    def __iter__(self) -> Iterator[MicroBatch]:
        num_parts = self.size * self.accumulate
        for update in range(self.start, self.num_updates):
            batch, first = self.batch(update), update * self.batch_size
            epochs = tuple((first + i) // self.num_examples for i in range(self.batch_size))
            for i in range(self.accumulate):
                part = i * self.size + self.rank
                yield MicroBatch(update * num_parts + part, batch[part::num_parts], epochs[part::num_parts])

    def __len__(self) -> int:
        return (self.num_updates - self.start) * self.accumulate

    def batch(self, update: int) -> tuple[int, ...]:
        """The examples of an update, over all processes."""
        n, first, end = self.num_examples, update * self.batch_size, (update + 1) * self.batch_size
        indices: list[int] = []
        for epoch in range(first // n, (end - 1) // n + 1):
            indices += self.order(epoch)[max(0, first - epoch * n) : end - epoch * n].tolist()
        return tuple(indices)

    def order(self, epoch: int) -> Indices:
        """The order of the split in an epoch, int32 [N]."""
        if self._epoch != epoch:
            generator = torch.Generator().manual_seed(stream_seed(self.seed, epoch))
            order: Indices = torch.randperm(self.num_examples, dtype=torch.int32, generator=generator).numpy()
            if self.pools is not None:
                self._pool(order, epoch, self.pools, generator)
            self._epoch, self._order = epoch, order
        return self._order

    def _pool(self, order: Indices, epoch: int, pools: LengthPools, generator: torch.Generator) -> None:
        """Sorts each pool of an epoch's order by length and deals it out again to its batches, in random order.

        The batch that two epochs share gets examples of one length from both.
        """
        begun = -epoch * self.num_examples % self.batch_size  # examples that the batch of the last epoch still wants
        edges = np.unique([0, *range(begun, self.num_examples, self.batch_size), self.num_examples])
        num_pieces = len(edges) - 1
        for window in np.array_split(np.arange(num_pieces), -(-num_pieces // pools.num_batches)):
            turns = (torch.randperm(len(window), generator=generator).numpy() + 0.5) / len(window)  # the shortest first
            if window[0] == 0 and begun:
                turns[0] = self._turn(epoch)
            if window[-1] == num_pieces - 1 and (epoch + 1) * self.num_examples % self.batch_size:
                turns[-1] = self._turn(epoch + 1)
            pool = order[edges[window[0]] : edges[window[-1] + 1]]
            pool[:] = pool[pools.lengths[pool].argsort(kind="stable")]
            sizes, by_length = np.diff(edges)[window], turns.argsort()
            pieces = np.split(pool, sizes[by_length].cumsum()[:-1])
            pool[:] = np.concatenate([pieces[i] for i in by_length.argsort()])

    def _turn(self, epoch: int) -> float:
        """Where in its pool's lengths the batch lies that is shared with the epoch before, between 0 and 1."""
        return stream_seed(self.seed, -1 - epoch) / 2**63


class EvaluationPlan(Sampler[MicroBatch]):
    """A split in its own order, each example once, shared out among the processes."""

    def __init__(self, num_examples: int, batch_size: int, rank: int = 0, size: int = 1):
        self.mine, self.batch_size = range(rank, num_examples, size), batch_size

    def __iter__(self) -> Iterator[MicroBatch]:
        for i, first in enumerate(range(0, len(self.mine), self.batch_size)):
            yield MicroBatch(i, tuple(self.mine[first : first + self.batch_size]))

    def __len__(self) -> int:
        return -(-len(self.mine) // self.batch_size)


HELD_OUT = -(2**41)  # the stream that chooses and orders held-out examples; those of epochs count from 0


def hold_out(num_examples: int, share: float, seed: int) -> tuple[Indices, Indices]:
    """The examples that are trained on and the share that is held out, in the split's order, by the seed and their
    number alone.
    """
    generator = torch.Generator().manual_seed(stream_seed(seed, HELD_OUT))
    order: Indices = torch.randperm(num_examples, dtype=torch.int32, generator=generator).numpy()
    held_out, rest = np.split(order, [round(share * num_examples)])
    return np.sort(rest), np.sort(held_out)


def stream_seed(seed: int, number: int) -> int:
    """The seed of one of many streams of random numbers, from SplitMix64 (Steele et al., OOPSLA 2014)."""
    x = (seed * 0x9E3779B97F4A7C15 + number + 0x632BE59BD9B4E019) & (2**64 - 1)
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (x ^ (x >> 31)) >> 1
