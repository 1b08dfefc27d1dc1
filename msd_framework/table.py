"""A table: the same rows on the screen, in a page of Markdown and in a file of comma-separated values."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import table as rich
from rich.box import SIMPLE_HEAD
from rich.text import Text

from msd_framework.escaping import CsvWriter, markdown, visible
from msd_framework.files import draft

NUMBER = re.compile(r"[-+]?(\d|inf|nan)|-$|undefined$|$")  # matches a cell of a column of numbers, an empty one too


@dataclass(frozen=True)
class Table:
    r"""Rows of texts under the names of their columns.

    >>> table = Table(["method", "accuracy"], [["ce", "81.0"], ["kd", "83.4"]])
    >>> print(*table.markdown(), sep="\n")
    | method | accuracy |
    | --- | ---: |
    | ce | 81.0 |
    | kd | 83.4 |
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str | None = None  # stands above it on the screen
    caption: str | None = None  # stands below it on the screen
    bold: Collection[tuple[int, int]] = ()  # cells, by row and column, that stand out on the screen

    @property
    def is_number(self) -> list[bool]:
        """Which columns hold numbers; the first one names its row."""
        are_numbers = [False]
        for i in range(1, len(self.columns)):
            are_numbers.append(all(NUMBER.match(row[i]) for row in self.rows))
        return are_numbers

    def markdown(self) -> list[str]:
        rule = ["---:" if is_number else "---" for is_number in self.is_number]
        lines = [" | ".join(map(markdown, row)) for row in (self.columns, *self.rows)]
        lines.insert(1, " | ".join(rule))
        return [f"| {line} |" for line in lines]

    def __rich__(self) -> rich.Table:
        table = rich.Table(title=self.title, caption=self.caption, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.title_justify = table.caption_justify = "left"
        for name, is_number in zip(self.columns, self.is_number):
            table.add_column(name, justify="right" if is_number else "left", overflow="fold", vertical="bottom")
        for i, row in enumerate(self.rows):
            cells: list[str | Text] = list(row)
            for j, text in enumerate(row):
                if (i, j) in self.bold:
                    cells[j] = Text(visible(text), "bold")
            table.add_row(*cells)
        return table


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Rows as a file of comma-separated values, whole or not at all; they may be more than memory holds."""
    with draft(path) as file:
        writer = CsvWriter(file)
        writer.writerow(columns)
        for row in rows:
            writer.writerow(row)
