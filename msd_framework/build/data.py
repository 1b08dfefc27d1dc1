"""What a run reads: its splits, how each modality becomes tensors, and a split's batches in its own order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from msd_framework.build.facts import RunFacts
from msd_framework.build.processors import build_processors, build_teacher_overrides
from msd_framework.build.splits import Splits, open_splits
from msd_framework.config.schema import RunConfig
from msd_framework.data.base import MultimodalDataset, Processor
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.loader import EvaluationBatches
from msd_framework.data.batches.partners import PartnerReader
from msd_framework.data.batches.reader import DecodedInputs, ExampleReader, NotMade, TeacherOverrides
from msd_framework.engine.distributed import World
from msd_framework.errors import DataError
from msd_framework.randomness import random_numbers_apart
from msd_framework.structures import Batch, DatasetInfo, TeacherKey, has_label

COUNTED = 1024  # how many training examples have their labels counted at once


@dataclass(frozen=True)
class Data:
    """What a run reads."""

    facts: RunFacts  # what is known of the run without its data
    world: World
    splits: Splits  # those that are open
    processors: Mapping[str, Processor]  # of the student, and of teachers that take the same
    known: Mapping[str, Any]  # what components may ask for by name
    decoded: DecodedInputs  # inputs that were decoded once
    training: ExampleReader | None  # reads the training split; None where that is not open
    evaluation: Mapping[str, EvaluationBatches]  # the batches of the other splits, by use
    teacher_overrides: Mapping[TeacherKey, Processor] = field(default_factory=dict)  # other tensors for teachers

    @property
    def config(self) -> RunConfig:
        return self.facts.config

    @property
    def info(self) -> DatasetInfo:
        return self.facts.info

    def teacher_processors(self, number: int) -> dict[str, Processor]:
        """How each modality becomes tensors for a teacher."""
        return {**self.processors, **{m: p for (m, teachers), p in self.teacher_overrides.items() if number in teachers}}

    def known_to_teacher(self, number: int) -> dict[str, Any]:
        """`known` with the facts of a teacher's processors."""
        return {**self.known, "modalities": {m: p.facts for m, p in self.teacher_processors(number).items()}}

    @property
    def overrides_in_batches(self) -> TeacherOverrides:
        """What batches hold for the teachers alone: no tensors where their outputs are cached."""
        teacher = self.config.teacher
        if teacher is None or not teacher.cache:
            return self.teacher_overrides
        return {key: NotMade(processor) for key, processor in self.teacher_overrides.items()}

    def reader(self, examples: MultimodalDataset) -> ExampleReader:
        """Reads examples as an evaluation does, without random transforms."""
        processors = {m: p.deterministic() for m, p in self.processors.items()}
        skips = self.config.data.on_error == "skip"
        return ExampleReader(examples, processors, self.decoded, skips, self.overrides_in_batches)

    def partners(self, reader: ExampleReader) -> PartnerReader | None:
        """Reads the other rows of the training split that views take modalities from; None where no view does."""
        wanted, data = self.facts.other_rows, self.config.data
        # by the ids alone where there are a few, so that all runs share what a teacher says of them
        seed = self.config.seed if data.partners is None else 0
        return PartnerReader(reader, self.info, wanted, data.partners, seed) if wanted else None

    def in_order(
        self, reader: ExampleReader, shared: bool = True, partners: PartnerReader | None = None, batch_size: int | None = None
    ) -> EvaluationBatches:
        """Examples in their own order: shared out among the processes, or all of them on each."""
        rank, size = (self.world.rank, self.world.size) if shared else (0, 1)
        collator = Collator(reader.processors, self.info, teacher_overrides=reader.teacher_overrides)
        batch_size = batch_size or self.config.evaluation.batch_size
        workers, pin = self.config.data.workers, self.world.device.type == "cuda"
        return EvaluationBatches(reader, collator, batch_size, rank, size, workers, pin, partners)

    @property
    def training_reader(self) -> ExampleReader:
        """Reads the training split, with random transforms; for runs that train."""
        assert self.training is not None
        return self.training

    def all_training_examples(self) -> OnDevice:
        """The training split in its own order, whole on each process, for statistics over it."""
        return OnDevice(self, self.training_reader)

    def reader_of(self, use: str) -> ExampleReader:
        """Reads the split of a use."""
        return self.training_reader if use == "train" else self.evaluation[use].reader

    def leave_out(self, use: str, places: Iterable[int], why: str) -> None:
        """Leaves examples of a split out that a reader of other tensors could not read; the report says why."""
        reader = self.reader_of(use)
        for place in places:
            loaded = reader(place)
            if loaded is None:  # the student cannot read it either, and the reader has noted why
                continue
            text = f"{loaded.example.source}: {why}"
            if not reader.skip_errors:
                raise DataError(f"{text}. Mend it, or set data.on_error=skip, as when the teacher was asked.")
            reader.skipped[place] = text


@dataclass(frozen=True)
class OnDevice:
    """Batches on a device, which can be gone through again and again."""

    data: Data
    reader: ExampleReader
    teacher: int | None = None  # the number of the teacher that sees them; None for the student

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.data.in_order(self.reader, shared=False):
            on_device = batch.to(self.data.world.device)
            yield on_device if self.teacher is None else on_device.for_teacher(self.teacher)

    def of_teacher(self, number: int) -> OnDevice:
        """The same batches as a teacher sees them, with tensors even where its outputs are cached."""
        own = {key: processor for key, processor in self.data.teacher_overrides.items() if number in key[1]}
        return OnDevice(self.data, self.reader.with_teacher(own), number)


def build_data(facts: RunFacts, world: World, splits: Splits | None = None) -> Data:
    """Makes the processors of a run, which learn what they have to, and what reads its splits."""
    splits = open_splits(facts, world) if splits is None else splits
    with random_numbers_apart():  # to learn, a processor may draw examples
        processors = build_processors(facts, world, splits)
    known = {**facts.known, "modalities": {m: p.facts for m, p in processors.items()}}
    overrides = build_teacher_overrides(facts, processors)
    data = Data(facts, world, splits, processors, known, room_for_decoded(facts.config), None, {}, overrides)
    training = None
    if "train" in splits:
        skips = facts.config.data.on_error == "skip"
        training = ExampleReader(splits["train"], processors, data.decoded, skips, data.overrides_in_batches)
    evaluation = {use: data.in_order(data.reader(split)) for use, split in splits.items() if use != "train"}
    return replace(data, training=training, evaluation=evaluation)


def room_for_decoded(config: RunConfig) -> DecodedInputs:
    """Keeps inputs that were decoded once; each process that reads ahead has a share of the room for its own."""
    data = config.data
    splits = [split for split in (data.train, data.validation, data.test) if split]
    return DecodedInputs(data.cache_mb / max(1, data.workers * len(splits)))


def class_counts(data: Data) -> tuple[Tensor, int]:
    """How many training examples have each class, or their sum of scores, float64 [C]; and how many have a label."""
    examples, collator = data.splits["train"], Collator({}, data.info)
    counts, num_labelled = torch.zeros(data.info.num_classes, dtype=torch.float64), 0
    for first in range(0, len(examples), COUNTED):
        targets = collator.targets([examples[i] for i in range(first, min(first + COUNTED, len(examples)))])
        targets = targets[has_label(targets)]
        num_labelled += len(targets)
        counts += targets.bincount(minlength=len(counts)) if targets.ndim == 1 else targets.sum(0)
    return counts, num_labelled
