"""Records of a file of any length: each is checked when the file is opened, and read again when its example is asked for.

What is kept of an example is where its record begins, how long it is and which one it is, 16 bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import reprlib
import weakref
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from msd_framework.data.base import MultimodalDataset, RowKeys
from msd_framework.data.files import DataFolder
from msd_framework.errors import DataError, did_you_mean
from msd_framework.reading import START, copy_as_utf8, is_utf8, other_format

if TYPE_CHECKING:
    from typing_extensions import Self

OnError: TypeAlias = Literal["raise", "skip"]
"""What becomes of a record that cannot be read: the run stops, or the record is left out and its sentence is kept."""

Record: TypeAlias = Mapping[str, Any]

BLOCK_BYTES = 1 << 17
"""How much of a file is looked at together."""


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
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        if not is_whole(value):
            raise self.wrong(key, "whole Unicode characters")
        return value

    def identifier(self, key: str) -> str:
        """An id, a text or a whole number; a text keeps its leading zeros.

        Raises:
            DataError: if it is neither.
        """
        value = self.record.get(key)
        if isinstance(value, str) and value:
            return self.text(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise self.wrong(key, "an id, a text or a whole number")

    def integer(self, key: str) -> int:
        """A whole number of 0 or more.

        Raises:
            DataError: if it is none.
        """
        value = self.record.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
            return value
        raise self.wrong(key, "a whole number")

    def label(self, key: str, spellings: Sequence[int | str]) -> int:
        """The class whose spelling a value is.

        Raises:
            DataError: if it is none of them, type included.
        """
        value = self.record.get(key)
        for label, spelling in enumerate(spellings):
            if type(value) is type(spelling) and value == spelling:
                return label
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

    def wrong(self, key: str, wanted: str) -> DataError:
        """The error of a value that is not there, or is not what was wanted."""
        if key not in self.record:
            found = ", ".join(map(repr, self.record)) or "nothing"
            return DataError(f"{self.place}: has no {key!r}, only {found}.{did_you_mean(key, self.record)}")
        value = self.record[key]
        return DataError(f"{self.place}: {key} is {reprlib.repr(value)} ({type(value).__name__}), wanted {wanted}")


class NotAnExample(Exception):  # noqa: N818
    """Raised by a check of a row that holds no example, which is no mistake."""


class Block(NamedTuple):
    """Records that lie one after the other in a file.

    Args:
        start: where the first of them begins, in bytes.
        raw: all of them.
        ends: where each of them ends in ``raw``, int64 [n].
        numbers: the number of each, [n].
        records: what each holds, where it is beyond doubt that each holds something; else None.
    """

    start: int
    raw: bytes
    ends: np.ndarray[Any, Any]
    numbers: Sequence[int]
    records: Sequence[Record] | None


class RowFile(ABC):
    """The records of a file that are examples, in the file's order, once it has been opened.

    Args:
        file: the file.
        encoding: what the file is written in, of a data set that has an option for it; of another than UTF-8, a copy is read.

    Attributes:
        keys: what each record is known by, in this process.
        skipped: a sentence for each record that was left out.

    Raises:
        DataError: if the file cannot be read, or is none of text.
    """

    def __init__(self, file: Path, encoding: str | None = None):
        self.file, self.skipped, self.encoding = str(file), list[str](), encoding
        self._starts, self._lengths, self._numbers = array("q"), array("I"), array("I")
        self._stamp = _stamp(self._source)
        if found := other_format(os.pread(self._descriptor, START, 0), file, encoding is not None):
            raise DataError(found)

    def open(
        self,
        key: str | None,
        check: Callable[[Row], object],
        on_error: OnError = "raise",
        limit: int | None = None,
        sure: Callable[[Sequence[Record]], bool] | None = None,
        contents: Callable[[Sequence[Record]], Iterable[Hashable]] | None = None,
    ) -> Self:
        """Reads the file once, a block at a time, and returns itself.

        A record is then read from the file whenever it is asked for, in any thread, and in any process that has been forked or
        has got a copy.

        Args:
            key: which value of a record is its id, unique in the file; None if they have none.
            check: raises a `DataError` for a record that cannot be read, `NotAnExample` for one to leave out without a word; it
                sees the records in order, each id once, but for those that ``sure`` was sure of.
            on_error: whether a record that cannot be read stops the opening, or is left out.
            limit: how many records to take at most; None for all.
            sure: whether it is beyond doubt that ``check`` would refuse none of many records, and need see none of them. It may
                raise `KeyError`, `TypeError` or `AttributeError` in place of an answer.
            contents: what records that were checked hold beside their ids and labels, for `keys`, which take 16 bytes a record; if
                left out, nothing is kept.

        Raises:
            DataError: with the file, the line, what was got and what was wanted; or if there is no example at all.
        """
        opening = _Opening(self, key, check, on_error, limit, sure or (lambda records: False), contents)
        for block in self._blocks():
            if opening.is_full:
                break
            opening.take(block)
        nothing = np.empty(0, np.int64)
        self.keys = RowKeys(opening.names.hashes if contents else nothing, np.array(opening.kept, np.int64))
        if not self._starts:
            raise DataError(f"{self.name}: holds no example that can be read" + (f": {self.skipped[0]}" if self.skipped else ""))
        return self

    @property
    def name(self) -> str:
        """What its places begin with."""
        return self.file

    @abstractmethod
    def _blocks(self) -> Iterator[Block]:
        """The file from its beginning to its end."""

    @abstractmethod
    def _parse(self, raw: bytes, number: int) -> Row | None:
        """One record, None if there is but white space.

        Raises:
            DataError: if it cannot be read.
        """

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Row:
        """A record, read from the file.

        Raises:
            DataError: if the file is no longer the one that was opened.
        """
        start, length, number = self._starts[index], self._lengths[index], self._numbers[index]
        if _stamp(self._source) != self._stamp:
            raise DataError(f"{self.file}: has changed since it was opened, so its lines are not where they were; start again")
        row = self._parse(os.pread(self._descriptor, length, start), number)
        assert row is not None, "a record that was taken holds something"
        return row

    @property
    def fingerprint(self) -> str:
        """A hash of the whole file, in UTF-8."""
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_source", "_descriptor", "keys")}

    def _chunks(self) -> Iterator[bytes]:
        return _chunks(self._descriptor)

    def _whole_lines(self) -> Iterator[bytes]:
        """The file in parts that end where a line does."""
        left: list[bytes] = []
        for chunk in self._chunks():
            end = chunk.rfind(b"\n") + 1
            if end:
                yield b"".join([*left, chunk[:end]])
                left = []
            left.append(chunk[end:])
        if last := b"".join(left):
            yield last

    @cached_property
    def _source(self) -> int:
        """The open file; records are read from given places, so processes that share it need not agree on where they are in it."""
        try:
            descriptor = os.open(self.file, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{self.file}: cannot be read ({error.strerror})") from error
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    @cached_property
    def _descriptor(self) -> int:
        """The open file, or its copy in UTF-8."""
        if is_utf8(self.encoding):
            return self._source
        assert self.encoding is not None
        copy = copy_as_utf8(os.pread(self._source, START, 0), lambda: _chunks(self._source), self.file, self.encoding)
        weakref.finalize(self, os.close, copy)
        return copy

    def _keep(self, block: Block, chosen: slice | list[int]) -> None:
        starts = np.concatenate([[0], block.ends[:-1]])
        self._starts.frombytes((block.start + starts[chosen]).astype(np.int64).tobytes())
        self._lengths.frombytes((block.ends - starts)[chosen].astype(np.uint32).tobytes())
        self._numbers.frombytes(np.asarray(block.numbers)[chosen].astype(np.uint32).tobytes())


class RowDataset(MultimodalDataset):
    """A data set whose examples are the rows of one file, ``rows``, in its order; it says what a row holds."""

    rows: RowFile

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def row_keys(self) -> RowKeys:
        return self.rows.keys

    @property
    def fingerprint(self) -> str:
        return self.rows.fingerprint


@dataclass
class _Opening:
    """Takes the records of a file, many at once where none of them is in doubt; see `RowFile.open`."""

    rows: RowFile
    key: str | None
    check: Callable[[Row], object]
    on_error: OnError
    limit: int | None
    sure: Callable[[Sequence[Record]], bool]
    contents: Callable[[Sequence[Record]], Iterable[Hashable]] | None
    names: _Names = field(default_factory=lambda: _Names())
    kept: array[int] = field(default_factory=lambda: array("q"))

    @property
    def is_full(self) -> bool:
        return len(self.rows) == self.limit

    def take(self, block: Block) -> None:
        if not self._take_all(block):
            self._take_each(block)

    def _take_all(self, block: Block) -> bool:
        if block.records is None:
            return False
        try:
            hashes = self._hashes(block.records)
            if hashes is None or len(self.names.doubtful(hashes)) or not self.sure(block.records):
                return False
        except (KeyError, TypeError, AttributeError):
            return False
        room = None if self.limit is None else self.limit - len(self.rows)
        self.names.take(hashes[:room])
        self._take_contents(block.records[:room])
        self.rows._keep(block, slice(room))
        return True

    def _take_contents(self, records: Sequence[Record]) -> None:
        if self.contents is not None:
            self.kept.extend(map(hash, self.contents(records)))

    def _hashes(self, records: Sequence[Record]) -> np.ndarray[Any, Any] | None:
        """What stands for the records' ids, None if one of them may be no id."""
        if self.key is None:
            return np.empty(0, np.int64)
        names = [record[self.key] for record in records]
        if set(map(type, names)) == {int}:
            names = list(map(str, names))
        elif not all_texts(names) or not all(names):
            return None
        return np.fromiter(map(_HASH, names), np.int64, len(names))

    def _take_each(self, block: Block) -> None:
        found = [self._read(block, i) for i in range(len(block.ends))]
        hashes = np.array([h for _, h in found if h is not None], np.int64)
        doubtful = set(self.names.doubtful(hashes).tolist())
        taken: list[int] = []
        for i, (row, hashed) in enumerate(found):
            if self.limit is not None and len(self.rows) + len(taken) >= self.limit:
                break
            try:
                if isinstance(row, DataError):
                    raise row
                if row is None:
                    continue
                if hashed in doubtful:
                    before = [self.rows[j] for j in self.names.like(hashed)]
                    self._check_differ(row, before + [r for j in taken if isinstance(r := found[j][0], Row)])
                self.check(row)
                taken.append(i)
            except NotAnExample:
                continue
            except DataError as error:
                if self.on_error == "raise":
                    raise
                self.rows.skipped.append(str(error))
        self.names.take(np.array([h for i in taken if (h := found[i][1]) is not None], np.int64))
        self._take_contents([row.record for i in taken if isinstance(row := found[i][0], Row)])
        self.rows._keep(block, taken)

    def _read(self, block: Block, i: int) -> tuple[Row | DataError | None, int | None]:
        """A record, or what is wrong with it, and the hash of its id if it has one."""
        try:
            if block.records is not None:
                row: Row | None = Row(block.records[i], self.rows.name, block.numbers[i])
            else:
                row = self.rows._parse(block.raw[block.ends[i - 1] if i else 0 : block.ends[i]], block.numbers[i])
            return row, None if row is None or self.key is None else _HASH(row.identifier(self.key))
        except DataError as error:
            return error, None

    def _check_differ(self, row: Row, others: Iterable[Row]) -> None:
        assert self.key is not None
        name = row.identifier(self.key)
        for other in others:
            if name == other.identifier(self.key):
                raise DataError(f"{row.place}: {self.key} {name!r} is already that of {other.place}; ids must differ")


