"""How each modality of a run becomes tensors: what a processor learns is taken from a run before it, or learned here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msd_framework.build.facts import RunFacts
from msd_framework.build.splits import Splits
from msd_framework.config.cards import fingerprint, learned_processors, other_tensors
from msd_framework.config.schema import RunConfig
from msd_framework.data.base import MultimodalDataset, Processor
from msd_framework.engine.distributed import World
from msd_framework.errors import CheckpointError, DataError
from msd_framework.registry import PROCESSORS
from msd_framework.structures import TeacherKey
from msd_framework.teachers.ensemble import union


def build_processors(facts: RunFacts, world: World, splits: Splits) -> dict[str, Processor]:
    """The processors of the student, and of teachers that take the same tensors."""
    config = facts.config
    specs, learned = facts.processors, _learned_already(facts)
    shared = [[m for m, spec in own.items() if spec == specs.get(m)] for own in facts.teacher_processors]
    modalities = union([facts.student.modalities, *shared])
    built = {m: PROCESSORS.build(specs[m].value, specs[m].path, facts.known) for m in modalities}
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
        # every process reads what the first one wrote
        learned = own
    for modality, processor in built.items():
        processor.restore(learned[modality])
    return built


def _learned_already(facts: RunFacts) -> dict[str, Path]:
    """The folders of what processors learned before, by modality.

    First in line is the run that is evaluated or gone on with, then the one that the user names, the first teacher, the others,
    and the run whose weights are started from.
    """
    config = facts.config
    learned = learned_processors(config.starts_from, config) if config.starts_from else {}
    sources = list(reversed(config.teacher_folders)) if config.has_teacher else []
    if config.data.processors_from and not config.is_evaluated:
        sources.append(config.data.processors_from)
    for source in sources:
        # a student of other tensors than its teacher's learns its own vocabulary
        saved = facts.card(source)["processors"]
        for m, folder in learned_processors(source, config).items():
            if m in facts.processors and not other_tensors(facts.processors[m].value, saved[m]["spec"]):
                learned[m] = folder
    if config.is_evaluated or config.goes_on:
        learned |= learned_processors(config.evaluated if config.is_evaluated else config.env.save_dir, config)
    return learned


def build_teacher_overrides(facts: RunFacts, processors: Mapping[str, Processor]) -> dict[TeacherKey, Processor]:
    """How modalities become other tensors for teachers than for the student; random transforms are left out.

    A teacher that does not take a modality goes with the first that does.
    """
    config = facts.config
    folders = config.teacher_folders if config.has_teacher else []
    of_modality: dict[str, dict[int, Processor]] = {}
    for number, folder in enumerate(folders):
        card = facts.card(folder)
        for m in card["modalities"]:
            others, wanted = of_modality.setdefault(m, {}), card["processors"][m]["fingerprint"]
            others[number] = _teacher_processor(facts, number, m, wanted, processors.get(m), [*others.values()])
            if fingerprint(others[number]) != wanted:
                text = f"{folder} was trained on other {m} tensors than its own processor makes"
                raise CheckpointError(f"teacher.checkpoint: {text}: teacher.processors.{m}, or files that it reads, are others.")
    overrides = {}
    for m, by_teacher in of_modality.items():
        first, *_ = by_teacher.values()
        each = [by_teacher.get(number, first) for number in range(len(folders))]
        for processor in each:
            if processor is not processors.get(m):
                overrides[m, tuple(number for number, own in enumerate(each) if own is processor)] = processor
    return overrides


def _teacher_processor(
    facts: RunFacts, number: int, modality: str, wanted: str, student: Processor | None, others: Sequence[Processor]
) -> Processor:
    """A teacher's processor of a modality: another side's where both make the same tensors, so that they are made once."""
    spec = facts.teacher_processors[number][modality]
    if student is not None and spec == facts.processors[modality] and fingerprint(student) == wanted:
        return student
    own: Processor = PROCESSORS.build(spec.value, spec.path, facts.known)
    own.restore(learned_processors(facts.config.teacher_folders[number], facts.config)[modality])
    for other in [student, *others]:
        # one that is named for the teacher does not follow the student's random transforms
        if other is not None and not other.random and (fingerprint(own), own.files) == (fingerprint(other), other.files):
            return other
    return own.deterministic()


def _learn(config: RunConfig, processors: Mapping[str, Processor], splits: Splits) -> None:
    for modality, processor in processors.items():
        skips = config.data.on_error == "skip" and processor.fits_on_loaded
        inputs = RawInputs(splits["train"], modality, processor if skips else None)
        if next(iter(inputs), None) is None:
            raise DataError(f"data.train: no example of {config.data.train!r} has {modality!r}, which is to be learned from.")
        processor.fit(inputs)


@dataclass(frozen=True)
class RawInputs:
    """One modality's raw inputs of the examples of a split that have it, read anew each time."""

    examples: MultimodalDataset
    modality: str
    reader: Processor | None = None  # leaves out those that it cannot load; all are taken if None

    def __iter__(self) -> Iterator[Any]:
        for i in range(len(self.examples)):
            value = self.examples[i].inputs[self.modality]
            try:
                if value is not None and self.reader is not None:
                    self.reader.load(value)
            except DataError:
                continue
            if value is not None:
                yield value
