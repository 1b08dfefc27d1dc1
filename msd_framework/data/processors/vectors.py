"""Inputs that a data set holds as numbers ready to use: ids of words, and vectors of features."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from msd_framework.data.base import PROCESSORS, Processor, as_array, padded
from msd_framework.errors import CheckpointError, DataError
from msd_framework.files import write_text
from msd_framework.ranges import MOST_WORDS, positive
from msd_framework.structures import ModalityInputs

PAD, UNKNOWN, FIRST = 0, 1, 2  # the ids of padding, of words that training has not seen, and of the first word


class FeatureProcessor(Processor):
    """A processor whose values are vectors of D features; `fit` sets D unless it was given."""

    kind = "features"
    fits_on_loaded = True
    feature_size: int | None
    size_file: ClassVar[str]  # of a checkpoint, which D is written to

    def known_size(self) -> int:
        """D, where an example has no features."""
        if self.feature_size is None:
            raise DataError("an example has no features, and none that was read before says how long they are; give feature_size")
        return self.feature_size

    @property
    def facts(self) -> dict[str, Any]:
        return {} if self.feature_size is None else {"feature_size": self.feature_size}

    def save(self, folder: Path) -> None:
        write_text(folder / self.size_file, json.dumps({"feature_size": self.feature_size}))

    def restore(self, folder: Path) -> None:
        self.feature_size = self.feature_size or read_number(folder / self.size_file, "feature_size")


@PROCESSORS.register("token_ids")
class TokenIds(Processor):
    """A text that is given as the ids of its words, from 0 on; padding and unknown words come before them.

    Args:
        max_length: how many words to keep of a text.
        num_words: how many ids there are; one more than the largest of the training texts if left out. Larger ids are unknown.
    """

    kind = "tokens"

    def __init__(self, max_length: int = 128, num_words: int | None = None):
        positive(max_length=max_length, num_words=num_words)
        self.max_length, self.num_words = max_length, num_words

    def fit(self, values: Iterable[Any]) -> None:
        if self.num_words is None:
            largest = max((int(_ids(value).max()) for value in values), default=0)
            if largest >= MOST_WORDS:
                hint = "give num_words if it is right"
                raise DataError(f"a text has the id {largest:,}, wanted ids of words below {MOST_WORDS:,}; {hint}")
            self.num_words = largest + 1

    def load(self, value: Any) -> Tensor:
        """A text's ids, int64 [L]."""
        if self.num_words is None:
            raise RuntimeError("it is not known how many words there are: call fit with the training texts, or restore")
        ids = torch.from_numpy(_ids(value)[: self.max_length])
        return torch.where(ids < self.num_words, ids + FIRST, UNKNOWN)  # [L]

    def length(self, value: Any) -> int:
        return min(len(value), self.max_length)

    def blank(self) -> Tensor:
        return torch.tensor([PAD])

    def collate(self, loaded: Sequence[Tensor]) -> ModalityInputs:
        """Ids int64 [B, L], padded with 0 to the longest of the batch."""
        return ModalityInputs(*padded(loaded, PAD))

    @property
    def facts(self) -> dict[str, Any]:
        return {"pad_id": PAD} | ({} if self.num_words is None else {"vocab_size": self.num_words + FIRST})

    @property
    def fingerprint(self) -> str:
        return f"token_ids {self.max_length} {self.num_words}"

    def save(self, folder: Path) -> None:
        write_text(folder / "token_ids.json", json.dumps({"num_words": self.num_words}))

    def restore(self, folder: Path) -> None:
        self.num_words = self.num_words or read_number(folder / "token_ids.json", "num_words")


@PROCESSORS.register("vectors")
class Vectors(FeatureProcessor):
    """An input that is given as one vector [D] of features, or as several [N, D].

    Args:
        feature_size: D, checked in every input; taken from the first training input if left out.
    """

    size_file = "vectors.json"

    def __init__(self, feature_size: int | None = None):
        positive(feature_size=feature_size)
        self.feature_size = feature_size

    def fit(self, values: Iterable[Any]) -> None:
        if self.feature_size is None:
            self.feature_size = next((self.load(value).shape[1] for value in values if np.size(value)), None)

    def load(self, value: Any) -> Tensor:
        """Features float32 [N, D]; N may be 0, of an example in which nothing was found."""
        array = as_array(value)
        if not array.size and array.ndim in (1, 2) and array.shape[-1] in (0, self.feature_size):
            return torch.zeros(0, self.known_size())
        array = array[None] if array.ndim == 1 else array  # [N, D]
        wanted = f"wanted finite numbers [{self.feature_size or 'D'}] or [N, {self.feature_size or 'D'}]"
        if array.dtype.kind not in "iuf" or array.ndim != 2 or 0 in array.shape or self.feature_size not in (None, array.shape[1]):
            raise DataError(f"features are an array of {array.dtype} {list(np.shape(value))}, {wanted}")
        features = torch.from_numpy(array.astype(np.float32))
        if not features.isfinite().all():
            raise DataError(f"features hold numbers that are no finite float32, {wanted}")
        return features

    def length(self, value: Any) -> int:
        return len(self.load(value))

    def blank(self) -> Tensor:
        return torch.zeros(1, self.known_size())

    def collate(self, loaded: Sequence[Tensor]) -> ModalityInputs:
        """Features float32 [B, L, D], padded with zeros to the most vectors of the batch, and which are there [B, L]."""
        return ModalityInputs(*padded(loaded, at_least_one=True))

    @property
    def fingerprint(self) -> str:
        return f"vectors {self.feature_size}"


def _ids(value: Any) -> np.ndarray[Any, Any]:
    ids = as_array(value)
    if ids.dtype.kind not in "iu" or ids.ndim != 1 or not len(ids) or ids.min() < 0:
        raise DataError(f"a text is an array of {ids.dtype} {list(ids.shape)}, wanted the ids of its words, whole numbers from 0")
    return ids.astype(np.int64)


def read_number(file: Path, key: str) -> int:
    try:
        return int(json.loads(file.read_text(encoding="utf-8"))[key])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error!r}), wanted the {key} of a run") from error
