"""Rows that a program holds, as a data set hands its examples out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from msd_framework.data.base import Example, MultimodalDataset
from msd_framework.errors import DataError, did_you_mean
from msd_framework.structures import DatasetInfo


class Records(MultimodalDataset):
    """Examples of rows in memory.

    Rows are mappings with a value for each modality, or `Example`s; a single one of them; a DataFrame, or a row of it. A row lacks
    a modality where its value is None or NaN, or where it names nothing but other modalities. Its ``id``, or else its place, says
    what noise a masker draws for it.

    >>> Records([{"txt": "what a day"}], ["text"])
    Traceback (most recent call last):
    msd_framework.errors.DataError: rows[0]: has no 'text', only 'txt'; what a row lacks is None there. Did you mean 'txt'?
    """

    splits: ClassVar[tuple[str, ...]] = ()

    def __init__(self, rows: Any, modalities: Sequence[str], targets: Sequence[Any] | None = None):
        self.modalities = tuple(modalities)
        listed = _listed(rows)
        if targets is not None and len(targets) != len(listed):
            raise DataError(f"there are {len(listed)} rows and {len(targets)} targets, wanted one for each row")
        known = [None] * len(listed) if targets is None else targets
        self.examples = [self._example(i, row, target) for i, (row, target) in enumerate(zip(listed, known))]

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        raise NotImplementedError("rows in memory are described by the model that reads them")

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        return []

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    def _example(self, index: int, row: Any, target: Any) -> Example:
        source = f"rows[{index}]"
        given = row.inputs if isinstance(row, Example) else row
        if not isinstance(given, Mapping):
            wanted = ", ".join(f"{m!r}: ..." for m in self.modalities)
            raise DataError(f"{source}: is a {type(row).__name__}, wanted a dict such as {{{wanted}}}")
        others = [str(key) for key in given if key not in ("id", *self.modalities)]
        inputs = {}
        for modality in self.modalities:
            # a key that is no modality may be a misspelt one, or the column that was meant
            if modality not in given and (others or not set(given) - {"id"}):
                named = ", ".join(repr(str(key)) for key in given) or "nothing"
                text = f"{source}: has no {modality!r}, only {named}; what a row lacks is None there."
                raise DataError(f"{text}{did_you_mean(modality, others)}")
            value = given.get(modality)
            inputs[modality] = None if _is_nothing(value) else value
        name = row.id if isinstance(row, Example) else given.get("id", index)
        return Example(str(name), inputs, target, source)


def _listed(rows: Any) -> list[Any]:
    if isinstance(rows, (Mapping, Example)):
        return [rows]
    if hasattr(rows, "to_dict") and hasattr(rows, "iloc"):  # of pandas, which need not be there
        return list(rows.to_dict("records")) if hasattr(rows, "columns") else [rows.to_dict()]
    if isinstance(rows, str) or not isinstance(rows, Iterable):
        raise DataError(f"rows is a {type(rows).__name__}, wanted a dict, a list of them, or a DataFrame")
    return list(rows)


def _is_nothing(value: Any) -> bool:
    """Whether a row lacks a value: None, or what a DataFrame has in its place."""
    return value is None or (isinstance(value, (float, np.floating)) and bool(np.isnan(value))) or type(value).__name__ == "NAType"
