"""The longest and the shortest rows of a run, and those that lack something, without a look at all of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np

from msd_framework.build.data import Data
from msd_framework.data.base import Processor
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.reader import ExampleReader, Loaded, TeacherOverrides, made
from msd_framework.data.processors.text import Tokenizer
from msd_framework.errors import ConfigError, DataError, Problem
from msd_framework.launch import launched
from msd_framework.randomness import random_numbers_apart
from msd_framework.structures import Batch

MOST_TEXTS = 20_000  # rows of a split, evenly spaced, whose texts are compared by their characters
MOST_FILES = 200  # rows of a split, evenly spaced, whose lengths stand in files
MEASURED = 8  # of the texts with the most and the fewest characters, how many are measured in tokens
MOST_READ = 64  # rows that are read for a step at most; where it takes more, they are repeated
MOST_ON_CPU = 64  # rows of a step on a CPU at most: memory that is full there is no error of torch's

Row: TypeAlias = tuple[int, Loaded]  # the place of an example in its split, and the example with its tensors
Placed: TypeAlias = tuple[str, str, Processor]  # the key path, the modality and how it becomes tensors


@dataclass(frozen=True)
class SideOfRows:
    """Rows as the student or a teacher sees them."""

    alone: Sequence[Batch]  # each as a batch of its own
    together: Batch  # all of them as one batch
    processors: Sequence[Placed]  # how they become tensors


class ExtremeRows:
    """The first, the longest and the shortest rows of a run's splits, read as an evaluation reads them."""

    def __init__(self, data: Data, overrides: TeacherOverrides):
        self.config, self.device, self.info = data.config, data.world.device, data.info
        self.other_rows = data.facts.other_rows
        self.sources: dict[str, str] = {}  # the file and line of an example, by its id
        processors = {m: p.deterministic() for m, p in data.processors.items()}
        self.collator = Collator(processors, data.info, teacher_overrides=overrides)
        self.processors = [(f"data.processors.{m}", m, p) for m, p in processors.items()]
        self.of_teachers_alone = made(overrides)
        self.all_sides: list[Placed] = [*self.processors]
        self.all_sides += [(f"teacher.processors.{m}", m, p) for (m, _), p in self.of_teachers_alone.items()]
        # readers of their own: what is left out here is not counted as left out of the run
        self.readers: dict[str, ExampleReader] = {}
        for use, split in data.splits.items():
            skips = data.config.data.on_error == "skip"
            self.readers[use] = ExampleReader(split, processors, skip_errors=skips, teacher_overrides=overrides)
            self.readers[use].skipped |= data.reader_of(use).skipped

    @cached_property
    def of_student(self) -> SideOfRows:
        return SideOfRows([self._batch([row]) for row in self._extreme], self._batch(self._extreme), self.processors)

    def of_teacher(self, number: int) -> SideOfRows:
        processors = {modality: (path, modality, processor) for path, modality, processor in self.processors}
        for (m, teachers), own in self.of_teachers_alone.items():
            if number in teachers:
                processors[m] = (f"teacher.processors.{m}", m, own)
        alone = [batch.for_teacher(number) for batch in self.of_student.alone]
        return SideOfRows(alone, self.of_student.together.for_teacher(number), list(processors.values()))

    @cached_property
    def step(self) -> Batch:
        """As many training rows as a process computes at once: the longest ones, repeated where that takes more than a few."""
        training, examples = self.config.training, self.readers["train"].dataset
        size = training.batch_size // (launched().size * training.accumulate)
        if self.device.type == "cpu":
            size = min(size, MOST_ON_CPU)
        texts = {modality for _, modality, processor in self.all_sides if processor.kind == "tokens"}
        characters = {}
        for i in evenly(len(examples), MOST_TEXTS):
            inputs = examples[i].inputs
            characters[i] = sum(len(inputs[m]) for m in texts if isinstance(inputs.get(m), str))
        longest = sorted(characters, key=characters.__getitem__, reverse=True)
        rows = self._readable([("train", i) for i in longest[: min(size, MOST_READ)]])
        return self._batch([rows[i % len(rows)] for i in range(size)])

    def check_files(self) -> None:
        """Looks for the files of each example of each split."""
        for reader in self.readers.values():
            reader.check_files()

    def check_texts(self) -> None:
        """Looks for texts that a tokenizer makes no known word of."""
        examples = self.readers["train"].dataset
        for path, modality, processor in self.all_sides:
            if not isinstance(processor, Tokenizer):
                continue
            if processor.needs_known_words:
                self._read_all(modality, processor)
            values = [examples[i].inputs.get(modality) for i in evenly(len(examples), MOST_FILES)]
            problem = processor.problem_with(value for value in values if isinstance(value, str))
            if problem:
                raise ConfigError(Problem(path, problem))

    def _read_all(self, modality: str, processor: Tokenizer) -> None:
        for reader in self.readers.values():
            for i in range(len(reader.dataset)):
                example = reader.dataset[i]
                value = example.inputs.get(modality)
                try:
                    if value is not None:
                        processor.length(value)
                except DataError as error:
                    if not reader.skip_errors:
                        raise DataError(f"{example.source}: {error}, as it has no token for unknown words") from error

    def source(self, batch: Batch) -> str:
        """Where the rows of a batch come from, for errors."""
        named = [f"{one} ({self.sources[one]})" for one in dict.fromkeys(batch.ids)]
        return f"the row {named[0]}" if len(named) == 1 else f"rows such as {named[0]}"

    @cached_property
    def _extreme(self) -> list[Row]:
        """The first row of each split; and of each modality one row a split that lacks it, the longest and the shortest."""
        places = [(use, 0) for use in self.readers]
        for _, modality, processor in self.all_sides:
            lengths: dict[tuple[str, int], int] = {}
            for use, reader in self.readers.items():
                for i, length in self._lengths(use, modality, processor).items():
                    lengths[use, i] = length
                for i in evenly(len(reader.dataset), MOST_FILES):
                    if reader.dataset[i].inputs.get(modality) is None:
                        places.append((use, i))
                        break
            if lengths:
                places += [max(lengths, key=lengths.__getitem__), min(lengths, key=lengths.__getitem__)]
        return self._readable(list(dict.fromkeys(places)))

    def _lengths(self, use: str, modality: str, processor: Processor) -> dict[int, int]:
        """The lengths in positions of rows of a split that may be its longest or shortest; empty where all are of one size."""
        examples = self.readers[use].dataset
        if processor.kind == "pixels":
            return {}
        most = MOST_TEXTS if processor.kind == "tokens" else MOST_FILES
        values = {}
        for i in evenly(len(examples), most):
            value = examples[i].inputs.get(modality)
            if value is not None:
                values[i] = value
        places = list(values)
        if processor.kind == "tokens":  # characters are counted fast, and tokens then of a few texts
            places.sort(key=lambda i: len(str(values[i])))
            places = [*places[:MEASURED], *places[MEASURED:][-MEASURED:]]
        lengths = {}
        for i in places:
            try:
                lengths[i] = processor.length(values[i])
            except DataError:  # it is read next, which names its line, or leaves it out
                lengths[i] = sys.maxsize
        return lengths

    def _readable(self, places: Sequence[tuple[str, int]]) -> list[Row]:
        rows = []
        for use, index in places:
            loaded = self.readers[use](index)
            if loaded is not None:
                self.sources[loaded.example.id] = loaded.example.source
                rows.append((index, loaded))
        if rows:
            return rows
        for reader in self.readers.values():
            for text in reader.skipped.values():
                raise DataError(text)
        raise DataError("data: has no example.")

    def _batch(self, rows: Sequence[Row]) -> Batch:
        """Rows as a batch that is computed in full, also where some of them are the same."""
        places, examples = zip(*rows)
        batch = self.collator(examples, places).to(self.device)
        if self.config.data.unlabelled or self.config.data.labelled_share < 1:
            batch = replace(batch, num_labelled=batch.labelled.sum().double().clamp(min=1))
        inputs = {m: replace(x, distinct=None) for m, x in batch.inputs.items()}
        of_teachers = {key: x and replace(x, distinct=None) for key, x in batch.teacher_inputs.items()}
        with random_numbers_apart():
            batch = replace(batch, inputs=inputs, teacher_inputs=of_teachers).paired(self.other_rows)
        return replace(batch, turns=(0,) * len(batch)) if self.other_rows else batch


def evenly(length: int, most: int) -> list[int]:
    """Places of at most so many examples, evenly spaced."""
    return list(np.linspace(0, length - 1, min(length, most)).round().astype(int).tolist())
