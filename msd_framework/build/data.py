"""What a run reads: its splits, how each modality becomes tensors, and a split's batches in its own order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msd_framework.build.facts import RunFacts
from msd_framework.components.registry import plain
from msd_framework.config.cards import learned_processors
from msd_framework.config.schema import RunConfig
from msd_framework.config.splits import shared_problems
from msd_framework.data.base import MultimodalDataset, Processor
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.labels import HiddenLabels
from msd_framework.data.batches.loader import EvaluationBatches
from msd_framework.data.batches.reader import DecodedInputs, ExampleReader
from msd_framework.engine.checkpoint import find_checkpoint, read_json
from msd_framework.engine.distributed import World
from msd_framework.errors import ConfigError, DataError
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
        processors: how each modality becomes tensors.
        facts: what components may ask for by name, the processors' part of it by modality.
        decoded: keeps inputs that were decoded once.
        training: reads the training split; None where that is not open.
        evaluation: the batches of the other splits, by use.
    """

    before: RunFacts
    world: World
    splits: Splits
    processors: Mapping[str, Processor]
    facts: Mapping[str, Any]
    decoded: DecodedInputs
    training: ExampleReader | None
    evaluation: Mapping[str, EvaluationBatches]

    @property
    def config(self) -> RunConfig:
        return self.before.config

    @property
    def info(self) -> DatasetInfo:
        return self.before.info

    def reader(self, examples: MultimodalDataset) -> ExampleReader:
        """Reads examples as an evaluation does, without random transforms."""
        processors = {m: p.deterministic() for m, p in self.processors.items()}
        return ExampleReader(examples, processors, self.decoded, self.config.data.on_error == "skip")

    def in_order(self, reader: ExampleReader, shared: bool = True) -> EvaluationBatches:
        """Examples in their own order: shared out among the processes, or all of them on each."""
        place = (self.world.rank, self.world.size) if shared else (0, 1)
        collator, pin = Collator(reader.processors, self.info), self.world.device.type == "cuda"
        return EvaluationBatches(reader, collator, self.config.evaluation.batch_size, *place, self.config.data.workers, pin)

    @property
    def training_reader(self) -> ExampleReader:
        """Reads the training split, with random transforms; for runs that train."""
        assert self.training is not None
        return self.training

    def all_training_examples(self) -> OnDevice:
        """The training split in its own order, whole on each process, to be gone through as often as a statistic needs."""
        return OnDevice(self.in_order(self.training_reader, shared=False), self.world.device)


@dataclass(frozen=True)
class OnDevice:
    """Batches on a device, to be gone through as often as needed."""

    batches: EvaluationBatches
    device: torch.device

    def __iter__(self) -> Iterator[Batch]:
        return (batch.to(self.device) for batch in self.batches)


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
    training = ExampleReader(splits["train"], processors, decoded, skips) if "train" in splits else None
    data = Data(before, world, splits, processors, facts, decoded, training, {})
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
    """How each modality of the student or its teachers becomes tensors. What is not yet learned is learned from the training split.

    Args:
        before: what is known of the run.
        world: this process among all.
        splits: the training split among them, if something is to be learned.
    """
    config = before.config
    specs, learned = config.data.processors, learned_already(config)
    modalities = union([one.modalities for one in (before.student, *before.teachers)])
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
    if config.is_evaluated:
        sources.append(config.evaluated)
    else:
        start = config.init_folder if config.init is not None and not config.goes_on else None
        sources = [start, *sources] if start else sources
        sources += [config.data.processors_from] if config.data.processors_from else []
        sources += [config.env.save_dir] if config.goes_on else []
    return {m: path for source in sources for m, path in learned_processors(source, config).items()}


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
