"""CSV files: a header, and a record a row."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from msd_framework.data.rows.row import Record, Row, is_whole
from msd_framework.data.rows.rows import Block, RowFile
from msd_framework.errors import DataError
from msd_framework.reading import not_utf8

MOST_LETTERS = 1 << 24
"""How long a value may be."""

ROWS = 1024
"""How many rows are looked at together."""


class CsvFile(RowFile):
    r"""The rows of a CSV file that hold an example, in the file's order.

    The first row names the columns; one that has no name, as where lines end with a delimiter, cannot be asked for. A record is
    a text a column; it may be quoted, and then go over several lines. UTF-8; empty lines do not count. A row's number is that of
    its first line.

    Args:
        delimiter: what stands between two columns; if None, a comma, or what the header has in place of any comma: a semicolon,
            a tab or a bar.

    Attributes:
        columns: the names in the header.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "dev.csv"
    >>> _ = file.write_text('id,text\n7,"a, b"\n8,"two\nlines"\n')
    >>> rows = CsvFile(file).open("id", lambda rows: rows.texts("text"))
    >>> [row.record["text"] for row in rows], rows[1].number
    (['a, b', 'two\nlines'], 3)
    """

    def __init__(self, file: Path, encoding: str | None = None, delimiter: str | None = None):
        super().__init__(file, encoding)
        self.delimiter, self.columns = delimiter or "", list[str]()

    def _blocks(self) -> Iterator[Block]:
        csv.field_size_limit(MOST_LETTERS)
        lines = _Lines(self._whole_lines())
        first = next(lines, "")
        self.delimiter = self.delimiter or _delimiter(first)
        reader = csv.reader(itertools.chain([first], lines), delimiter=self.delimiter, strict=True)
        self.columns = self._header(reader)
        start = lines.end
        while True:
            numbers, ends, records = list[int](), list[int](), list[Record]()
            lines.raw.clear()
            while len(ends) < ROWS:
                number = lines.number + 1
                try:
                    values = next(reader, None)
                except csv.Error:  # the row is read again by itself, and named
                    values = []
                if values is None:
                    break
                numbers.append(number)
                ends.append(lines.end - start)
                if len(values) == len(self.columns):
                    records.append(dict(zip(self.columns, values)))
            if not ends:
                return
            raw = b"".join(lines.raw)
            beyond_doubt = len(records) == len(ends) and not lines.is_damaged
            yield Block(start, raw, np.array(ends), numbers, records if beyond_doubt else None)
            start, lines.is_damaged = lines.end, False

    def _header(self, reader: Iterator[list[str]]) -> list[str]:
        try:
            columns = [name.strip() for name in next(reader, [])]
        except csv.Error as error:
            raise DataError(f"{self.file}:1: is not CSV ({_reason(error)}), wanted the names of the columns") from error
        named = [name for name in columns if name]
        if not named or len(set(named)) < len(named) or not all(map(is_whole, named)):
            raise DataError(f"{self.file}:1: is {columns}, wanted the names of the columns, each another one, in UTF-8")
        return columns

    def _parse(self, raw: bytes, number: int) -> Row | None:
        place = f"{self.file}:{number}"
        if not raw or raw.isspace():
            return None
        try:
            # as lines that end with a line feed alone: then csv names a carriage return within one, and does not see two rows
            text = io.StringIO(raw.decode(), newline="\n")
            (values,) = csv.reader(text, delimiter=self.delimiter, strict=True)
        except UnicodeDecodeError as error:
            raise DataError(not_utf8(place, error, self.encoding is not None)) from error
        except csv.Error as error:
            raise DataError(f"{place}: is not CSV ({_reason(error)}), wanted a row of {len(self.columns)} values") from error
        if len(values) != len(self.columns):
            names = ", ".join(self.columns)
            raise DataError(f"{place}: has {len(values)} values, wanted {len(self.columns)}, one for each of {names}")
        return Row(dict(zip(self.columns, values)), self.file, number)


def _delimiter(header: str) -> str:
    """What stands between the columns of a header.

    >>> _delimiter('id;"a; b";text'), _delimiter("id,a;b"), _delimiter("text")
    (';', ',', ',')
    """
    return "," if "," in header else max(",;\t|", key=header.count)


def _reason(error: Exception) -> str:
    """What Python says of a row, in words that help."""
    text = str(error)
    if "new-line character" in text:
        return "its lines end with a carriage return alone, save the file with the line ends of Unix or Windows"
    if "field larger than" in text:
        return f"a value of more than {MOST_LETTERS:,} letters; is a quotation mark never closed?"
    return text


class _Lines(Iterator[str]):
    """The lines of a file, and how far it has been read.

    Args:
        parts: the file, in parts that end where a line does.

    Attributes:
        end: how many bytes have been read.
        number: how many lines have been read.
        raw: the lines themselves, until somebody clears them.
        is_damaged: whether a line was not UTF-8, until somebody says that it is not.
    """

    def __init__(self, parts: Iterator[bytes]):
        self._lines = (line for part in parts for line in io.BytesIO(part))
        self.end, self.number, self.raw, self.is_damaged = 0, 0, list[bytes](), False

    def __next__(self) -> str:
        raw = next(self._lines)
        self.raw.append(raw)
        self.end += len(raw)
        self.number += 1
        text = raw.decode("utf-8-sig" if self.number == 1 else "utf-8", "surrogateescape")
        self.is_damaged |= not is_whole(text)
        return text
