"""What a data set and a processor promise: raw examples, and batches of tensors made of them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from msd_framework.components.registry import Registry
from msd_framework.data.files import FilesThatAreThere
from msd_framework.errors import DataError
from msd_framework.structures import DatasetInfo, ModalityInputs, ModalityKind


@dataclass(frozen=True)
class Example:
    """One raw example."""

    id: str  # unique within the data set and stable over runs
    inputs: Mapping[str, Any]  # what stands for each modality: a text, the path of a file; None where the example lacks it
    target: int | Sequence[float] | None  # a class, a list of C labels or scores, or None where a blind test has none
    source: str  # the file and line that it comes from, for errors
    facts: Mapping[str, str] = field(default_factory=dict)  # other columns that are kept with the predictions


@dataclass(frozen=True)
class SubmissionFile:
    """A file with an entry for each example of a split, written as they come."""

    name: str
    begin: str = ""  # what stands before the entries
    between: str = ""
    end: str = ""


class RowKeys(NamedTuple):
    """What tells whether two splits share rows: Python's hashes, which are those of this process."""

    ids: NDArray[np.int64]  # of the id of each example, [N]; of none where ids are the places of rows
    contents: NDArray[np.int64]  # of the inputs of each example, [N]


class MultimodalDataset(ABC):
    """Raw examples of one split, in their publisher's layout. Reading the index may cost time, an example must not.

    The constructor takes ``split`` from the run, and its other options from the YAML. If it takes ``unlabelled``, the run tells it
    whether the examples of a training split may lack their label, so that those without one are read with no target.
    """

    splits: ClassVar[tuple[str, ...]]  # as the publisher calls them
    published: ClassVar[Mapping[str, int]] = {}  # how many examples the publisher says that each split has
    overlapping: ClassVar[tuple[Set[str], ...]] = ()  # splits that the publisher himself has given rows in common
    # methods that earlier versions asked for, and those that took their place
    renamed: ClassVar[Mapping[str, str]] = {"write_submission": "submission and submission_entries"}
    may_share_rows: bool = False  # whether the user has said that its splits may have rows in common

    @classmethod
    @abstractmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        """What is known of the data set with these options of a YAML, without reading it."""

    @classmethod
    @abstractmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        """What is missing on disk for a split, as sentences that say where to get it."""

    @classmethod
    def check_together(cls, options: Mapping[str, Any], splits: Mapping[str, str]) -> dict[str, str]:
        """Why splits, by their use (train, validation, test), must not be in one run, as a sentence for each use that is wrong."""
        return {}

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Example: ...

    @property
    def row_keys(self) -> RowKeys | None:
        """What each example is known by, from a data set that has read all of them; None where they have to be asked for."""
        return None

    @property
    def submission(self) -> SubmissionFile | None:
        """The file of predictions that the publisher's evaluation server takes; None where there is no server."""
        return None

    def submission_entries(self, places: Sequence[int], logits: Tensor) -> list[str]:
        """What that file says of each of B examples, with their logits [B, C]."""
        return []

    @property
    def fingerprint(self) -> str:
        """A text that is the same for two data sets of the same examples in the same order; of a file, its name counts."""
        digest = hashlib.sha256()
        for example in map(self.__getitem__, range(len(self))):
            inputs = {m: value.name if isinstance(value, PurePath) else value for m, value in sorted(example.inputs.items())}
            digest.update(repr((example.id, inputs)).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


DATASETS: Registry[MultimodalDataset] = Registry("dataset", "datasets", MultimodalDataset)


def check_opening(dataset: type[MultimodalDataset], options: Mapping[str, Any], split: str, limit: int | None) -> None:
    """What a data set's constructor looks at first: whether its limit is one, and whether its files are there."""
    if limit is not None and limit < 1:
        raise ValueError(f"max_examples is {limit}, wanted at least 1, or null for all")
    if problems := dataset.check(options, split):
        raise DataError(" ".join(problems))


class Processor(ABC):
    """Turns what stands for one modality of an example into tensors, and B of them into a batch's."""

    kind: ClassVar[ModalityKind]  # what the values of its batches are
    # options that a teacher's processor and its student's may differ in: both still make the same tensors of an example
    free_options: ClassVar[frozenset[str]] = frozenset()
    # whether `fit` loads inputs, so that those which cannot be read are left out of it where a run leaves them out
    fits_on_loaded: ClassVar[bool] = False
    random: bool = False  # whether the same input can become different tensors, so that they cannot be kept or cached

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> list[str]:
        """What is missing on disk for these options of a YAML, as sentences."""
        return []

    @abstractmethod
    def load(self, value: Any) -> Any:
        """One example's input, read and turned into tensors, in a worker process; a `DataError` if it cannot be read."""

    def is_there(self, value: Any, files: FilesThatAreThere) -> bool:
        """Whether what an input is read from is there, and of the right size, as far as can be known without reading it."""
        return self.kind == "tokens" or not isinstance(value, (str, PurePath)) or value in files

    @abstractmethod
    def collate(self, loaded: Sequence[Any]) -> ModalityInputs:
        """B loaded inputs as one modality of a batch."""

    def blank(self) -> Any:
        """What stands in for a modality that an example lacks, as `load` makes it: a position at least, be it a special one."""
        raise DataError(f"an example lacks what {type(self).__name__} makes tensors of, which has no `blank` to stand in for it")

    def length(self, value: Any) -> int:
        """How many positions an input has in a batch of its own; a processor that need not load it for that overrides this."""
        return self.collate([self.load(value)]).mask.shape[1]

    def is_present(self, value: Any) -> bool:
        """Whether a model sees anything of an input, see `ModalityInputs.present`; an image without a region shows nothing."""
        return self.kind in ("pixels", "waveform") or bool(self.collate([self.load(value)]).present[0])

    def deterministic(self) -> Processor:
        """This processor with nothing random, for evaluation and for a teacher's cache."""
        return self

    @property
    def facts(self) -> dict[str, Any]:
        """What a model may want to know when it is built, by the name of its argument, such as ``vocab_size``."""
        return {}

    def fit(self, values: Iterable[Any]) -> None:  # noqa: B027
        """Learns from the training inputs, where a processor must, such as a tokenizer trained on the spot."""

    def save(self, folder: Path) -> None:  # noqa: B027
        """Writes what a later run needs to make the same tensors."""

    def restore(self, folder: Path) -> None:  # noqa: B027
        """Reads what `save` wrote, in place of `fit`."""

    @property
    def files(self) -> str:
        """Where files lie that it reads beside those of the data set, such as a detector's features; empty if there are none."""
        return ""

    @property
    def fingerprint(self) -> str:
        """A text that is the same for two processors that make the same tensors, wherever their files lie."""
        return type(self).__name__


PROCESSORS: Registry[Processor] = Registry("processor", "processors", Processor)


def as_array(value: Any) -> NDArray[Any]:
    """What a program holds as an array in the machine's byte order: a tensor of any device and precision, an array, a list."""
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            # numpy has no bfloat16
            value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        array = np.asarray(value)
    except Exception as error:  # objects of others can raise anything when they are made arrays
        raise DataError(f"no array can be made of a {type(value).__name__} ({error})") from error
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def padded(loaded: Sequence[Tensor], value: float = 0.0, at_least_one: bool = False) -> tuple[Tensor, Tensor]:
    """Rows [N, ...] of several lengths as one tensor [B, L, ...], padded behind their ends, and which are there [B, L]."""
    values = pad_sequence(list(loaded), batch_first=True, padding_value=value)
    if at_least_one and not values.shape[1]:
        values = values.new_zeros(len(values), 1, *values.shape[2:])
    return values, torch.arange(values.shape[1]) < torch.tensor(list(map(len, loaded)))[:, None]


def input_name(value: Any) -> tuple[type, str] | None:
    """What a raw input is known by: inputs of one name are the same; None where only its own object is known to be the same."""
    return (type(value), str(value)) if value is None or isinstance(value, (str, int, PurePath)) else None
