"""What a run reads: its splits, how each modality becomes tensors, and a split's batches in its own order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msd_framework.build.facts import RunFacts
from msd_framework.components.registry import plain
from msd_framework.config.cards import card_of, fingerprint, learned_processors, other_tensors
from msd_framework.config.schema import RunConfig
from msd_framework.config.splits import shared_problems
from msd_framework.data.base import MultimodalDataset, Processor
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.labels import HiddenLabels
from msd_framework.data.batches.loader import EvaluationBatches
from msd_framework.data.batches.reader import DecodedInputs, ExampleReader, TeacherOverrides
from msd_framework.engine.checkpoint import find_checkpoint, read_json
from msd_framework.engine.distributed import World
from msd_framework.errors import CheckpointError, ConfigError, DataError
from msd_framework.hashing import digest
from msd_framework.randomness import random_numbers_apart
from msd_framework.registry import DATASETS, PROCESSORS
from msd_framework.structures import Batch, DatasetInfo, has_label
from msd_framework.teachers.ensemble import union

COUNTED = 1024
"""How many training examples have their labels counted at once."""

Splits = Mapping[str, MultimodalDataset]
"""The opened splits by what the run uses them for: `train`, `validation` or `test`."""


@dataclass(frozen=True)
class Data:
    """What a run reads.

    Args:
        before: what was known of the run before anything was read.
        world: this process among all.
        splits: those that are open.
        processors: how each modality becomes tensors, for the student and for teachers that see the same.
        facts: what components may ask for by name, the processors' part of it by modality.
        decoded: keeps inputs that were decoded once.
        training: reads the training split; None where that is not open.
        evaluation: the batches of the other splits, by use.
        teacher_overrides: how modalities become other tensors for the teachers; nothing where both sides see the same.
    """

    before: RunFacts
    world: World
    splits: Splits
    processors: Mapping[str, Processor]
    facts: Mapping[str, Any]
    decoded: DecodedInputs
    training: ExampleReader | None
    evaluation: Mapping[str, EvaluationBatches]
    teacher_overrides: Mapping[str, Processor] = field(default_factory=dict)

    @property
    def config(self) -> RunConfig:
        return self.before.config

    @property
    def info(self) -> DatasetInfo:
        return self.before.info

    @property
    def teacher_processors(self) -> dict[str, Processor]:
        """How each modality becomes tensors for the teachers."""
        return {**self.processors, **self.teacher_overrides}

    @property
    def teacher_facts(self) -> dict[str, Any]:
        """What components of the teachers' side may ask for by name."""
        return {**self.facts, "modalities": {m: p.facts for m, p in self.teacher_processors.items()}}

    @property
    def teacher_overrides_in_batches(self) -> TeacherOverrides:
        """What a batch holds for the teachers alone: no tensors where their answers are cached."""
        teacher = self.config.teacher
        return dict.fromkeys(self.teacher_overrides) if teacher is not None and teacher.cache else self.teacher_overrides

    def reader(self, examples: MultimodalDataset) -> ExampleReader:
        """Reads examples as an evaluation does, without random transforms."""
        processors, skips = {m: p.deterministic() for m, p in self.processors.items()}, self.config.data.on_error == "skip"
        return ExampleReader(examples, processors, self.decoded, skips, self.teacher_overrides_in_batches)

    def in_order(self, reader: ExampleReader, shared: bool = True) -> EvaluationBatches:
        """Examples in their own order: shared out among the processes, or all of them on each."""
        place = (self.world.rank, self.world.size) if shared else (0, 1)
        collator, pin = (
            Collator(reader.processors, self.info, teacher_overrides=reader.teacher_overrides),
            self.world.device.type == "cuda",
        )
        return EvaluationBatches(reader, collator, self.config.evaluation.batch_size, *place, self.config.data.workers, pin)

    @property
    def training_reader(self) -> ExampleReader:
        """Reads the training split, with random transforms; for runs that train."""
        assert self.training is not None
        return self.training

    def all_training_examples(self) -> OnDevice:
        """The training split in its own order, whole on each process, to be gone through as often as a statistic needs."""
        return self.on_device(self.training_reader)

    def on_device(self, reader: ExampleReader) -> OnDevice:
        """Examples in their own order, whole on each process, to be gone through as often as a statistic needs."""
        return OnDevice(self, reader)

    def reader_of(self, use: str) -> ExampleReader:
        """Reads the split of a use."""
        return self.training_reader if use == "train" else self.evaluation[use].reader

    def leave_out(self, use: str, places: Iterable[int], why: str) -> None:
        """Leaves examples of a split out that a reader of other tensors could not read, where such examples are skipped.

        Args:
            use: what the run uses the split for.
            places: where they stand in the split.
            why: what is wrong with them, for the report.

        Raises:
            DataError: of the first one, where such examples are not skipped.
        """
        reader = self.reader_of(use)
        for place in places:
            # one that cannot be read for the student either is told with what is wrong with it
            loaded = reader(place)
            if loaded is None:
                continue
            text = f"{loaded.example.source}: {why}"
            if not reader.skip_errors:
                raise DataError(f"{text}. Mend it, or set data.on_error=skip, as when the teacher was asked.")
            reader.skipped[place] = text


