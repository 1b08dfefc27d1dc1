"""Examples of a split, read and turned into tensors; inputs that were decoded once are kept in memory."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from msd_framework.components.registry import raised_at
from msd_framework.data.base import Example, MultimodalDataset, Processor, input_name
from msd_framework.data.files import FilesThatAreThere
from msd_framework.errors import DataError, MSDError, did_you_mean, is_memory
from msd_framework.structures import ModalityKind, TeacherKey


class Loaded(NamedTuple):
    """An example and the tensors of each of its modalities."""

    example: Example
    inputs: dict[str, Any]  # what the student sees, by modality
    teacher_values: dict[TeacherKey, Any]  # what teachers see otherwise


@dataclass(frozen=True)
class NotMade:
    """A processor of a cached teacher, whose inputs are not made: it only says which examples have the modality."""

    processor: Processor

    @property
    def kind(self) -> ModalityKind:
        return self.processor.kind

    def is_present(self, value: Any) -> bool:
        """Whether the teacher sees anything of an input; what is in files that are gone since was there."""
        try:
            return value is not None and self.processor.is_present(value)
        except DataError:
            return True


TeacherOverrides: TypeAlias = Mapping[TeacherKey, Processor | NotMade]  # other tensors than the student's

Kept: TypeAlias = dict[tuple[Any, ...], Any]  # loaded inputs by modality and name
KEY_BYTES, TENSOR_BYTES = 160, 1400  # what either takes beside its content, measured


class DecodedInputs:
    """Inputs that were decoded once, kept until memory is full; then it stays as it is, for every epoch asks for all.

    They are known by their raw value, so an image that several examples or splits show is decoded and kept once.
    """

    def __init__(self, megabytes: float = 0):
        self.room = int(megabytes * 2**20)  # bytes that are left
        self.kept: Kept = {}

    def load(self, modality: str, processor: Processor, value: Any, batch: Kept) -> Any:
        """What a processor makes of an input, with what the batch holds so far; one with random transforms is asked
        each time.
        """
        name = None if processor.random else input_name(value)
        if name is None:
            return processor.load(value)
        key = (modality, *name)
        if key in self.kept:
            return self.kept[key]
        if key not in batch:
            batch[key] = processor.load(value)
            self._keep(key, batch[key])
        return batch[key]

    def _keep(self, key: tuple[Any, ...], loaded: Any) -> None:
        size = KEY_BYTES + sys.getsizeof(key[-1]) + num_bytes(loaded)
        if size <= self.room:
            self.room -= size
            self.kept[key] = loaded


class ExampleReader:
    """Reads the examples of a split and turns them into tensors.

    Where no file or column says which modality an input is of, `names_modality` has errors say it; then whatever a
    processor raises is a DataError, since a program can hold anything.
    """

    def __init__(
        self,
        dataset: MultimodalDataset,
        processors: Mapping[str, Processor],
        decoded: DecodedInputs | None = None,
        skip_errors: bool = False,
        teacher_overrides: TeacherOverrides | None = None,
        names_modality: bool = False,
    ):
        self.dataset, self.processors, self.skip_errors = dataset, processors, skip_errors
        self.names_modality = names_modality
        self.teacher_overrides = {} if teacher_overrides is None else teacher_overrides
        self.modalities = tuple(dict.fromkeys([*processors, *(m for m, _ in self.teacher_overrides)]))
        self.decoded = DecodedInputs() if decoded is None else decoded
        self.skipped: dict[int, str] = {}  # what was wrong with each example that was left out
        self.lacking: dict[str, set[int]] = {}  # by modality, the examples that were read and lack it

    @property
    def _read_by(self) -> list[tuple[str, Processor]]:
        """Each modality with who reads it; one that each side reads its own way is there several times."""
        return [*self.processors.items(), *((m, own) for (m, _), own in made(self.teacher_overrides).items())]

    def with_teacher(self, teacher_overrides: TeacherOverrides) -> ExampleReader:
        """A reader of the same examples for another teacher side, which knows and tells what this one does of broken rows."""
        if teacher_overrides == self.teacher_overrides:
            return self
        reader = ExampleReader(self.dataset, self.processors, self.decoded, self.skip_errors, teacher_overrides)
        reader.skipped, reader.lacking = self.skipped, self.lacking
        return reader

    def __call__(self, index: int, batch: Kept | None = None) -> Loaded | None:
        """An example and its loaded inputs, or None if it cannot be read and errors are skipped; see
        `DecodedInputs.load`.
        """
        if index in self.skipped:
            return None
        example, beside = read_example(self.dataset, index, self.modalities), {} if batch is None else batch
        loaded, modality = Loaded(example, {}, {}), ""
        try:
            self._check(example)
            for modality, processor in self.processors.items():
                value = example.inputs[modality]
                loaded.inputs[modality] = None if value is None else self._load(modality, processor, value, beside)
            for (modality, teachers), own in made(self.teacher_overrides).items():
                value = example.inputs[modality]
                if value is not None:
                    # under a name of its own, for it is not what the student's processor makes of the same input
                    name = f"{modality} of the teachers {teachers}"
                    loaded.teacher_values[modality, teachers] = self._load(name, own, value, beside)
            return loaded
        except DataError as error:
            key = f"{modality}: " if self.names_modality and modality else ""
            text = f"{example.source}: {key}{error}"
            if not self.skip_errors:
                raise DataError(text) from error
            self.skipped[index] = text
            return None

    def _load(self, modality: str, processor: Processor, value: Any, batch: Kept) -> Any:
        try:
            return self.decoded.load(modality, processor, value, batch)
        except MSDError:
            raise
        except Exception as error:
            if not self.names_modality or is_memory(error):
                raise
            reason = " ".join(str(error).split())
            raise DataError(f"a {type(value).__name__} cannot be read ({type(error).__name__}: {reason})") from error

    def _is_there(self, processor: Processor, value: Any, files: FilesThatAreThere) -> bool:
        try:
            return processor.is_there(value, files)
        except Exception:
            if not self.names_modality:
                raise
            return False  # to load it says what is wrong

    def _check(self, example: Example) -> None:
        """Refuses an example with nothing in it to look at."""
        if self.modalities and all(example.inputs[m] is None for m in self.modalities):
            read = " and ".join(self.modalities)
            raise DataError(f"the example {example.id!r} has no {read}, and nothing else is read of it")

    def check_files(self) -> None:
        """Looks for what examples are read from, without reading any; what is missing is a DataError unless it is
        skipped.
        """
        files, asked = FilesThatAreThere(), set[int]()
        read_by = [(m, p) for m, p in self._read_by if p.kind != "tokens"]
        for index in range(len(self.dataset) if read_by and not self.skip_errors else 0):
            inputs = read_example(self.dataset, index, [m for m, _ in read_by]).inputs
            if not isinstance(inputs, dict):
                return  # arrays, which are read only when they are asked for
            for modality, processor in read_by:
                value = inputs[modality]
                known = hash((modality, id(processor), input_name(value))) if value is not None and input_name(value) else None
                if value is None or known in asked:
                    continue
                if known is not None:
                    asked.add(known)
                if not self._is_there(processor, value, files):
                    self(index)  # which says it in the words of whoever reads it

    def length(self, index: int) -> int:
        """How many positions an example has over all modalities of all sides; 0 if it is skipped as it cannot be read."""
        example = read_example(self.dataset, index, self.modalities)
        try:
            self._check(example)
            return sum(p.length(example.inputs[m]) for m, p in self._read_by if example.inputs[m] is not None)
        except DataError as error:
            if not self.skip_errors:
                raise DataError(f"{example.source}: {error}") from error
            return 0


def made(teacher_overrides: TeacherOverrides) -> dict[TeacherKey, Processor]:
    """Those processors whose tensors are made."""
    return {key: p for key, p in teacher_overrides.items() if isinstance(p, Processor)}


def read_example(dataset: MultimodalDataset, index: int, modalities: Collection[str]) -> Example:
    """An example of a data set, whose class may be a user's own and do anything; its inputs must name these modalities."""
    which = f"{type(dataset).__name__}[{index}]"
    try:
        example = dataset[index]
    except MSDError:
        raise
    except Exception as error:
        raise DataError(f"{which} cannot be read: {raised_at(error)}") from error
    if not isinstance(example, Example):
        raise DataError(f"{which} is a {type(example).__name__}, wanted an Example, of msd_framework.data.base")
    for modality in modalities:
        if modality not in example.inputs:
            named = ", ".join(map(repr, example.inputs)) or "nothing"
            hint = did_you_mean(modality, example.inputs)
            text = f"the inputs of example {example.id!r} name {named}, and not {modality!r}; what it lacks is None there"
            raise DataError(f"{example.source}: {text}.{hint}")
    return example


def num_bytes(loaded: Any) -> int:
    """About how much memory a loaded input takes, never less."""
    if isinstance(loaded, Tensor):
        return TENSOR_BYTES + loaded.untyped_storage().nbytes()  # a slice keeps all that it was cut from
    if isinstance(loaded, Mapping):
        return sys.getsizeof(loaded) + sum(num_bytes(x) for pair in loaded.items() for x in pair)
    if isinstance(loaded, (list, tuple)):
        return sys.getsizeof(loaded) + sum(map(num_bytes, loaded))
    return max(sys.getsizeof(loaded), int(getattr(loaded, "nbytes", 0)))
