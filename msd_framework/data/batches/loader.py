"""Batches of a split: the same ones whatever the number of processes, and the same ones after an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.partners import PartnerReader
from msd_framework.data.batches.plan import EvaluationPlan, Indices, MicroBatch, TrainingPlan, stream_seed
from msd_framework.data.batches.reader import ExampleReader, Kept, Loaded
from msd_framework.errors import DataError
from msd_framework.randomness import random_numbers_apart
from msd_framework.structures import Batch


@dataclass(frozen=True)
class _Read:
    """What was read of a micro-batch."""

    batch: Batch | None  # None if none of its examples could be read
    skipped: dict[int, str]  # what was wrong with the examples that were left out
    error: str = ""  # what stops the run; a text, since torch's loader adds a worker's traceback to an error

    def pin_memory(self) -> _Read:
        return _Read(self.batch and self.batch.pin_memory(), self.skipped, self.error)

    def shared_with(self, reader: ExampleReader) -> Batch | None:
        """The batch; this process's reader learns what a worker's reader has left out."""
        if self.error:
            raise DataError(self.error)
        reader.skipped |= self.skipped
        if self.batch is None:
            return None
        having_of = list(self.batch.having.items())
        for (modality, _), having in self.batch.teacher_having.items():
            if modality not in self.batch.having:
                having_of.append((modality, having))
        for modality, having in having_of:
            places = (place for place, has in zip(self.batch.places, having.tolist()) if not has)
            reader.lacking.setdefault(modality, set()).update(places)
        return self.batch


class _MicroBatches(Dataset[_Read]):
    """Micro-batches by their examples; torch's loader reads them here or in its workers.

    Where they must be full, the next example takes the place of one that is left out, so that all are of one size.
    Indices count the examples of `among`, or all of the split.
    """

    def __init__(
        self,
        reader: ExampleReader,
        collator: Collator,
        seed: int,
        full: bool,
        among: Indices | None = None,
        partners: PartnerReader | None = None,
    ):
        self.reader, self.collator, self.seed, self.full, self.among = reader, collator, seed, full, among
        self.partners = partners

    def __getitem__(self, wanted: MicroBatch) -> _Read:
        examples = range(len(self.reader.dataset)) if self.among is None else self.among
        decoded: Kept = {}
        places, loaded = list[int](), list[Loaded]()
        # random transforms do not depend on who reads it when
        with random_numbers_apart(stream_seed(self.seed, wanted.number)):
            try:
                for first in wanted.indices:
                    for i in range(first, first + (len(examples) if self.full else 1)):
                        place = int(examples[i % len(examples)])
                        one = self.reader(place, decoded)
                        if one is not None:
                            places.append(place)
                            loaded.append(one)
                            break
                batch = self.collator(loaded, tuple(places)) if loaded else None
                if batch is not None and self.partners is not None:
                    # last of all, so that what the examples themselves draw at random stays
                    batch = self.partners.beside(batch, [one.example for one in loaded], wanted.epochs, decoded)
                return _Read(batch, dict(self.reader.skipped))
            except DataError as error:
                return _Read(None, {}, str(error))


class TrainingBatches:
    """The micro-batches that this process computes, in the order of the updates; the plan counts the examples of
    `among`.
    """

    def __init__(
        self,
        reader: ExampleReader,
        collator: Collator,
        plan: TrainingPlan,
        workers: int = 0,
        pin: bool = False,
        among: Indices | None = None,
        partners: PartnerReader | None = None,
    ):
        self.reader, self.plan = reader, plan
        examples = _MicroBatches(reader, collator, plan.seed, full=True, among=among, partners=partners)
        self.loader = _loader(examples, plan, workers, pin)

    def starting_at(self, update: int) -> Iterator[Batch]:
        """The micro-batches of an update and of those after it."""
        self.plan.start = update
        for read in self.loader:
            batch = read.shared_with(self.reader)
            if batch is None:
                raise DataError(f"no example of a batch could be read: {'; '.join(read.skipped.values())}")
            yield batch


class EvaluationBatches:
    """A split in its own order, each example once, shared out among the processes."""

    def __init__(
        self,
        reader: ExampleReader,
        collator: Collator,
        batch_size: int,
        rank: int = 0,
        size: int = 1,
        workers: int = 0,
        pin: bool = False,
        partners: PartnerReader | None = None,
    ):
        self.reader = reader
        plan = EvaluationPlan(len(reader.dataset), batch_size, rank, size)
        self.loader = _loader(_MicroBatches(reader, collator, 0, full=False, partners=partners), plan, workers, pin)

    def __iter__(self) -> Iterator[Batch]:
        for read in self.loader:
            batch = read.shared_with(self.reader)
            if batch is not None:
                yield batch

    def __len__(self) -> int:
        return len(self.loader)


def _loader(examples: _MicroBatches, sampler: Sampler[MicroBatch], workers: int, pin: bool) -> DataLoader[_Read]:
    # a generator of its own, so that making a loader draws nothing from the run's random numbers
    return DataLoader(
        examples,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator(),
        persistent_workers=workers > 0,
        collate_fn=_as_it_is,
    )


def _as_it_is(read: Any) -> Any:
    return read
