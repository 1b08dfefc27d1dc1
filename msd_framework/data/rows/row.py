"""One record of a file, and what its values must be, decided for many values at once as for one."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from msd_framework.data.files import DataFolder
from msd_framework.errors import DataError, did_you_mean

Record: TypeAlias = Mapping[str, Any]
AreRight: TypeAlias = Callable[[Sequence[Any]], bool]


class Row(NamedTuple):
    """One record of a file, with the place to name where it is wrong."""

    record: Record
    file: str  # its name, and that of the list in it if there are several
    number: int  # the record's line, or its place in the list, from 1

    @property
    def place(self) -> str:
        return f"{self.file}:{self.number}"

    def text(self, key: str) -> str:
        """A text without half a character (a lone surrogate), which no tokenizer can read."""
        return str(self.value(key, all_texts, "a text"))

    def identifier(self, key: str) -> str:
        """An id, a text or a whole number; a text keeps its leading zeros."""
        return str(self.value(key, all_ids, "an id, a text or a whole number"))

    def value(self, key: str, are_right: AreRight, wanted: str) -> Any:
        """A value that is right; else a `DataError` says what was wanted."""
        value = self.record.get(key)
        if are_right([value]):
            return value
        raise self.wrong(key, "whole Unicode characters" if isinstance(value, str) and not is_whole(value) else wanted)

    def path(self, folder: DataFolder, relative: str) -> str:
        try:
            folder.check(relative)
        except DataError as error:
            raise DataError(f"{self.place}: {error}") from error
        return relative

    def facts(self, *keys: str) -> dict[str, str]:
        """Those values among the keys that the row has."""
        return {key: self.record[key] for key in keys if key in self.record}

    def wrong(self, key: str, wanted: str) -> DataError:
        """The error of a value that is not there, or is not what was wanted."""
        if key not in self.record:
            found = ", ".join(map(repr, self.record)) or "nothing"
            return DataError(f"{self.place}: has no {key!r}, only {found}.{did_you_mean(key, self.record)}")
        value = self.record[key]
        return DataError(f"{self.place}: {key} is {reprlib.repr(value)} ({type(value).__name__}), wanted {wanted}")


class RowBatch:
    """Rows of a file that are checked together, which is much quicker than one by one. The first that is wrong is named."""

    def __init__(self, records: Sequence[Record], file: str, numbers: Sequence[int]):
        self.records, self.file, self.numbers = records, file, numbers
        self._columns: dict[str, list[Any]] = {}

    def __iter__(self) -> Iterator[Row]:
        return (Row(record, self.file, number) for record, number in zip(self.records, self.numbers))

    def one(self) -> Row:
        """The row, for a check that looks at rows one by one: a block that is refused is checked again row by row."""
        if len(self.records) > 1:
            raise NotAnExample
        return next(iter(self))

    def column(self, key: str) -> list[Any]:
        """The value of each row, None of one that has none."""
        if key not in self._columns:
            try:
                self._columns[key] = [record[key] for record in self.records]
            except KeyError:
                self._columns[key] = [record.get(key) for record in self.records]
        return self._columns[key]

    def texts(self, key: str, optional: bool = False) -> list[str]:
        """`Row.text` of each row; of those that have one, if it is optional."""
        return self._values(key, all_texts, "a text", optional)

    def ids(self, key: str) -> list[str]:
        return list(map(str, self._values(key, all_ids, "an id, a text or a whole number")))

    def integers(self, key: str) -> list[int]:
        """Whole numbers of 0 or more."""
        return self._values(key, all_counts, "a whole number")

    def labels(self, key: str, spellings: Sequence[int | str], optional: bool = False) -> None:
        """Checks that each row has one of the labels, type included; those that have one, if it is optional."""
        wanted = f"one of {', '.join(map(repr, spellings))}"
        self._values(key, lambda values: all_labels(values, spellings), wanted, optional)

    def paths(self, folder: DataFolder, relatives: Sequence[str]) -> Sequence[str]:
        if not folder.is_sure_of(relatives):
            for row, relative in zip(self, relatives):
                row.path(folder, relative)
        return relatives

    def _values(self, key: str, are_right: AreRight, wanted: str, optional: bool = False) -> list[Any]:
        values = [record[key] for record in self.records if key in record] if optional else self.column(key)
        if not are_right(values):
            for row in self:
                if not optional or key in row.record:
                    row.value(key, are_right, wanted)
        return values


class NotAnExample(Exception):  # noqa: N818
    """Raised by a check of a row that holds no example, which is no mistake."""


def all_texts(values: Sequence[Any]) -> bool:
    return set(map(type, values)) <= {str} and is_whole("".join(values))


def all_ids(values: Sequence[Any]) -> bool:
    """Whether all values are whole numbers, but not True, or texts of whole characters that are not empty."""
    types = set(map(type, values))
    if types == {int}:
        return True
    texts = values if types == {str} else [value for value in values if type(value) is str]
    return types <= {int, str} and "" not in texts and is_whole("".join(texts))


def all_labels(values: Sequence[Any], spellings: Sequence[int | str]) -> bool:
    """Whether each value is one of some spellings, type included: True is not 1."""
    return set(map(type, values)) <= set(map(type, spellings)) and set(values) <= set(spellings)


def all_counts(values: Sequence[Any]) -> bool:
    """Whether all values are whole numbers of 0 or more that 63 bits hold."""
    return set(map(type, values)) <= {int} and min(values, default=0) >= 0 and max(values, default=0) < 1 << 63


def is_whole(text: str) -> bool:
    """Whether a text holds no half of a character, a lone surrogate, which cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
