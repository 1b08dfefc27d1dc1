"""JSON-lines files: one object a line."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

from msd_framework.data.rows.row import Record, Row
from msd_framework.data.rows.rows import Block, RowFile
from msd_framework.reading import json_object, keys_are_once


class JsonLines(RowFile):
    """The lines of a JSON-lines file that hold an example, each one object in UTF-8; empty lines do not count."""

    def _blocks(self) -> Iterator[Block]:
        start, number = 0, 1
        for raw, ends in self._whole_lines():
            yield Block(start, ends, range(number, number + len(ends)), _objects(raw, len(ends)))
            start, number = start + len(raw), number + len(ends)

    def _parse(self, raw: bytes, number: int) -> Row | None:
        if not raw or raw.isspace():
            return None
        return Row(json_object(raw, f"{self.name}:{number}", "one object a line", self.encoding is not None), self.name, number)


def _objects(raw: bytes, count: int) -> list[Record] | None:
    """The objects that as many lines hold, None unless each of them holds just one, no key twice.

    The lines are read as one list, in which a word that nobody knows beforehand stands for each end of a line: if all of these
    are in their places, none of them lies within a value, and just one value lies between two.
    """
    try:
        text = raw.removesuffix(b"\n").replace(b"\n", f',"{_END_OF_LINE}",'.encode()).decode()
        items = json.loads(f"[{text}]")
    except (ValueError, RecursionError):
        return None
    objects = items[::2]
    if items[1::2].count(_END_OF_LINE) != count - 1 or len(objects) != count or set(map(type, objects)) != {dict}:
        return None
    return objects if keys_are_once(text, objects) else None


_END_OF_LINE = secrets.token_hex(8)
