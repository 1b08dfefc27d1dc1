"""Records of a file of any length: each is checked once, when the file is opened, and read again when its example is asked for.

What is kept of an example is where its record begins, how long it is and which one it is, 16 bytes.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from msd_framework.data.base import MultimodalDataset, RowKeys
from msd_framework.data.rows.row import NotAnExample, Record, Row, RowBatch
from msd_framework.errors import DataError
from msd_framework.reading import START, copy_as_utf8, is_utf8, other_format

if TYPE_CHECKING:
    from typing_extensions import Self

OnError: TypeAlias = Literal["raise", "skip"]  # whether a record that cannot be read stops the run, or is left out
Hashes: TypeAlias = NDArray[np.int64]
CheckRows: TypeAlias = Callable[[RowBatch], Iterable[Hashable] | None]
OnTaken: TypeAlias = Callable[[Sequence[Record]], object]
BLOCK_BYTES = 1 << 17  # how much of a file is looked at together


class Block(NamedTuple):
    """Records that lie one after the other in a file."""

    start: int  # where the first of them begins, in bytes
    ends: NDArray[Any]  # where each of them ends, counted from there, [n]
    numbers: Sequence[int]  # the number of each, [n]
    records: Sequence[Record] | None  # what each holds, where it is beyond doubt that each holds something


class RowFile(ABC):
    """The records of a file that are examples, in the file's order, once it has been opened.

    Of an encoding other than UTF-8, which data sets with an option for it name, a copy is read.
    """

    keys: RowKeys

    def __init__(self, file: Path, encoding: str | None = None):
        self.file, self.encoding = str(file), encoding
        self.name = self.file  # what places begin with
        self.skipped: list[str] = []  # a sentence for each record that was left out
        self._starts, self._lengths, self._numbers = array("q"), array("I"), array("I")
        self._stamp = _stamp(self._source)
        if found := other_format(os.pread(self._descriptor, START, 0), file, encoding is not None):
            raise DataError(found)

    def open(
        self,
        key: str | None,
        check: CheckRows,
        on_error: OnError = "raise",
        limit: int | None = None,
        on_taken: OnTaken | None = None,
    ) -> Self:
        """Reads the file once, a block at a time, and returns itself.

        A record is then read from the file whenever it is asked for, in any thread or process, and not checked again.

        Args:
            key: which value of a record is its id, unique in the file; None if they have none.
            check: raises a `DataError` for rows that cannot be read, and `NotAnExample` for some to leave out without a word. It
                gets many rows at once, in order; and one row after the other where it has refused many. What it returns, if
                anything, is what a model sees of each row, for `keys`.
            on_taken: gets the records that were taken, in order.
        """
        opening = _Opening(self, key, check, on_error, limit, on_taken)
        for block in self._blocks():
            if len(self) == limit:
                break
            opening.take(block)
        contents = np.array(opening.contents, np.int64)
        self.keys = RowKeys(opening.names.hashes if len(contents) else contents, contents)
        if not self._starts:
            raise DataError(f"{self.name}: holds no example that can be read" + (f": {self.skipped[0]}" if self.skipped else ""))
        return self

    @abstractmethod
    def _blocks(self) -> Iterator[Block]:
        """The file from its beginning to its end."""

    @abstractmethod
    def _parse(self, raw: bytes, number: int) -> Row | None:
        """One record, None if there is but white space."""

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Row:
        start, length, number = self._starts[index], self._lengths[index], self._numbers[index]
        if _stamp(self._source) != self._stamp:
            raise DataError(f"{self.file}: has changed since it was opened, so its lines are not where they were; start again")
        row = self._read(start, length, number)
        assert row is not None, "a record that was taken holds something"
        return row

    def _read(self, start: int, length: int, number: int) -> Row | None:
        return self._parse(os.pread(self._descriptor, length, start), number)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for chunk in _chunks(self._descriptor):
            digest.update(chunk)
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_source", "_descriptor", "keys")}

    def _whole_lines(self) -> Iterator[tuple[bytes, NDArray[Any]]]:
        """The file in parts that end where a line does, and where each line of a part ends."""
        left: list[bytes] = []
        for chunk in _chunks(self._descriptor):
            end = chunk.rfind(b"\n") + 1
            if end:
                part = b"".join([*left, chunk[:end]])
                yield part, np.flatnonzero(np.frombuffer(part, np.uint8) == ord("\n")) + 1
                left = []
            left.append(chunk[end:])
        if last := b"".join(left):
            yield last, np.array([len(last)])

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

    @property
    def skipped(self) -> list[str]:
        return self.rows.skipped

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
    rows: RowFile
    key: str | None
    check: CheckRows
    on_error: OnError
    limit: int | None
    on_taken: OnTaken | None
    names: _Names = field(default_factory=lambda: _Names())
    contents: array[int] = field(default_factory=lambda: array("q"))

    def take(self, block: Block) -> None:
        """Takes the records of a block: together where nothing is wrong with any of them, else one by one."""
        room = None if self.limit is None else self.limit - len(self.rows)
        if block.records is None or not self._take_all(block, block.records, room):
            self._take_each(block, room)

    def _take_all(self, block: Block, records: Sequence[Record], room: int | None) -> bool:
        rows = RowBatch(records, self.rows.name, block.numbers)
        try:
            names = [] if self.key is None else rows.ids(self.key)
            hashes = np.fromiter(map(_HASH, names), np.int64, len(names))
            if len(self.names.doubtful(hashes)):
                return False
            contents = list(map(hash, self.check(rows) or ()))
        except (DataError, NotAnExample):
            return False
        self._keep(block, slice(room), records[:room], hashes[:room], contents[:room])
        return True

    def _take_each(self, block: Block, room: int | None) -> None:
        read = [self._read(block, i) for i in range(len(block.ends))]
        doubtful = set(self.names.doubtful(_array(hashed for _, hashed in read)).tolist())
        taken: dict[int, Row] = {}
        contents: list[int] = []
        for i, (row, hashed) in enumerate(read):
            if len(taken) == room:
                break
            try:
                if isinstance(row, DataError):
                    raise row
                if row is None:
                    continue
                if hashed in doubtful:
                    self._check_id(row, [*map(self.rows.__getitem__, self.names.like(hashed)), *taken.values()])
                contents += map(hash, self.check(RowBatch([row.record], row.file, [row.number])) or ())
                taken[i] = row
            except NotAnExample:
                continue
            except DataError as error:
                if self.on_error == "raise":
                    raise
                self.rows.skipped.append(str(error))
        self._keep(block, list(taken), [row.record for row in taken.values()], _array(read[i][1] for i in taken), contents)

    def _read(self, block: Block, i: int) -> tuple[Row | DataError | None, int | None]:
        """A record, or what is wrong with it, and the hash of its id if it has one."""
        try:
            if block.records is not None:
                row: Row | None = Row(block.records[i], self.rows.name, block.numbers[i])
            else:
                start = int(block.ends[i - 1]) if i else 0
                row = self.rows._read(block.start + start, int(block.ends[i]) - start, block.numbers[i])
            return row, None if row is None or self.key is None else _HASH(row.identifier(self.key))
        except DataError as error:
            return error, None

    def _check_id(self, row: Row, others: Iterable[Row]) -> None:
        assert self.key is not None
        name = row.identifier(self.key)
        for other in others:
            if name == other.identifier(self.key):
                raise DataError(f"{row.place}: {self.key} {name!r} is already that of {other.place}; ids must differ")

    def _keep(
        self, block: Block, chosen: slice | list[int], records: Sequence[Record], hashes: Hashes, contents: list[int]
    ) -> None:
        self.names.add(hashes)
        self.contents.extend(contents)
        if self.on_taken is not None:
            self.on_taken(records)
        self.rows._keep(block, chosen)


def _array(hashes: Iterable[int | None]) -> Hashes:
    return np.array([hashed for hashed in hashes if hashed is not None], np.int64)


class _Names:
    """Which examples may have a name, by 64 bits of it: 16 bytes a name, however long it is."""

    def __init__(self) -> None:
        self._hashes = array("q")  # in the order of the examples
        self._runs: list[Hashes] = []  # the same in sorted runs, each more than twice as long as the next

    @property
    def hashes(self) -> Hashes:
        return np.array(self._hashes, np.int64)

    def doubtful(self, hashes: Hashes) -> Hashes:
        """Those that an example has already, or that are there twice."""
        ordered = np.sort(hashes)
        found = [ordered[1:][ordered[1:] == ordered[:-1]]]
        for run in self._runs:
            at = np.searchsorted(run, ordered).clip(max=len(run) - 1)
            found.append(ordered[run[at] == ordered])
        return np.concatenate(found)

    def like(self, hashed: int | None) -> list[int]:
        """The examples whose names have this hash: almost surely this name."""
        found: list[int] = np.flatnonzero(self.hashes == hashed).tolist()
        return found

    def add(self, hashes: Hashes) -> None:
        """Makes these the names of the next examples."""
        self._hashes.frombytes(hashes.tobytes())
        run = np.sort(hashes)
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")  # which merges
        if len(run):
            self._runs.append(run)


def _chunks(descriptor: int) -> Iterator[bytes]:
    read = 0
    while chunk := os.pread(descriptor, BLOCK_BYTES, read):
        read += len(chunk)
        yield chunk


def _stamp(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


_HASH: Callable[[str], int] = hash