class _Names:
    """Which examples may have a name, by 64 bits of it: 16 bytes a name and as many again in marks, however long it is."""

    def __init__(self) -> None:
        self._hashes = array("q")  # in the order of the examples
        self._runs: list[np.ndarray[Any, Any]] = []  # the same in sorted runs, each more than twice as long as the next
        self._marks = np.zeros(1 << 16, bool)  # by the last bits of a hash: whether any ends like that

    @property
    def hashes(self) -> np.ndarray[Any, Any]:
        """Those of all names, int64 [N]."""
        return np.array(self._hashes, np.int64)

    def doubtful(self, hashes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Those that an example has already, or that are there twice."""
        ordered = np.sort(hashes)
        found = [ordered[1:][ordered[1:] == ordered[:-1]]]
        marked = ordered[self._marks[ordered & (len(self._marks) - 1)]]
        for run in self._runs:
            at = np.searchsorted(run, marked).clip(max=len(run) - 1)
            found.append(marked[run[at] == marked])
        return np.concatenate(found)

    def like(self, hashed: int | None) -> list[int]:
        """The examples whose names have this hash: almost surely this name."""
        found: list[int] = np.flatnonzero(np.array(self._hashes) == hashed).tolist()
        return found

    def take(self, hashes: np.ndarray[Any, Any]) -> None:
        """Makes these the names of the next examples."""
        self._hashes.frombytes(hashes.tobytes())
        if 16 * len(self._hashes) > len(self._marks):
            self._marks = np.zeros(4 * len(self._marks), bool)
            self._mark(np.array(self._hashes))
        self._mark(hashes)
        run = np.sort(hashes)
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")  # which merges
        if len(run):
            self._runs.append(run)

    def _mark(self, hashes: np.ndarray[Any, Any]) -> None:
        self._marks[hashes & (len(self._marks) - 1)] = True


def all_texts(values: Iterable[Any]) -> bool:
    r"""Whether all values are texts of whole characters.

    >>> all_texts(["a", "b"]), all_texts(["a", 1]), all_texts(["\ud800"])
    (True, False, False)
    """
    values = list(values)
    return set(map(type, values)) <= {str} and is_whole("".join(values))


def all_labels(values: Iterable[Any], spellings: Sequence[int | str]) -> bool:
    """Whether each value is one of some spellings, type included.

    >>> all_labels([0, 1, 1], (0, 1)), all_labels([True], (0, 1))
    (True, False)
    """
    values = list(values)
    return (
        len(set(map(type, spellings))) == 1
        and set(map(type, values)) <= set(map(type, spellings))
        and set(values) <= set(spellings)
    )


def all_counts(values: Iterable[Any]) -> bool:
    """Whether all values are whole numbers of 0 or more that 63 bits hold."""
    values = list(values)
    return set(map(type, values)) <= {int} and min(values, default=0) >= 0 and max(values, default=0) < 1 << 63


def is_whole(text: str) -> bool:
    """Whether a text holds no half of a character, a lone surrogate."""
    return text.isascii() or not _HALF_A_CHARACTER.search(text)


def _chunks(descriptor: int) -> Iterator[bytes]:
    read = 0
    while chunk := os.pread(descriptor, BLOCK_BYTES, read):
        read += len(chunk)
        yield chunk


def _stamp(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


_HASH: Callable[[str], int] = hash
_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
