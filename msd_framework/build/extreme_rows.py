"""The longest and the shortest rows of a run, and those that lack something, found without reading all of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TypeAlias

import numpy as np
import torch

from msd_framework.config.schema import RunConfig
from msd_framework.data.base import MultimodalDataset, Processor
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.reader import ExampleReader, Loaded, TeacherOverrides
from msd_framework.data.processors.text import Tokenizer
from msd_framework.errors import ConfigError, DataError, Problem
from msd_framework.structures import Batch, DatasetInfo

MOST_TEXTS = 20_000
"""Rows of a split, evenly spaced, whose texts are compared by their characters."""

MOST_FILES = 200
"""Rows of a split, evenly spaced, whose lengths stand in files."""

MEASURED = 8
"""Of the texts with the most and the fewest characters, how many are measured in tokens."""

MOST_READ = 64
"""Rows that are read for a step at most; where it takes more, they are repeated."""

MOST_ON_CPU = 64
"""Rows of a step on a CPU at most. A larger one would find nothing more there: memory that is full is no error of torch's."""

Row: TypeAlias = tuple[int, Loaded]
"""The place of an example in its split, and the example with its tensors."""


@dataclass(frozen=True)
class SideOfRows:
    """Rows as the student or the teacher sees them.

    Args:
        alone: each as a batch of its own.
        together: all of them as one batch.
        processors: how they become tensors: a key path, a modality and its processor.
    """

    alone: Sequence[Batch]
    together: Batch
    processors: Sequence[tuple[str, str, Processor]]


