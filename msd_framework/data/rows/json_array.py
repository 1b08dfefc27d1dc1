"""JSON files with a long list of objects, such as a file of questions: read an object at a time, never all at once."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from msd_framework.data.rows.row import Row
from msd_framework.data.rows.rows import Block, RowFile, _chunks
from msd_framework.errors import DataError, did_you_mean
from msd_framework.reading import json_object, keys_are_once

OBJECTS = 1024  # how many are looked at together


class JsonArray(RowFile):
    """The objects of a list in a JSON file, in its order.

    The file holds one object, and the list is one of its values. An object that is no JSON ends the reading whatever
    ``on_error`` says, for nobody knows where the next one begins.
    """

    def __init__(self, file: Path, list_name: str):
        super().__init__(file)
        self.list_name, self.name = list_name, f"{self.file}:{list_name}"

    def _blocks(self) -> Iterator[Block]:
        text, keys = _Text(self.name, _chunks(self._descriptor)), list[str]()
        if text.follows(_BYTE_ORDER_MARK[0]):
            for byte in _BYTE_ORDER_MARK:
                text.take(byte)
        text.take("{")
        more = True
        while more:
            keys.append(str(text.value()))
            text.take(":")
            if keys[-1] in keys[:-1]:
                raise DataError(f"{self.file}: has the key {reprlib.repr(keys[-1])} twice, wanted it once")
            text.forget()
            if keys[-1] == self.list_name:
                yield from self._objects(text)
            else:
                value = text.value()
                if not keys_are_once(text.since_forgotten.decode("latin-1"), [[value]]):
                    raise DataError(f"{self.file}: has a key twice in {reprlib.repr(keys[-1])}, wanted it once")
            more = text.take(",}") == ","
        if self.list_name not in keys:
            hint = did_you_mean(self.list_name, keys)
            raise DataError(f"{self.file}: has no list {self.list_name!r}, only {', '.join(map(repr, keys))}.{hint}")

    def _objects(self, text: _Text) -> Iterator[Block]:
        text.take("[")
        number, more = 1, not text.follows("]")
        if not more:
            text.take("]")
        while more:
            text.forget()
            start, ends, values = text.place, list[int](), list[Any]()
            while more and len(ends) < OBJECTS:
                values.append(text.value(number + len(ends)))
                ends.append(text.place - start)
                more = text.take(",]") == ","
            raw = text.since_forgotten
            is_sure = set(map(type, values)) == {dict} and raw.isascii() and keys_are_once(raw[:-1].decode(), values)
            yield Block(start, np.array(ends), range(number, number + len(ends)), values if is_sure else None)
            number += len(ends)

    def _parse(self, raw: bytes, number: int) -> Row | None:
        return Row(json_object(raw.strip(b", \t\r\n"), f"{self.name}:{number}"), self.name, number)


class _Text:
    """A JSON file from its beginning on, of which only a part is in memory: a character a byte, so that places are bytes."""

    def __init__(self, name: str, chunks: Iterator[bytes]):
        self.name, self._chunks = name, chunks
        self._text, self._start, self._at = "", 0, 0

    @property
    def place(self) -> int:
        return self._start + self._at

    @property
    def since_forgotten(self) -> bytes:
        return self._text[: self._at].encode("latin-1")

    def forget(self) -> None:
        self._text, self._start, self._at = self._text[self._at :], self.place, 0

    def value(self, number: int | None = None) -> Any:
        """The value that comes next; its place in the list is for errors."""
        self._skip_white_space()
        while True:
            try:
                value, end = _DECODE(self._text, self._at)
                if end < len(self._text) or not self._read_on():
                    self._at = end
                    return value
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or not self._read_on():
                    place = self.name if number is None else f"{self.name}:{number}"
                    text = reprlib.repr(self._text[self._at :])
                    raise DataError(f"{place}: is not JSON ({error}) from byte {self.place + 1} on: {text}") from error

    def take(self, wanted: str) -> str:
        """The character that comes next, which must be one of some."""
        self._skip_white_space()
        found = self._text[self._at : self._at + 1]
        if not found or found not in wanted:
            got = repr(found) if found else "the end of the file"
            raise DataError(f"{self.name}: has {got} at byte {self.place + 1}, wanted {' or '.join(map(repr, wanted))}")
        self._at += 1
        return found

    def follows(self, character: str) -> bool:
        self._skip_white_space()
        return self._text.startswith(character, self._at)

    def _skip_white_space(self) -> None:
        while True:
            self._at = _WHITE_SPACE(self._text, self._at).end()
            if self._at < len(self._text) or not self._read_on():
                return

    def _read_on(self) -> bool:
        """Reads as much again as is in memory; False at the end of the file."""
        size = len(self._text)
        for chunk in self._chunks:
            self._text += chunk.decode("latin-1")
            if len(self._text) >= 2 * size:
                break
        return len(self._text) > size


_BYTE_ORDER_MARK = "\xef\xbb\xbf"
_DECODE = json.JSONDecoder().raw_decode
_WHITE_SPACE: Callable[[str, int], re.Match[str]] = re.compile(r"[ \t\r\n]*").match  # type: ignore[assignment]
