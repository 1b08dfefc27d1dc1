"""How each modality of a run becomes tensors: what a processor learns is taken from a run before it, or learned here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from msd_framework.teachers.ensemble import union


def build_processors(facts: RunFacts, world: World, splits: Splits) -> dict[str, Processor]:
    """The processors of the student, and of teachers that take the same tensors.

    Args:
        facts: what is known of the run.
        world: this process among all.
        splits: the training split among them, if a processor has something to learn.
    """
    config = facts.config
    specs, learned = facts.processors, _learned_already(facts)
    shared = [m for m, spec in facts.teacher_processors.items() if spec == specs.get(m)]
    modalities = union([facts.student.modalities, shared])
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


def build_teacher_overrides(facts: RunFacts, processors: Mapping[str, Processor]) -> dict[str, Processor]:
    """How modalities become other tensors for the teachers than for the student; random transforms are left out.

    Args:
        facts: what is known of the run.
        processors: the student's, which a teacher shares where they make what it was trained on.

    Raises:
        CheckpointError: if a teacher was trained on other tensors than are made for it.
    """
    config = facts.config
    of_teacher: dict[str, Processor] = {}
    for folder in config.teacher_folders if config.has_teacher else ():
        card = facts.card(folder)
        for m in card["modalities"]:
            wanted = card["processors"][m]["fingerprint"]
            if m not in of_teacher:
                of_teacher[m] = _teacher_processor(facts, folder, m, wanted, processors.get(m))
            if fingerprint(of_teacher[m]) != wanted:
                raise CheckpointError(_other_tensors_text(folder, m, config))
    return {m: processor for m, processor in of_teacher.items() if processor is not processors.get(m)}


def _teacher_processor(facts: RunFacts, folder: str, modality: str, wanted: str, student: Processor | None) -> Processor:
    """A teacher's processor of a modality: the student's where both make the same tensors, so that they are made once."""
    spec = facts.teacher_processors[modality]
    if student is not None and spec == facts.processors[modality] and fingerprint(student) == wanted:
        return student
    own: Processor = PROCESSORS.build(spec.value, spec.path, facts.known)
    own.restore(learned_processors(folder, facts.config)[modality])
    # one that is named for the teacher does not follow the student's random transforms
    if student is not None and not student.random and (fingerprint(own), own.files) == (fingerprint(student), student.files):
        return student
    return own.deterministic()


def _other_tensors_text(folder: str, modality: str, config: RunConfig) -> str:
    text = f"teacher.checkpoint: {folder} was trained on other {modality} tensors than "
    if folder == config.teacher_folders[0]:
        return f"{text}its own processor makes: teacher.processors.{modality}, or files that it reads, are others."
    hint = "several teachers must see the same. Train them with data.processors_from of the first."
    return f"{text}the teachers before it, and {hint}"


def _learn(config: RunConfig, processors: Mapping[str, Processor], splits: Splits) -> None:
    for modality, processor in processors.items():
        skips = config.data.on_error == "skip" and processor.fits_on_loaded
        inputs = RawInputs(splits["train"], modality, processor if skips else None)
        if next(iter(inputs), None) is None:
            raise DataError(f"data.train: no example of {config.data.train!r} has {modality!r}, which is to be learned from.")
        processor.fit(inputs)


@dataclass(frozen=True)
class RawInputs:
    """One modality's raw inputs of the examples of a split that have it, read anew each time.

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
        if self.reader is not None:
            try:
                self.reader.load(value)
            except DataError:
                return False
        return True
