"""Texts that come from data, names and other people's files, made harmless where they go: a terminal, a spreadsheet, a page."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from typing import Any, TextIO

# what a terminal obeys, and what turns the direction of the text around it; not tabs and new lines
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
# how a cell begins that a spreadsheet would run
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def visible(text: str) -> str:
    """A text for a terminal: what it would obey is shown by its number."""
    return CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def cell(value: Any) -> Any:
    """A value for a CSV file: a text that a spreadsheet would run gets an apostrophe in front; numbers are left alone.

    >>> cell("=1+2"), cell("-0.5"), cell(-0.5), cell("a-b")
    ("'=1+2", '-0.5', -0.5, 'a-b')
    """
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if value.startswith(FORMULA) and not _is_number(value) else visible(value)


def markdown(text: str) -> str:
    """A text for a page of Markdown, on one line: its own markup is shown, not followed."""
    shown = visible(text).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([|`*])", r"\\\1", shown).replace("](", "]\\(").replace("\n", " ").replace("\t", " ")


class CsvWriter:
    """Rows to an open CSV file, each text made harmless."""

    def __init__(self, file: TextIO):
        self._writer = csv.writer(file)

    def writerow(self, row: Iterable[Any]) -> None:
        self._writer.writerow(map(cell, row))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
