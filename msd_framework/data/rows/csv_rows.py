"""CSV files: a header, and a record a row."""

from __future__ import annotations

import csv
import io
import itertools
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from msd_framework.data.rows.row import Record, Row, is_whole
from msd_framework.data.rows.rows import Block, RowFile
from msd_framework.errors import DataError
from msd_framework.reading import not_utf8

MOST_LETTERS = 1 << 24  # of a value
ROWS = 1024  # how many are looked at together


class CsvFile(RowFile):
    """The rows of a CSV file that hold an example, in the file's order.

    The first row names the columns; one that has no name, as where lines end with a delimiter, cannot be asked for. A record is
    a text a column; it may be quoted, and then go over several lines. UTF-8; empty lines do not count. A row's number is that of
    its first line.

    Args:
        delimiter: what stands between two columns; if None, a comma, or the semicolon, tab or bar that the header has in place of
            any comma.
    """

    def __init__(self, file: Path, encoding: str | None = None, delimiter: str | None = None):
        super().__init__(file, encoding)
        self.delimiter, self.columns = delimiter or "", list[str]()

    def _blocks(self) -> Iterator[Block]:
        csv.field_size_limit(MOST_LETTERS)
        ends, num_doubtful = array("q", [0]), 0  # where each line ends, and how many there are up to the last that is not UTF-8

        def parts() -> Iterator[io.StringIO]:
            nonlocal num_doubtful
            for part, ends_in_part in self._whole_lines():
                text = part.decode("utf-8-sig" if len(ends) == 1 else "utf-8", "surrogateescape")
                ends.frombytes((ends[-1] + ends_in_part).astype(np.int64).tobytes())
                if not is_whole(text):
                    num_doubtful = len(ends) - 1
                yield io.StringIO(text, newline="\n")

        lines = itertools.chain.from_iterable(parts())
        first = next(lines, "")
        # what stands in the header in place of a comma
        self.delimiter = self.delimiter or ("," if "," in first else max(",;\t|", key=first.count))
        reader = csv.reader(itertools.chain([first], lines), delimiter=self.delimiter, strict=True)
        self.columns = self._header(reader)
        while True:
            before, numbers, row_ends, records = reader.line_num, list[int](), list[int](), list[Record]()
            start = ends[before]
            while len(numbers) < ROWS:
                number = reader.line_num + 1
                try:
                    values = next(reader, None)
                except csv.Error:  # the row is read again by itself, and named
                    values = []
                if values is None:
                    break
                numbers.append(number)
                row_ends.append(ends[reader.line_num] - start)
                if len(values) == len(self.columns):
                    records.append(dict(zip(self.columns, values)))
            if not numbers:
                return
            is_sure = len(records) == len(numbers) and num_doubtful <= before
            yield Block(start, np.array(row_ends), numbers, records if is_sure else None)

    def _header(self, reader: Iterator[list[str]]) -> list[str]:
        try:
            columns = list(map(str.strip, next(reader, [])))
        except csv.Error as error:
            raise DataError(f"{self.file}:1: is not CSV ({_reason(error)}), wanted the names of the columns") from error
        named = list(filter(None, columns))
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


def _reason(error: Exception) -> str:
    """What Python says of a row, in words that help."""
    text = str(error)
    if "new-line character" in text:
        return "its lines end with a carriage return alone, save the file with the line ends of Unix or Windows"
    if "field larger than" in text:
        return f"a value of more than {MOST_LETTERS:,} letters; is a quotation mark never closed?"
    return text
