"""JSON-lines files of any length: every line is checked when the file is opened, and read again when its example is asked for.

What is kept of an example is where its line begins and which line it is, 16 bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
import weakref
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from msd_framework.data.files import DataFolder
from msd_framework.errors import DataError, did_you_mean

OnError: TypeAlias = Literal["raise", "skip"]
"""What becomes of a line that cannot be read: the run stops, or the line is left out and its sentence is kept."""


class JsonLine(NamedTuple):
    """One line of a JSON-lines file, with the place to name where it is wrong.

    Args:
        record: what the line holds.
        file: the file's name.
        number: the line's, from 1.

    >>> line = JsonLine({"id": "00127", "label": 1, "txt": "hello"}, "dev.jsonl", 3)
    >>> line.identifier("id"), line.label("label", (0, 1))
    ('00127', 1)
    >>> line.text("text")
    Traceback (most recent call last):
    msd_framework.errors.DataError: dev.jsonl:3: has no 'text', only 'id', 'label', 'txt'. Did you mean 'txt'?
    """

    record: Mapping[str, Any]
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
        if not value.isascii() and _HALF_A_CHARACTER.search(value):
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


class JsonLines:
    r"""The lines of a JSON-lines file that hold an example, in the file's order.

    Opening reads the file once, a line at a time. A line is then read from the file whenever it is asked for, in any thread,
    and in any process that has been forked or has got a copy.

    Args:
        file: one JSON object a line, UTF-8; empty lines do not count.
        key: which of its values is the id, unique in the file.
        check: raises a `DataError` for a line that cannot be read; it sees the lines in order, each id once.
        on_error: whether a line that cannot be read stops the opening, or is left out.
        limit: how many lines to take at most; None for all.

    Attributes:
        skipped: a sentence for each line that was left out.

    Raises:
        DataError: with the file, the line, what was got and what was wanted; or if there is no example at all.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "dev.jsonl"
    >>> _ = file.write_text('{"id": 7, "text": "hello"}\n{"id": 8, "text": "world"}\n')
    >>> lines = JsonLines(file, "id", lambda line: line.text("text"))
    >>> len(lines), lines[1].record, lines[1].place.rpartition("/")[2]
    (2, {'id': 8, 'text': 'world'}, 'dev.jsonl:2')
    """

    def __init__(
        self,
        file: Path,
        key: str,
        check: Callable[[JsonLine], object],
        on_error: OnError = "raise",
        limit: int | None = None,
    ):
        self.file, self.skipped = str(file), list[str]()
        self._starts, self._taken = array("q", [0]), array("q")  # where each line begins and the last one ends; which are examples
        names, end = _Names(), 0
        self._stamp = _stamp(self._descriptor)
        with open(self._descriptor, "rb", closefd=False) as lines:
            for number, line in enumerate(lines):
                if len(self._taken) == limit:
                    break
                end += len(line)
                self._starts.append(end)
                if line.isspace():
                    continue
                try:
                    parsed = self._parse(line, number)
                    name = parsed.identifier(key)
                    for other in names.like(name):
                        self._check_differ(parsed, self[other], key)
                    check(parsed)
                    names.take()
                    self._taken.append(number)
                except DataError as error:
                    if on_error == "raise":
                        raise
                    self.skipped.append(str(error))
        if not self._taken:
            raise DataError(f"{file}: holds no example that can be read" + (f": {self.skipped[0]}" if self.skipped else ""))

    def __len__(self) -> int:
        return len(self._taken)

    def __getitem__(self, index: int) -> JsonLine:
        """A line, read from the file.

        Raises:
            DataError: if the file is no longer the one that was opened.
        """
        number = self._taken[index]
        start, end = self._starts[number], self._starts[number + 1]
        if _stamp(self._descriptor) != self._stamp:
            raise DataError(f"{self.file}: has changed since it was opened, so its lines are not where they were; start again")
        return self._parse(os.pread(self._descriptor, end - start, start), number)

    @property
    def fingerprint(self) -> str:
        """A hash of the whole file."""
        digest, read = hashlib.sha256(), 0
        while chunk := os.pread(self._descriptor, 2**20, read):
            digest.update(chunk)
            read += len(chunk)
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_descriptor"}

    @cached_property
    def _descriptor(self) -> int:
        """The open file; lines are read from given places, so processes that share it need not agree on where they are in it."""
        try:
            descriptor = os.open(self.file, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{self.file}: cannot be read ({error.strerror})") from error
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def _check_differ(self, line: JsonLine, other: JsonLine, key: str) -> None:
        name = line.identifier(key)
        if name == other.identifier(key):
            raise DataError(f"{line.place}: {key} {name!r} is already that of {other.place}; ids must differ")

    def _parse(self, line: bytes, number: int) -> JsonLine:
        try:
            text = line.decode().strip(" \t\r\n")
            record, end = _DECODE(text)
        except (ValueError, RecursionError):
            return _parse(line, self.file, number + 1)
        whole = end == len(text) and type(record) is dict
        return JsonLine(record, self.file, number + 1) if whole else _parse(line, self.file, number + 1)


class _Names:
    """Which examples may have a name, by an open-addressed hash table: 16 to 24 bytes a name, however long it is."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._slots = array("I", [0]) * 1024  # 1 + the example whose name's hash leads here; 0 where there is none
        self._hash = self._free = 0

    def like(self, name: str) -> list[int]:
        """The examples whose names have the hash of this one, 64 bits: almost surely the same name."""
        slots, last, found = self._slots, len(self._slots) - 1, []
        self._hash = _HASH(name)
        slot = self._hash & last
        while example := slots[slot]:
            if self._hashes[example - 1] == self._hash:
                found.append(example - 1)
            slot = (slot + 1) & last
        self._free = slot
        return found

    def take(self) -> None:
        """Makes the name that was last asked for that of the next example."""
        self._hashes.append(self._hash)
        self._slots[self._free] = len(self._hashes)
        if 2 * len(self._hashes) > len(self._slots):
            self._grow()

    def _grow(self) -> None:
        slots, last = array("I", [0]) * (2 * len(self._slots)), 2 * len(self._slots) - 1
        for example, hashed in enumerate(self._hashes, 1):
            slot = hashed & last
            while slots[slot]:
                slot = (slot + 1) & last
            slots[slot] = example
        self._slots = slots


def _parse(line: bytes, file: str, number: int) -> JsonLine:
    place = f"{file}:{number}"
    try:
        record = json.loads(line.removesuffix(b"\n").decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: is not UTF-8 ({error.reason} at byte {error.start + 1}), wanted UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: is not JSON ({error}), wanted one object a line") from error
    if not isinstance(record, dict):
        raise DataError(f"{place}: is {reprlib.repr(record)} ({type(record).__name__}), wanted an object")
    return JsonLine(record, file, number)


def _stamp(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


_DECODE = json.JSONDecoder().raw_decode
_HASH: Callable[[str], int] = hash
_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
