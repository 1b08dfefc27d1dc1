"""One record of a file, and what its values must be, decided for many values at once as for one."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from msd_framework.data.files import DataFolder
from msd_framework.errors import DataError, did_you_mean

Record: TypeAlias = Mapping[str, Any]


class Row(NamedTuple):
    """One record of a file, with the place to name where it is wrong.

    Args:
        record: what it holds.
        file: the file's name, and that of the list in it if there are several.
        number: the record's line, or its place in the list, from 1.

    >>> row = Row({"id": "00127", "label": 1, "txt": "hello"}, "dev.jsonl", 3)
    >>> row.identifier("id"), row.label("label", (0, 1))
    ('00127', 1)
    >>> row.text("text")
    Traceback (most recent call last):
    msd_framework.errors.DataError: dev.jsonl:3: has no 'text', only 'id', 'label', 'txt'. Did you mean 'txt'?
    """

    record: Record
    file: str
    number: int

    @property
    def place(self) -> str:
        """``file:line``."""
        return f"{self.file}:{self.number}"

    def text(self, key: str) -> str:
        """A text.

        Raises:
            DataError: if it is none, or holds half a character (a lone surrogate), which no tokenizer can read.
        """
        value = self.record.get(key)
        if all_texts([value]):
            return str(value)
        raise self.wrong(key, "whole Unicode characters" if isinstance(value, str) else "a text")

    def identifier(self, key: str) -> str:
        """An id, a text or a whole number; a text keeps its leading zeros.

        Raises:
            DataError: if it is neither.
        """
        value = self.record.get(key)
        if all_ids([value]):
            return str(value)
        is_damaged = isinstance(value, str) and value != ""
        raise self.wrong(key, "whole Unicode characters" if is_damaged else "an id, a text or a whole number")

    def integer(self, key: str) -> int:
        """A whole number of 0 or more.

        Raises:
            DataError: if it is none.
        """
        value = self.record.get(key)
        if all_counts([value]):
            return int(value or 0)
        raise self.wrong(key, "a whole number")

    def label(self, key: str, spellings: Sequence[int | str]) -> int:
        """The class whose spelling a value is.

        Raises:
            DataError: if it is none of them, type included.
        """
        value = self.record.get(key)
        if isinstance(value, (int, str)) and all_labels([value], spellings):
            return spellings.index(value)
        raise self.wrong(key, f"one of {', '.join(map(repr, spellings))}")

    def path(self, folder: DataFolder, relative: str) -> str:
        """A path relative to the data set's folder, which it must not leave.

        Raises:
            DataError: if it does.
        """
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
    """Rows of a file that are checked together, which is much quicker than one by one.

    Each method refuses the rows if one of them is wrong. A block of a file that is refused is checked again row by row, so that
    one check serves both: it is written for many rows, and names the one that is wrong.

    Args:
        records: what the rows hold.
        file: the file's name.
        numbers: those of the rows.

    >>> rows = RowBatch([{"id": 7, "text": "hello"}, {"id": 8, "text": None}], "dev.jsonl", [1, 2])
    >>> rows.ids("id")
    ['7', '8']
    >>> rows.texts("text")
    Traceback (most recent call last):
    msd_framework.errors.DataError: dev.jsonl:2: text is None (NoneType), wanted a text
    """

    def __init__(self, records: Sequence[Record], file: str, numbers: Sequence[int]):
        self.records, self.file, self.numbers = records, file, numbers
        self._columns: dict[str, list[Any]] = {}

    def __iter__(self) -> Iterator[Row]:
        return (Row(record, self.file, number) for record, number in zip(self.records, self.numbers))

    def one(self) -> Row:
        """The row, for a check that looks at rows one by one.

        Raises:
            NotAnExample: if there are more of them.
        """
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
        return self._values(key, all_texts, Row.text, optional)

    def ids(self, key: str) -> list[str]:
        """`Row.identifier` of each row."""
        return list(map(str, self._values(key, all_ids, Row.identifier)))

    def integers(self, key: str) -> list[int]:
        """`Row.integer` of each row."""
        return self._values(key, all_counts, Row.integer)

    def labels(self, key: str, spellings: Sequence[int | str], optional: bool = False) -> None:
        """Checks that each row has a label, see `Row.label`; those that have one, if it is optional."""
        self._values(key, lambda values: all_labels(values, spellings), lambda row, key: row.label(key, spellings), optional)

    def paths(self, folder: DataFolder, relatives: Sequence[str]) -> Sequence[str]:
        """`Row.path` of each row.

        Args:
            folder: the data set's folder.
            relatives: a path for each row.
        """
        if not folder.is_sure_of(relatives):
            for row, relative in zip(self, relatives):
                row.path(folder, relative)
        return relatives

    def _values(
        self, key: str, are_right: Callable[[Sequence[Any]], bool], read: Callable[[Row, str], object], optional: bool = False
    ) -> list[Any]:
        values = [record[key] for record in self.records if key in record] if optional else self.column(key)
        if not are_right(values):
            for row in self:
                if not optional or key in row.record:
                    read(row, key)
        return values


class NotAnExample(Exception):  # noqa: N818
    """Raised by a check of a row that holds no example, which is no mistake."""


def all_texts(values: Sequence[Any]) -> bool:
    r"""Whether all values are texts of whole characters.

    >>> all_texts(["a", "b"]), all_texts(["a", 1]), all_texts(["\ud800"])
    (True, False, False)
    """
    return set(map(type, values)) <= {str} and is_whole("".join(values))


def all_ids(values: Sequence[Any]) -> bool:
    """Whether all values are whole numbers, or texts of whole characters that are not empty.

    >>> all_ids(["00127", 8]), all_ids([""]), all_ids([True])
    (True, False, False)
    """
    types = set(map(type, values))
    if types == {int}:
        return True
    texts = values if types == {str} else [value for value in values if type(value) is str]
    return types <= {int, str} and "" not in texts and is_whole("".join(texts))


def all_labels(values: Sequence[Any], spellings: Sequence[int | str]) -> bool:
    """Whether each value is one of some spellings, type included.

    >>> all_labels([0, 1, 1], (0, 1)), all_labels([True], (0, 1))
    (True, False)
    """
    return set(map(type, values)) <= set(map(type, spellings)) and set(values) <= set(spellings)


def all_counts(values: Sequence[Any]) -> bool:
    """Whether all values are whole numbers of 0 or more that 63 bits hold."""
    return set(map(type, values)) <= {int} and min(values, default=0) >= 0 and max(values, default=0) < 1 << 63


def is_whole(text: str) -> bool:
    """Whether a text holds no half of a character, a lone surrogate."""
    return text.isascii() or not _HALF_A_CHARACTER.search(text)


_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
