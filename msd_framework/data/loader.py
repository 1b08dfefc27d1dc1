"""Batches of a split: the same ones whatever the number of processes, and the same ones after an interruption."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from msd_framework.data.base import Example, MultimodalDataset, Processor
from msd_framework.errors import DataError
from msd_framework.structures import Batch, DatasetInfo

Loaded = tuple[Example, dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """The examples that one process computes at once.

    Args:
        number: which part of the run or split this is, the seed of its random transforms.
        indices: the examples.
    """

    number: int
    indices: tuple[int, ...]


class ExampleReader:
    """Reads the examples of a split and turns them into tensors, with those that fit into memory kept.

    Args:
        dataset: the raw examples.
        processors: how each modality becomes tensors.
        cache_mb: memory for examples that were read once, in MB, in each process that reads; none is kept if a modality has
            random transforms.
        skip_errors: leaves out an example that cannot be read, in place of raising.

    Attributes:
        skipped: what was wrong with each example that was left out.
    """

    def __init__(
        self, dataset: MultimodalDataset, processors: Mapping[str, Processor], cache_mb: int = 0, skip_errors: bool = False
    ):
        self.dataset, self.processors, self.skip_errors = dataset, processors, skip_errors
        self.room = 0 if any(p.random for p in processors.values()) else cache_mb * 2**20
        self.kept: OrderedDict[int, Loaded] = OrderedDict()
        self.skipped: dict[int, str] = {}

    def __call__(self, index: int) -> Loaded | None:
        """An example and its loaded inputs, or None if it cannot be read and errors are skipped.

        Raises:
            DataError: if it cannot be read, with the line that names it.
        """
        if index in self.kept or index in self.skipped:
            return self.kept.get(index)
        example = self.dataset[index]
        try:
            loaded = example, {m: p.load(example.inputs[m]) for m, p in self.processors.items()}
        except DataError as error:
            text = f"{example.source}: {error}"
            if not self.skip_errors:
                raise DataError(text) from error
            self.skipped[index] = text
            return None
        size = sum(_num_bytes(x) for x in loaded[1].values())
        if size <= self.room:
            self.room -= size
            self.kept[index] = loaded
        return loaded


class Collator:
    """Makes a batch of loaded examples.

    Args:
        processors: how each modality becomes tensors.
        info: the data set's description, which says how targets are read.
    """

    def __init__(self, processors: Mapping[str, Processor], info: DatasetInfo):
        self.processors, self.info = processors, info

    def __call__(self, loaded: list[Loaded], places: tuple[int, ...] = ()) -> Batch:
        examples = [example for example, _ in loaded]
        inputs = {m: self.processors[m].collate([x[m] for _, x in loaded]) for m in sorted(self.processors)}
        return Batch(inputs, self.targets(examples), tuple(e.id for e in examples), places)

    def targets(self, examples: list[Example]) -> Tensor:
        """Targets int64 [B] or float [B, C]; -100 (or NaN) where a blind test has none."""
        if self.info.task == "single_label":
            return torch.tensor([-100 if e.target is None else e.target for e in examples])
        unknown = [float("nan")] * self.info.num_classes
        return torch.tensor([unknown if e.target is None else list(e.target) for e in examples], dtype=torch.float32)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Read:
    """A part's batch, None if nothing of it could be read, what was wrong with the examples left out of it, and what stops the run.

    An error is a text here: torch's loader would add a worker's traceback to one that is raised there.
    """

    batch: Batch | None
    skipped: dict[int, str]
    error: str = ""

    def pin_memory(self) -> _Read:
        return _Read(self.batch and self.batch.pin_memory(), self.skipped, self.error)

    def told_to(self, reader: ExampleReader) -> Batch | None:
        """The batch, once the reader knows what was left out: a worker's own reader knows more than this one."""
        if self.error:
            raise DataError(self.error)
        reader.skipped |= self.skipped
        return self.batch


class _Parts(Dataset[_Read]):
    """Parts by what they hold; torch's loader reads them here or in its workers.

    Args:
        reader: the split's examples.
        collator: makes batches of them.
        seed: the seed of random transforms.
        full: whether the next example of the split takes the place of one that is left out, so that all parts count the same.
    """

    def __init__(self, reader: ExampleReader, collator: Collator, seed: int, full: bool):
        self.reader, self.collator, self.seed, self.full = reader, collator, seed, full

    def __getitem__(self, part: Part) -> _Read:
        with torch.random.fork_rng(devices=[]):  # random transforms depend on the part alone, not on who reads it when
            torch.default_generator.manual_seed(_mix(self.seed, part.number))  # torch.manual_seed would touch a GPU's as well
            try:
                read = [x for x in map(self._read, part.indices) if x is not None]
            except DataError as error:
                return _Read(None, {}, str(error))
        places, loaded = tuple(i for i, _ in read), [x for _, x in read]
        return _Read(self.collator(loaded, places) if loaded else None, dict(self.reader.skipped))

    def _read(self, index: int) -> tuple[int, Loaded] | None:
        length = len(self.reader.dataset)
        places = (i % length for i in range(index, index + (length if self.full else 1)))
        return next(((i, loaded) for i in places if (loaded := self.reader(i)) is not None), None)


