"""Rows that two splits share: found by what they hold, and by ids that are more than the places of rows."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from msd_framework.data.base import MultimodalDataset, RowKeys
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.reader import read_example
from msd_framework.data.files import plain_paths, plain_texts
from msd_framework.errors import DataError, did_you_mean
from msd_framework.structures import DatasetInfo

Hashes: TypeAlias = NDArray[np.int64]
MOST_NAMED = 3  # of the rows that are shared


@dataclass(frozen=True)
class Shared:
    """Rows of a split that another one has as well."""

    count: int
    by: str  # what they have in common, "content" or "ids"
    first: Sequence[str]  # the first of them, each with its two places


def survey(dataset: MultimodalDataset, info: DatasetInfo, needs_labels: bool = False) -> RowKeys:
    """What the examples of a split are known by, of a data set that does not tell, whose labels are checked on the way."""
    contents = np.empty(len(dataset), np.int64)
    places: dict[str, int] = {}
    collator = Collator({}, info, unlabelled=False if needs_labels else None)
    for i in range(len(dataset)):
        example = read_example(dataset, i, info.modalities)
        kind, given = type(dataset).__name__, cast(object, example.id)
        if not isinstance(given, str):
            text = f"the id {given!r} ({type(given).__name__}) of an example of {kind} is no text; write str(...)"
            raise DataError(f"{example.source}: {text}")
        for name in example.inputs:
            if name not in info.modalities:
                known = f"{did_you_mean(name, info.modalities)} It names: {', '.join(info.modalities)}"
                text = f"example {example.id!r} has an input {name!r}, which describe() of {kind} does not name"
                raise DataError(f"{example.source}: {text}.{known}")
        if (first := places.setdefault(example.id, i)) != i:
            text = f"examples {first} and {i} of {kind} have the id {example.id!r}"
            raise DataError(f"{example.source}: {text}; ids must differ")
        collator.num_labelled([example])
        if problem := target_problem(example.target, info):
            raise DataError(f"{example.source}: the target of example {example.id!r} is {example.target!r}, wanted {problem}")
        # two posts without a photo may well say the same
        lacks_some = any(value is None for value in example.inputs.values())
        contents[i] = hash((_content(example.inputs, example.id), example.id if lacks_some else ""))
    return RowKeys(np.empty(0, np.int64), contents)  # its ids are promised to differ within a split alone


def shared_rows(first: tuple[MultimodalDataset, RowKeys], second: tuple[MultimodalDataset, RowKeys]) -> Shared | None:
    """The rows of the second split that the first one has as well; None if there are none.

    Rows are the same if all that a model is shown of them is, whatever they are called and labelled; those that lack a modality, if
    all else is the same as well. Rows of one id are the same even if something was changed in them, unless each split just counts
    its rows.
    """
    (one, known), (other, asked) = first, second
    if np.isin(asked.contents, known.contents).any():
        return _shared("content", one, known.contents, other, asked.contents)
    if np.isin(asked.ids, known.ids).any() and not (_are_counted(one) and _are_counted(other)):
        return _shared("ids", one, known.ids, other, asked.ids)
    return None


def _shared(by: str, one: MultimodalDataset, known: Hashes, other: MultimodalDataset, asked: Hashes) -> Shared:
    first, both = [], np.isin(asked, known)
    for place in np.flatnonzero(both)[:MOST_NAMED].tolist():
        here, there = other[place], one[int(np.argmax(known == asked[place]))]
        first.append(f"{here.id!r} at {here.source} and {there.id!r} at {there.source}")
    return Shared(int(both.sum()), by, first)


def _are_counted(dataset: MultimodalDataset) -> bool:
    """Whether ids just number the rows of a split, in any order, from 0 or 1."""
    names = [dataset[i].id for i in range(len(dataset))]
    if not all(re.fullmatch(r"\d{1,18}", name) for name in names):
        return False
    numbers = list(map(int, names))
    return min(numbers) < 2 and max(numbers) < 2 * len(numbers)


def _content(value: Any, name: str) -> Any:
    """What an input is known by: a text, a path, the numbers of an array; the example's name where nothing can be compared."""
    if isinstance(value, Mapping):
        return tuple((key, _content(value[key], name)) for key in sorted(value))
    if isinstance(value, (list, tuple)):
        return tuple(_content(one, name) for one in value)
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, str):
        return plain_texts([value])[0]
    if isinstance(value, PurePath):
        return plain_paths([str(value)])[0]
    if isinstance(value, (int, float, np.generic, type(None))):
        return str(value)
    try:
        return pickle.dumps(value)
    except Exception:  # an object of a user's own may raise anything
        return name


def target_problem(target: Any, info: DatasetInfo) -> str:
    """What was wanted in place of a target; empty if nothing is wrong with it."""
    if target is None:
        return ""
    if info.task == "single_label":
        is_class = isinstance(target, (int, np.integer)) and not isinstance(target, bool) and 0 <= target < info.num_classes
        return "" if is_class else f"a class from 0 to {info.num_classes - 1}, or None"
    try:
        scores = np.asarray(target, np.float64)
        fits = scores.shape == (info.num_classes,) and bool(((scores >= 0) & (scores <= 1)).all())
    except (TypeError, ValueError):
        fits = False
    return "" if fits else f"{info.num_classes} numbers from 0 to 1, one a class"