@dataclass(frozen=True)
class OnDevice:
    """Batches on a device, to be gone through as often as needed.

    Args:
        data: the run's.
        reader: reads the examples.
    """

    data: Data
    reader: ExampleReader

    def __iter__(self) -> Iterator[Batch]:
        device = self.data.world.device
        return (batch.to(device) for batch in self.data.in_order(self.reader, shared=False))

    def of_teacher(self) -> Iterable[Batch]:
        """The same batches as the teachers see them, of whom some may not be asked as their answers are cached."""
        return TeacherSide(replace(self, reader=self.reader.with_teacher(self.data.teacher_overrides)))


@dataclass(frozen=True)
class TeacherSide:
    """Batches as the teachers see them.

    Args:
        batches: those of both sides.
    """

    batches: Iterable[Batch]

    def __iter__(self) -> Iterator[Batch]:
        return (batch.teacher_side for batch in self.batches)


def build_data(config: RunConfig, world: World, splits: Splits | None = None) -> Data:
    """Makes the processors of a run, which learn what they have to, and what reads its splits.

    Args:
        config: what the run is.
        world: this process among all.
        splits: those that are used, where they are open already.

    Raises:
        MSDError: if something cannot be read.
    """
    splits = open_splits(config, world) if splits is None else splits
    before = RunFacts(config)
    with random_numbers_apart():  # to learn, a processor may draw examples
        processors = build_processors(before, world, splits)
    facts = {**before.known, "modalities": {m: p.facts for m, p in processors.items()}}
    decoded = room_for_decoded(config)
    skips = config.data.on_error == "skip"
    teacher_overrides = build_teacher_overrides(before, processors)
    data = Data(before, world, splits, processors, facts, decoded, None, {}, teacher_overrides)
    if "train" in splits:
        training = ExampleReader(splits["train"], processors, decoded, skips, data.teacher_overrides_in_batches)
        data = replace(data, training=training)
    return replace(data, evaluation={use: data.in_order(data.reader(splits[use])) for use in splits if use != "train"})


# ---- splits ----


def open_splits(config: RunConfig, world: World, uses: Sequence[str] | None = None) -> dict[str, MultimodalDataset]:
    """Opens splits, which takes seconds where they are large; two uses of the same examples share them.

    Args:
        config: what the run is.
        world: this process among all.
        uses: which of `train`, `validation` and `test`; those that the run uses if None.

    Raises:
        DataError: if one cannot be read, or is empty.
        ConfigError: if processes read other files than the first one.
    """

    def opened() -> dict[str, MultimodalDataset]:
        by_name: dict[tuple[str, int | None], MultimodalDataset] = {}
        splits = {}
        for use in config.uses if uses is None else uses:
            key = (getattr(config.data, use), limit(config, use))
            splits[use] = by_name[key] = by_name[key] if key in by_name else open_split(config, use)
        return splits

    splits = world.together(opened)
    if world.size > 1 and uses is None:
        world.agree(world.together(lambda: contents(config, splits)), "All machines must read the same files.")
    return splits