class TrainingPlan(Sampler[Part]):
    """Which examples each update sees: one permutation of the split after another, cut into batches of equal size.

    A batch may begin in one epoch and end in the next, so every example is seen once an epoch and every batch is full.
    Update u of a run is the same for any number of processes, any accumulation and after any interruption.

    Args:
        num_examples: examples of the split.
        batch_size: examples of a batch, over all processes and parts.
        num_updates: batches of the run.
        accumulate: parts that each process computes its share in.
        rank: which process this is.
        size: how many there are.
        seed: the seed of the permutations.
    """

    def __init__(self, num_examples: int, batch_size: int, num_updates: int, accumulate: int, rank: int, size: int, seed: int):
        self.num_examples, self.batch_size, self.num_updates = num_examples, batch_size, num_updates
        self.accumulate, self.rank, self.size, self.seed = accumulate, rank, size, seed
        self.start = 0

    def __iter__(self) -> Iterator[Part]:
        width = self.batch_size // (self.size * self.accumulate)
        for update in range(self.start, self.num_updates):
            batch = self.batch(update)
            for i in range(self.accumulate):
                first = (i * self.size + self.rank) * width
                yield Part((update * self.accumulate + i) * self.size + self.rank, batch[first : first + width])

    def __len__(self) -> int:
        return (self.num_updates - self.start) * self.accumulate

    def batch(self, update: int) -> tuple[int, ...]:
        """The examples of an update, over all processes."""
        places = range(update * self.batch_size, (update + 1) * self.batch_size)
        return tuple(self.permutation(p // self.num_examples)[p % self.num_examples] for p in places)

    def permutation(self, epoch: int) -> list[int]:
        """The order of the split in an epoch."""
        if getattr(self, "_epoch", None) != epoch and getattr(self, "_last", None) != epoch:
            generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
            order: list[int] = torch.randperm(self.num_examples, generator=generator).tolist()
            self._last, self._last_order = getattr(self, "_epoch", None), getattr(self, "_order", None)
            self._epoch, self._order = epoch, order
        found = self._order if self._epoch == epoch else self._last_order
        assert found is not None
        return found


class TrainingBatches:
    """The parts that this process computes, in the order of the updates.

    Args:
        reader: the split's examples.
        collator: makes batches of them.
        plan: which examples each update sees.
        workers: processes that read ahead.
        pin: whether batches are put where a GPU fetches them faster.
    """

    def __init__(self, reader: ExampleReader, collator: Collator, plan: TrainingPlan, workers: int = 0, pin: bool = False):
        self.reader, self.plan = reader, plan
        self.loader = _loader(_Parts(reader, collator, plan.seed, full=True), plan, workers, pin)

    def starting_at(self, update: int) -> Iterator[Batch]:
        """The parts of an update and of those after it.

        Raises:
            DataError: if none of a part's examples could be read.
        """
        self.plan.start = update
        for read in self.loader:
            batch = read.told_to(self.reader)
            if batch is None:
                raise DataError(f"no example of a batch could be read: {'; '.join(read.skipped.values())}")
            yield batch


class EvaluationBatches:
    """A split in its own order, each example once, shared out among the processes.

    Args:
        reader: the split's examples.
        collator: makes batches of them.
        batch_size: examples of a batch.
        rank: which process this is.
        size: how many there are.
        workers: processes that read ahead.
        pin: whether batches are put where a GPU fetches them faster.
    """

    def __init__(
        self,
        reader: ExampleReader,
        collator: Collator,
        batch_size: int,
        rank: int = 0,
        size: int = 1,
        workers: int = 0,
        pin: bool = False,
    ):
        self.reader = reader
        mine = range(rank, len(reader.dataset), size)
        parts = [Part(i, tuple(mine[i : i + batch_size])) for i in range(0, len(mine), batch_size)]
        self.loader = _loader(_Parts(reader, collator, 0, full=False), parts, workers, pin)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        for read in self.loader:
            batch = read.told_to(self.reader)
            if batch is not None:
                yield batch

    def __len__(self) -> int:
        return len(self.loader)


def _loader(parts: _Parts, sampler: Sampler[Part], workers: int, pin: bool) -> DataLoader[_Read]:
    # a generator of its own, so that making a loader draws nothing from the run's random numbers
    return DataLoader(
        parts,
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


def _mix(seed: int, number: int) -> int:
    """A seed for one of many streams, from SplitMix64 (Steele et al., OOPSLA 2014)."""
    x = (seed * 0x9E3779B97F4A7C15 + number + 0x632BE59BD9B4E019) & (2**64 - 1)
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (x ^ (x >> 31)) >> 1


def _num_bytes(loaded: Any) -> int:
    if isinstance(loaded, Tensor):
        return loaded.nbytes
    if isinstance(loaded, (list, tuple)):
        return 64 + sum(_num_bytes(x) for x in loaded)
    return int(getattr(loaded, "nbytes", 64))