class ExtremeRows:
    """The first, the longest and the shortest rows of a run's splits, read as an evaluation reads them.

    Args:
        config: what the run is.
        device: where batches of them go.
        processors: how each modality becomes tensors.
        info: what the data set is.
        splits: those that are looked at, by what the run uses them for.
        teacher_overrides: how modalities become other tensors for a teacher.
    """

    def __init__(
        self,
        config: RunConfig,
        device: torch.device,
        processors: Mapping[str, Processor],
        info: DatasetInfo,
        splits: Mapping[str, MultimodalDataset],
        teacher_overrides: TeacherOverrides | None = None,
    ):
        self.config, self.device, self.info = config, device, info
        self.sources: dict[str, str] = {}  # the file and line of an example, by its id
        processors = {m: p.deterministic() for m, p in processors.items()}
        self.collator = Collator(processors, info, teacher_overrides=teacher_overrides)
        own = {m: p for m, p in (teacher_overrides or {}).items() if p is not None}
        # each processor with its key path and its modality
        self.processors = [(f"data.processors.{m}", m, p) for m, p in processors.items()]
        self.own_of_teacher = [(f"teacher.processors.{m}", m, p) for m, p in own.items()]
        self.both_sides = [*self.processors, *self.own_of_teacher]
        self.tokens = list(dict.fromkeys(m for _, m, p in self.both_sides if p.kind == "tokens"))
        # readers of their own: what is left out here is not counted as left out of the run
        skips = config.data.on_error == "skip"
        self.readers = {
            use: ExampleReader(split, processors, skip_errors=skips, teacher_overrides=teacher_overrides)
            for use, split in splits.items()
        }

    @cached_property
    def alone(self) -> list[Batch]:
        """Each of them as a batch of its own.

        Raises:
            DataError: if one cannot be read, or, where those are skipped, if none can.
        """
        return [self._batch([row]) for row in self._extreme]

    @cached_property
    def together(self) -> Batch:
        """All of them as one batch."""
        return self._batch(self._extreme)

    @property
    def of_student(self) -> SideOfRows:
        """They as the student sees them."""
        return SideOfRows(self.alone, self.together, self.processors)

    @property
    def of_teacher(self) -> SideOfRows:
        """They as the teacher sees them."""
        own = {m for _, m, _ in self.own_of_teacher}
        processors = [one for one in self.processors if one[1] not in own] + self.own_of_teacher
        return SideOfRows([batch.teacher_side for batch in self.alone], self.together.teacher_side, processors)

    @cached_property
    def part(self) -> Batch:
        """As many training rows as a process computes at once: the longest ones, repeated where that takes more than a few."""
        training, examples = self.config.training, self.readers["train"].dataset
        size = training.batch_size // (int(os.environ.get("WORLD_SIZE", "1")) * training.accumulate)
        if self.device.type == "cpu":
            size = min(size, MOST_ON_CPU)
        sizes = {}
        for i in evenly(len(examples), MOST_TEXTS):
            inputs = examples[i].inputs
            sizes[i] = sum(len(inputs[m]) for m in self.tokens if isinstance(inputs.get(m), str))
        longest = sorted(sizes, key=sizes.__getitem__, reverse=True)[: min(size, MOST_READ)]
        rows = self._readable([("train", i) for i in longest])
        return self._batch([rows[i % len(rows)] for i in range(size)])

    def check_files(self) -> None:
        """Looks for what each example of each split is read from.

        Raises:
            DataError: of the first one of which something is not there.
        """
        for reader in self.readers.values():
            reader.check_files()

    def check_texts(self) -> None:
        """Looks for texts of which a tokenizer tells nothing.

        Raises:
            ConfigError: if it tells nothing of any of some training texts.
            DataError: if it cannot read one, as it has no token for unknown words.
        """
        examples = self.readers["train"].dataset
        for path, modality, processor in self.both_sides:
            if not isinstance(processor, Tokenizer):
                continue
            if processor.needs_known_words:
                self._read_all(modality, processor)
            values = (examples[i].inputs.get(modality) for i in evenly(len(examples), MOST_FILES))
            problem = processor.problem_with(value for value in values if isinstance(value, str))
            if problem:
                raise ConfigError(Problem(path, problem))

    def _read_all(self, modality: str, processor: Tokenizer) -> None:
        for reader in self.readers.values():
            for example in (reader.dataset[i] for i in range(len(reader.dataset))):
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
        found = [(use, 0) for use in self.readers]
        for _, modality, processor in self.both_sides:
            lengths: dict[tuple[str, int], int] = {}
            for use, reader in self.readers.items():
                examples = reader.dataset
                lengths |= {(use, i): n for i, n in self._lengths(use, modality, processor).items()}
                lacking = (i for i in evenly(len(examples), MOST_FILES) if examples[i].inputs.get(modality) is None)
                found += [(use, i) for i in islice(lacking, 1)]
            if lengths:
                found += [max(lengths, key=lengths.__getitem__), min(lengths, key=lengths.__getitem__)]
        return self._readable(list(dict.fromkeys(found)))

    def _lengths(self, use: str, modality: str, processor: Processor) -> dict[int, int]:
        """The positions of those rows of a split that may be its longest or its shortest; nothing where all are of one size."""
        examples = self.readers[use].dataset
        if processor.kind == "pixels":
            return {}
        most = MOST_TEXTS if processor.kind == "tokens" else MOST_FILES
        values = {i: examples[i].inputs.get(modality) for i in evenly(len(examples), most)}
        places = [i for i, value in values.items() if value is not None]
        if processor.kind == "tokens":
            places.sort(key=lambda i: len(str(values[i])))
            places = [*places[:MEASURED], *places[MEASURED:][-MEASURED:]]
        lengths = {}
        for i in places:
            try:
                lengths[i] = processor.length(values[i])
            except DataError:  # it is read next, which tells its line, or leaves it out
                lengths[i] = sys.maxsize
        return lengths

    def _readable(self, places: Sequence[tuple[str, int]]) -> list[Row]:
        rows = []
        for use, index in places:
            loaded = self.readers[use](index)
            if loaded is not None:
                self.sources[loaded.example.id] = loaded.example.source
                rows.append((index, loaded))
        if not rows:
            raise DataError(next((text for r in self.readers.values() for text in r.skipped.values()), "data: has no example."))
        return rows

    def _batch(self, rows: Sequence[Row]) -> Batch:
        """Rows as a batch that is computed in full, also where some of them are the same."""
        batch = self.collator([loaded for _, loaded in rows], tuple(i for i, _ in rows)).to(self.device)
        data = self.config.data
        if data.unlabelled or data.labelled_share < 1:
            batch = replace(batch, num_labelled=batch.labelled.sum().double().clamp(min=1))
        teacher_inputs = {m: x and replace(x, distinct=None) for m, x in batch.teacher_inputs.items()}
        return replace(batch, inputs={m: replace(x, distinct=None) for m, x in batch.inputs.items()}, teacher_inputs=teacher_inputs)


def evenly(length: int, most: int) -> list[int]:
    """Places of at most so many examples, evenly spaced.

    >>> evenly(10, 4), evenly(3, 9)
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return list(np.linspace(0, length - 1, min(length, most)).round().astype(int).tolist())