def check_splits(config: RunConfig, splits: Splits) -> None:
    """Checks the labels of each split.

    Raises:
        ConfigError: if two of them have rows in common.
        DataError: if a label is wrong.
    """
    problems = shared_problems(config.data, splits, RunFacts(config).info)
    if problems:
        raise ConfigError(*problems)


def open_split(config: RunConfig, use: str, whole: bool = False) -> MultimodalDataset:
    """A split, as much of it as is wanted or all of it."""
    data = config.data
    read: dict[str, Any] = {
        "split": getattr(data, use),
        "on_error": data.on_error,
        "max_examples": None if whole else limit(config, use),
        "unlabelled": use == "train" and data.unlabelled,
    }
    opened = DATASETS.build(data.dataset, "data.dataset", RunFacts(config).known, **read)
    if len(opened) == 0:
        raise DataError(f"data.{use}: the split {read['split']!r} of {plain(data.dataset)['type']} is empty.")
    if use == "train" and data.labelled_share < 1:
        opened = HiddenLabels(opened, data.labelled_share, config.seed)
    return opened


def limit(config: RunConfig, use: str) -> int | None:
    """How many examples of a split are used at most."""
    return config.data.max_train_examples if use == "train" else config.data.max_eval_examples


def content(config: RunConfig, splits: Splits, use: str) -> str:
    """What stands for the whole of a split's content, however much of it the run uses."""
    return (splits[use] if limit(config, use) is None else open_split(config, use, whole=True)).fingerprint


def contents(config: RunConfig, splits: Splits) -> dict[str, str]:
    """What stands for the content of the files that all processes read, by the keys that name them."""
    found = {f"data.{use}": digest(split.fingerprint) for use, split in splits.items()}
    folders = {"teacher.checkpoint": config.teacher_folders if config.has_teacher else ()}
    if config.is_evaluated:
        folders["checkpoint.load" if config.checkpoint.load else "env.save_dir"] = (config.evaluated,)
    elif config.init is not None and not config.goes_on:
        folders["init"] = (str(config.init_folder),)
    for key, paths in folders.items():
        found[key] = digest([read_json(find_checkpoint(path) / "files.json") for path in paths])
    return {key: f"content {value[:12]}" for key, value in found.items()}


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


# ---- processors ----


def build_processors(before: RunFacts, world: World, splits: Splits) -> dict[str, Processor]:
    """How each modality becomes tensors, of the student and of teachers that see the same; what is not yet learned is learned from
    the training split.

    Args:
        before: what is known of the run.
        world: this process among all.
        splits: the training split among them, if something is to be learned.
    """
    config = before.config
    specs, learned = config.data.processors, learned_already(config)
    shared = [m for m, part in before.teacher_processors.items() if part == before.processors.get(m)]
    modalities = union([before.student.modalities, shared])
    built = {m: PROCESSORS.build(specs[m], f"data.processors.{m}", before.known) for m in modalities}
    if not config.is_evaluated:
        own = {m: Path(config.env.save_dir) / "processors" / m for m in built}
        if world.is_first:
            _learn(config, {m: p for m, p in built.items() if m not in learned}, splits)
            for modality, processor in built.items():
                if modality in learned:
                    processor.restore(learned[modality])
                own[modality].mkdir(parents=True, exist_ok=True)
                processor.save(own[modality])
        world.wait()
        learned = own
    for modality, processor in built.items():
        processor.restore(learned[modality])
    return built


def learned_already(config: RunConfig) -> dict[str, Path]:
    """Where what a modality's processor learned is, if it is: with what is evaluated or resumed, else where the user says."""
    sources = list(reversed(config.teacher_folders)) if config.has_teacher else []
    start = config.init_folder if config.init is not None and not config.is_evaluated and not config.goes_on else None
    learned = learned_processors(start, config) if start else {}
    if config.data.processors_from and not config.is_evaluated:
        sources.append(config.data.processors_from)
    for source in sources:
        learned |= _of_same_tensors(source, config)
    if config.is_evaluated or config.goes_on:
        learned |= learned_processors(config.evaluated if config.is_evaluated else config.env.save_dir, config)
    return learned


