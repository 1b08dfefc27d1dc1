"""What is learned from a row of a table: one label, several, or a score a class."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from msd_framework.data.rows.row import Row, RowBatch, all_ids
from msd_framework.data.sets.table_splits import file_of, reader_of
from msd_framework.errors import DataError, did_you_mean
from msd_framework.reading import encoding_problem
from msd_framework.structures import Task

MOST_CLASSES = 10_000  # more different labels are taken for a column that holds none
_WHOLE = re.compile(r"-?\d{1,18}")


@dataclass(frozen=True)
class Targets:
    task: Task
    classes: tuple[str, ...]  # the labels as they are written
    column: str  # that of the label; empty if there is one a class
    separator: str  # what stands between labels in one text

    def are_missing(self, row: Row) -> bool:
        columns = (self.column,) if self.column else self.classes
        return all(row.record.get(column) in (None, "") for column in columns)

    def are_sure(self, rows: RowBatch) -> bool:
        """Whether each of many records has one label, and a known one."""
        if self.task != "single_label":
            return False
        values = rows.column(self.column)
        return set(map(type, values)) <= {str, int} and set(map(str, set(values))) <= set(self.classes)

    def of(self, row: Row) -> int | Sequence[float]:
        if not self.column:
            return [self._number(row, column) for column in self.classes]
        if self.task == "single_label":
            return self._class(row, _spelled(row, self.column))
        if self.task == "multi_label":
            chosen = {self._class(row, label) for label in _listed(row, self.column, self.separator)}
            return [float(c in chosen) for c in range(len(self.classes))]
        return self._scores(row)

    def _class(self, row: Row, label: str) -> int:
        if label in self.classes:
            return self.classes.index(label)
        hint = did_you_mean(label, self.classes)
        known = ", ".join(self.classes[:20]) + ", ..." * (len(self.classes) > 20)
        raise DataError(f"{row.place}: {self.column} is {label!r}, which is none of the classes {known}.{hint}")

    def _scores(self, row: Row) -> list[float]:
        given = row.record.get(self.column)
        if isinstance(given, dict):
            scores = {self._class(row, str(label)): score for label, score in given.items()}
            given = [scores.get(c, 0.0) for c in range(len(self.classes))]
        if not isinstance(given, list) or len(given) != len(self.classes) or not all(map(_is_share, given)):
            raise row.wrong(self.column, f"a score from 0 to 1 for each of {len(self.classes)} classes, or a mapping of them")
        return list(map(float, given))

    def _number(self, row: Row, column: str) -> float:
        value = row.record.get(column)
        try:
            number = float(value) if isinstance(value, (str, int, float)) else math.nan
        except ValueError:
            number = math.nan
        if isinstance(value, str) and re.fullmatch(r"-?\d+,\d+", value):
            raise row.wrong(column, f"a number with a point, {value.replace(',', '.')}")
        if not _is_share(number) or (self.task == "multi_label" and number not in (0, 1)):
            raise row.wrong(column, "0 or 1" if self.task == "multi_label" else "a number from 0 to 1")
        return number


def targets_of(options: Mapping[str, Any]) -> Targets:
    """What a table's options say of its targets; reads the classes of a file where they are not given."""
    task, column, columns = options.get("task", "single_label"), options.get("label"), options.get("labels")
    separator, delimiter = options.get("separator", "|"), options.get("delimiter")
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise ValueError(f"delimiter is {delimiter!r}, wanted one character, such as ';' or a tab")
    encoding = options.get("encoding", "utf-8")
    if problem := encoding_problem(encoding):
        raise ValueError(problem)
    if (column is None) == (columns is None):
        raise ValueError("wanted one of label (a column that holds the label) and labels (a column a class)")
    if columns is not None and (task == "single_label" or options.get("classes") is not None):
        raise ValueError("labels are a column a class, for task multi_label or soft_target, and name the classes themselves")
    names = columns if columns is not None else options.get("classes")
    if names is None:
        file = file_of(options, None if options.get("file") else options.get("classes_from", "train"))
        if not file.is_file():
            raise DataError(f"{file} is missing, so the classes cannot be read from it; give data.dataset.classes, or its root")
        status = file.stat()
        found = _read_classes(file, status.st_size, status.st_mtime_ns, column or "", task, separator, delimiter, encoding)
        return Targets(task, found, column or "", separator)
    classes = tuple(map(str, names))
    fewest = 2 if task == "single_label" else 1
    if not fewest <= len(set(classes)) == len(classes):
        raise ValueError(f"the classes are {', '.join(classes) or 'none'}; wanted at least {fewest}, each another one")
    return Targets(task, classes, column or "", separator)


@lru_cache(maxsize=8)
def _read_classes(
    file: Path, size: int, changed: int, column: str, task: Task, separator: str, delimiter: str | None, encoding: str
) -> tuple[str, ...]:
    """The different labels of a file, numbers in their order, texts by their letters."""
    found: set[str] = set()

    def look(rows: RowBatch) -> None:
        names: Iterable[str]
        if task == "single_label":
            names = map(spelling, check_spelled(rows, column))
        elif task == "multi_label":
            names = _listed(rows.one(), column, separator)
        elif isinstance(given := rows.one().record.get(column), dict):
            names = map(str, given)
        else:
            raise rows.one().wrong(column, "a mapping of class to score; give the classes for a list of scores")
        if len(found) <= MOST_CLASSES:
            found.update(names)

    # a row that is wrong is refused by the data set, which opens the file for its examples
    reader_of(file, delimiter, encoding).open(None, look, "skip")
    if len(found) > MOST_CLASSES:
        text = f"{column} has over {MOST_CLASSES:,} different values, which are no labels; give data.dataset.classes"
        raise DataError(f"{file}: {text}")
    if len(found) < 2:
        raise DataError(f"{file}: {column} has the labels {sorted(found)}, wanted at least two different ones")
    are_numbers = all(map(_WHOLE.fullmatch, found))
    return tuple(sorted(found, key=lambda name: (int(name) if are_numbers else 0, name)))


def check_spelled(rows: RowBatch, key: str, may_be_empty: bool = False) -> list[Any]:
    """The values of a column, each of which can be written as a text: a text, a whole number, or true and false."""
    values = rows.column(key)
    if not all_ids([value for value in values if value != ""] if may_be_empty else values):
        for row in rows:
            if not may_be_empty or row.record.get(key) != "":
                _spelled(row, key)
    return values


def spelling(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _spelled(row: Row, key: str) -> str:
    value = row.record.get(key)
    if isinstance(value, str) and value:
        return row.text(key)
    if isinstance(value, int):
        return spelling(value)
    raise row.wrong(key, "a text, a whole number, true or false")


def _listed(row: Row, key: str, separator: str) -> list[str]:
    """The labels of a row: those of a list, or of a text with something between them."""
    value = row.record.get(key)
    if isinstance(value, str):
        parts = map(str.strip, row.text(key).split(separator))
        return list(filter(None, parts))
    if isinstance(value, list) and all(isinstance(label, (str, int)) and label != "" for label in value):
        return list(map(spelling, value))
    raise row.wrong(key, f"a list of labels, or a text with {separator!r} between them")


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