def _of_same_tensors(source: str, config: RunConfig) -> dict[str, Path]:
    """Where a run keeps what its processors learned, of those that make the same tensors; a student of others learns its own."""
    mine, saved = config.data.processors, card_of(source, config)["processors"]
    kept = learned_processors(source, config)
    return {m: path for m, path in kept.items() if m in mine and not other_tensors(mine[m], saved[m]["spec"])}


def build_teacher_overrides(before: RunFacts, processors: Mapping[str, Processor]) -> dict[str, Processor]:
    """How modalities become other tensors for the teachers than for the student, as their evaluation makes them.

    Args:
        before: what is known of the run.
        processors: the student's, which a teacher shares where they make what it was trained on.

    Raises:
        CheckpointError: if a teacher was trained on other tensors than are made for it.
    """
    config, seen = before.config, dict[str, Processor]()
    for folder in config.teacher_folders if config.has_teacher else ():
        card = card_of(folder, config)
        for m in card["modalities"]:
            wanted = card["processors"][m]["fingerprint"]
            if m not in seen:
                part, mine = before.teacher_processors[m], processors.get(m)
                if mine is not None and part == before.processors[m] and fingerprint(mine) == wanted:
                    seen[m] = mine
                    continue
                own = PROCESSORS.build(part.spec, part.path, before.known)
                own.restore(learned_processors(folder, config)[m])
                # the same tensors of the same files are made once, however that is written; what was named for the teacher does not
                # follow the student's random transforms
                same = mine is not None and not mine.random and (fingerprint(own), own.files) == (fingerprint(mine), mine.files)
                seen[m] = mine if mine is not None and same else own.deterministic()
            if fingerprint(seen[m]) != wanted:
                raise CheckpointError(_other_teacher(folder, m, config))
    return {m: processor for m, processor in seen.items() if processor is not processors.get(m)}


def _other_teacher(folder: str, modality: str, config: RunConfig) -> str:
    """What is wrong with a teacher that was trained on other tensors than are made for it."""
    text = f"teacher.checkpoint: {folder} was trained on other {modality} tensors than "
    if folder == config.teacher_folders[0]:
        return f"{text}its own processor makes: teacher.processors.{modality}, or files that it reads, are others."
    return (
        f"{text}the teachers before it, and several teachers must see the same. Train them with data.processors_from of the first."
    )


def _learn(config: RunConfig, processors: Mapping[str, Processor], splits: Splits) -> None:
    for modality, processor in processors.items():
        is_sorted_out = config.data.on_error == "skip" and processor.fits_on_loaded
        inputs = RawInputs(splits["train"], modality, processor if is_sorted_out else None)
        if next(iter(inputs), None) is None:
            text = f"no example of {config.data.train!r} has {modality!r}, which is to be learned from."
            raise DataError(f"data.train: {text}")
        processor.fit(inputs)


@dataclass(frozen=True)
class RawInputs:
    """One modality's raw inputs of the examples of a split that have it, read whenever they are gone through.

    Args:
        examples: the split.
        modality: which of its inputs.
        reader: leaves out those that it cannot load; all are taken if None.
    """

    examples: MultimodalDataset
    modality: str
    reader: Processor | None = None

    def __iter__(self) -> Iterator[Any]:
        for i in range(len(self.examples)):
            value = self.examples[i].inputs[self.modality]
            if value is not None and self._can_be_read(value):
                yield value

    def _can_be_read(self, value: Any) -> bool:
        if self.reader is None:
            return True
        try:
            self.reader.load(value)
        except DataError:
            return False
        return True


def room_for_decoded(config: RunConfig) -> DecodedInputs:
    """What is kept of inputs that were decoded once; each process that reads ahead has a share of the room for its own."""
    data = config.data
    splits = [split for split in (data.train, data.validation, data.test) if split]
    return DecodedInputs(data.cache_mb / max(1, data.workers * len(splits)))
