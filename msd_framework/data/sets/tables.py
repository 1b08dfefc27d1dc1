"""Data of a user's own, in a JSON-lines or CSV file a split: a YAML says which column is what, and no code is needed."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from msd_framework.data.base import DATASETS, Example, RowKeys, check_opening
from msd_framework.data.files import DataFolder, plain_paths, plain_texts
from msd_framework.data.rows.csv_rows import CsvFile
from msd_framework.data.rows.json_lines import JsonLines
from msd_framework.data.rows.row import Record, Row, RowBatch, all_ids
from msd_framework.data.rows.rows import RowDataset, RowFile
from msd_framework.data.sets.one_file import OneFile
from msd_framework.errors import DataError, did_you_mean
from msd_framework.reading import encoding_problem
from msd_framework.structures import DatasetInfo, ModalityKind, Task

SUFFIXES = (".jsonl", ".csv", ".tsv")
MOST_CLASSES = 10_000
"""More different labels than this are taken for a column that holds no label."""

Labels = Literal["single_label", "multi_label", "soft_target"]


@DATASETS.register("jsonl")
@DATASETS.register("csv")
class Table(RowDataset):
    r"""Data of your own: a file a split, or one file for all, whose columns are modalities and labels.

    A file is JSON lines (`.jsonl`: an object a line) or CSV with a header (`.csv`; `.tsv` with tabs), whichever of its two names
    this data set is called by; UTF-8, with a byte order mark or without, unless `encoding` says otherwise. A column of files holds
    paths that are relative to the root and never leave it. In place of a column there may be a pattern that names some, such as
    `images/{id}.jpg`. A row lacks a modality where its value is null, where the key is absent, or where the cell of a file is
    empty; an empty text is there.

    Args:
        split: which of the files to read.
        root: the folder of the data.
        files: the file of each split, relative to the root; `<split>.jsonl`, `.csv` or `.tsv` if left out.
        file: in place of `files`, the one file that holds the rows of all splits; `split_column` or `split_shares` says which.
        split_column: the column of `file` that says which split a row is of.
        split_values: the value of that column for each split, or a list of values, such as `{train: [0, 1, 2], test: 3}`; the
            names of the splits if left out.
        split_shares: the share of the rows of `file` that each split gets at random, such as `{train: 0.8, validation: 0.1,
            test: 0.1}`. Rows of the same content stay together.
        split_seed: deals the rows out; the same file and seed give the same splits.
        stratify: whether each of those splits gets its share of each label, where rows have one label.
        group: a column whose equal values stay in one split, such as that of an image which several rows show.
        texts: the column of each modality that is a text, such as `{text: caption}`.
        images: the column of each modality that is an image file.
        features: the column of each modality that is a file of features.
        audio: the column of each modality that is a sound file.
        label: the column of the label. For several labels: a list of them, or a text with `separator` between them; for soft
            targets: a mapping of class to score, or a list of a score a class.
        labels: a column a class in place of `label`: 0 or 1 for several labels, from 0 to 1 for soft targets.
        task: how many labels an example has, or scores.
        classes: the labels as they are written in the file, in the order of the classes; those of `classes_from` if left out.
        classes_from: the split whose labels are the classes, sorted, where they are not given.
        blind: splits whose rows may lack a label.
        id_column: the column of the ids, which must differ; the number of a row's line is its id if left out.
        keep: columns that are kept with the predictions.
        separator: what stands between labels in one text.
        delimiter: what stands between the columns of a CSV file; if left out, a comma, or the semicolon, tab or bar that its
            header has in place of any comma.
        encoding: what the files are written in, by any name that Python knows, such as `cp1252`, `gbk` or `utf-16`.
        allow_roots: folders outside the root that links in it, or absolute paths, may lead to, such as those of a shared disk.
        max_examples: how many examples to read at most, the first of the file; all if left out.
        on_error: "raise" stops at the first row that cannot be read; "skip" leaves such rows out and counts them.

    Attributes:
        skipped: a sentence for each row that was left out.

    Raises:
        DataError: if the file is missing, or a row of it cannot be read.
        ValueError: if the options do not go together.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> _ = (root / "train.csv").write_text("name,caption,mood\n7,what a day,good\n8,oh no,bad\n")
    >>> options = {"root": str(root), "texts": {"text": "caption"}, "images": {"image": "img/{name}.png"}, "label": "mood"}
    >>> Table.describe(options).class_names
    ('bad', 'good')
    >>> example = Table("train", **options)[0]
    >>> example.inputs["text"], example.inputs["image"].name, example.target
    ('what a day', '7.png', 1)
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")

    def __init__(
        self,
        split: str,
        root: str = "data",
        files: dict[str, str] | None = None,
        file: str | None = None,
        split_column: str | None = None,
        split_values: dict[str, Any] | None = None,
        split_shares: dict[str, float] | None = None,
        split_seed: int = 0,
        stratify: bool = True,
        group: str | None = None,
        texts: dict[str, str] | None = None,
        images: dict[str, str] | None = None,
        features: dict[str, str] | None = None,
        audio: dict[str, str] | None = None,
        label: str | None = None,
        labels: list[str] | None = None,
        task: Labels = "single_label",
        classes: list[str | int] | None = None,
        classes_from: str = "train",
        blind: list[str] | None = None,
        id_column: str | None = None,
        keep: list[str] | None = None,
        separator: str = "|",
        delimiter: str | None = None,
        encoding: str = "utf-8",
        allow_roots: list[str] | None = None,
        max_examples: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ):
        # as `check` and `describe` get them from a YAML
        options = {name: value for name, value in locals().items() if name not in ("self", "split")}
        check_opening(type(self), options, split, max_examples)
        self.modalities, self.targets, self.one_file = _modalities(options), _targets(options), _one_file(options)
        self.folder, self.id_column, self.keep = DataFolder(Path(root), allow_roots), id_column, keep or []
        self.columns: dict[str, bool] = {}  # of the inputs, and whether they are paths
        for modality in self.modalities.values():
            for key in modality.keys:
                self.columns[key] = modality.is_file or self.columns.get(key, False)
        self.columns_in_rows = set[str]()
        self.split, self.blind = split, blind or []
        self.named_splits = self.one_file if self.one_file is not None and self.one_file.column is not None else None
        limit = None if self.one_file else max_examples
        path = _file(options, split)
        self.rows = _rows(path, delimiter, encoding).open(id_column, self._check, on_error, limit, self._note)
        self.order = np.arange(len(self.rows))
        if self.one_file is not None:
            self.order = self.one_file.rows_of(split, str(path), self.rows.keys.contents)[:max_examples]
        for key in self.columns:
            if key not in self.columns_in_rows:
                raise self.rows[0].wrong(key, "a value in some row")

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        """Reads the labels of a split once, where the classes are not given."""
        targets = _targets(options)
        kinds = {name: column.kind for name, column in _modalities(options).items()}
        return DatasetInfo(kinds, len(targets.classes), targets.task, targets.classes)

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        try:
            file = _file(options, split)
        except ValueError as error:
            return [f"{error}."]
        if file.is_file():
            return []
        beside = sorted(f.name for f in file.parent.glob("*") if f.suffix in SUFFIXES)[:10]
        there = f" It holds {', '.join(beside)}: name the file of each split in data.dataset.files." if beside else ""
        return [f"{file} is missing, wanted the rows of split {split!r} as {', '.join(SUFFIXES)}.{there}"]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[int(self.order[index])]
        inputs: dict[str, Any] = {}
        for name, modality in self.modalities.items():
            value = modality.inputs(RowBatch([row.record], row.file, [row.number]))[0]
            inputs[name] = self.folder.root / value if modality.is_file and value is not None else value
        target = self._target(row)
        name = str(row.number) if self.id_column is None else row.identifier(self.id_column)
        return Example(name, inputs, target, row.place, {key: _spelling(row.record[key]) for key in self.keep})

    @property
    def row_keys(self) -> RowKeys:
        ids, contents = self.rows.keys
        return RowKeys(ids if self.id_column is None else ids[self.order], contents[self.order])

    @property
    def fingerprint(self) -> str:
        chosen = "" if self.one_file is None else f" {hashlib.sha256(self.order.tobytes()).hexdigest()}"
        return f"{self.rows.fingerprint} {[(name, column.pattern) for name, column in self.modalities.items()]}{chosen}"

    def _check(self, rows: RowBatch) -> Iterable[Hashable]:
        inputs = [modality.check(rows, self.folder) for modality in self.modalities.values()]
        if all(None in values for values in inputs) and any(row.count(None) == len(row) for row in zip(*inputs)):
            raise DataError(f"{rows.one().place}: has no {' and no '.join(self.modalities)}, so there is nothing to look at")
        self._check_targets(rows)
        for key in self.keep:
            _check_spelled(rows, key, may_be_empty=True)
        return self._contents(rows)

    def _check_targets(self, rows: RowBatch) -> None:
        column = self.named_splits and self.named_splits.column
        splits = rows.column(column) if column else []
        if None in splits or "" in splits or not self.targets.are_sure(rows):
            for row in rows:
                self._target(row)

    def _target(self, row: Row) -> int | Sequence[float] | None:
        """A class, or a number a class; None where a row of a blind split has no label."""
        split = self.split if self.named_splits is None else self.named_splits.split_of(row)
        return None if split in self.blind and self.targets.are_missing(row) else self.targets.of(row)

    def _contents(self, rows: RowBatch) -> Iterable[Hashable]:
        """What a model sees of rows.

        Of a row that lacks a modality it is all that it holds: two posts without a photo may well say the same.
        """
        columns = {key: rows.column(key) for key in self.columns}
        lack_none = not any(None in values or "" in values for values in columns.values())
        contents = list(zip(*(self._plain(key, values) for key, values in columns.items())))
        if lack_none:
            return contents
        modalities = self.modalities.values()
        for i, record in enumerate(rows.records):
            if any(modality.is_lacking(record) for modality in modalities):
                contents[i] = tuple(sorted((key, *self._plain(key, [value])) for key, value in record.items()))
        return contents

    def _plain(self, key: str, values: Sequence[Any]) -> Sequence[str]:
        """The values of a column, a number like a text of its digits, as a pattern has it."""
        texts = values if set(map(type, values)) == {str} else list(map(str, values))
        return plain_paths(texts) if self.columns.get(key) else plain_texts(texts)

    def _note(self, records: Sequence[Record]) -> None:
        if not self.columns_in_rows.issuperset(self.columns):
            self.columns_in_rows.update(*records)
        if self.one_file is not None:
            self.one_file.add(records)


@dataclass(frozen=True)
class _Modality:
    """Where the input of a modality stands in a row.

    Args:
        pattern: the column, or a text with columns in braces.
        kind: what the modality is.
    """

    pattern: str
    kind: ModalityKind

    @property
    def is_file(self) -> bool:
        return self.kind != "tokens"

    @property
    def is_pattern(self) -> bool:
        return "{" in self.pattern

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that it is made of."""
        return tuple(_BRACES.findall(self.pattern)) or (self.pattern,)

    def is_lacking(self, record: Record) -> bool:
        nothing = ("", None) if self.is_file or self.is_pattern else (None,)
        return any(record.get(key) in nothing for key in self.keys)

    def inputs(self, rows: RowBatch) -> list[Any]:
        """The input of each row, None where the row lacks it. Slashes of Windows' paths are turned."""
        if self.is_pattern:
            inputs = [None if self.is_lacking(r) else self._filled(r) for r in rows.records]
        else:
            inputs = rows.column(self.pattern)
        return [(value or "").replace("\\", "/") or None for value in inputs] if self.is_file else inputs

    def _filled(self, record: Record) -> str:
        return _BRACES.sub(lambda found: str(record[found[1]]), self.pattern)

    def check(self, rows: RowBatch, folder: DataFolder) -> list[str | None]:
        """The inputs of rows.

        Raises:
            DataError: if one is no text, or a path that leaves the folder.
        """
        there = rows
        if any(None in rows.column(key) or "" in rows.column(key) for key in self.keys):
            having = [row for row in rows if not self.is_lacking(row.record)]
            there = RowBatch([row.record for row in having], rows.file, [row.number for row in having])
        for key in self.keys:
            there.ids(key) if self.is_pattern else there.texts(key)
        inputs = self.inputs(rows)
        if self.is_file:
            there.paths(folder, inputs if there is rows else self.inputs(there))
        return inputs


@dataclass(frozen=True)
class _Targets:
    """What is learned from a row.

    Args:
        task: how many labels there are.
        classes: the labels as they are written.
        column: the column of the label; empty if there is one a class.
        separator: what stands between labels in one text.
    """

    task: Task
    classes: tuple[str, ...]
    column: str
    separator: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,) if self.column else self.classes

    def are_missing(self, row: Row) -> bool:
        return all(row.record.get(column) in (None, "") for column in self.columns)

    def are_sure(self, rows: RowBatch) -> bool:
        """Whether each of many records has one label, and a known one."""
        if self.task != "single_label":
            return False
        values = rows.column(self.column)
        return set(map(type, values)) <= {str, int} and set(map(str, set(values))) <= set(self.classes)

    def of(self, row: Row) -> int | Sequence[float]:
        """A class, or a number a class.

        Raises:
            DataError: if it is none.
        """
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
        return [float(score) for score in given]

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


_KINDS: dict[str, ModalityKind] = {"texts": "tokens", "images": "pixels", "features": "features", "audio": "waveform"}
_BRACES = re.compile(r"\{([^{}]+)\}")


def _modalities(options: Mapping[str, Any]) -> dict[str, _Modality]:
    """The modalities by name.

    Raises:
        ValueError: if there is none, or two have one name.
    """
    found: dict[str, _Modality] = {}
    for option, kind in _KINDS.items():
        for name, pattern in (options.get(option) or {}).items():
            if name in found:
                raise ValueError(f"{name!r} is a modality of two kinds, one of them in {option}; give each modality another name")
            found[name] = _Modality(pattern, kind)
    if not found:
        raise ValueError(f"no column is a modality; name some in {', '.join(_KINDS)}, such as texts: {{text: caption}}")
    return dict(sorted(found.items()))


def _targets(options: Mapping[str, Any]) -> _Targets:
    """What is learned.

    Raises:
        ValueError: if the options do not go together.
        DataError: if the classes are not given and cannot be read.
    """
    task, column, columns = options.get("task", "single_label"), options.get("label"), options.get("labels")
    separator = options.get("separator", "|")
    delimiter = options.get("delimiter")
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
        file = _file(options, None if options.get("file") else options.get("classes_from", "train"))
        if not file.is_file():
            raise DataError(f"{file} is missing, so the classes cannot be read from it; give data.dataset.classes, or its root")
        status = file.stat()
        found = _read_classes(file, status.st_size, status.st_mtime_ns, column or "", task, separator, delimiter, encoding)
        return _Targets(task, found, column or "", separator)
    classes = tuple(str(name) for name in names)
    fewest = 2 if task == "single_label" else 1
    if not fewest <= len(set(classes)) == len(classes):
        raise ValueError(f"the classes are {', '.join(classes) or 'none'}; wanted at least {fewest}, each another one")
    return _Targets(task, classes, column or "", separator)


@lru_cache(maxsize=8)
def _read_classes(
    file: Path, size: int, changed: int, column: str, task: Task, separator: str, delimiter: str | None, encoding: str
) -> tuple[str, ...]:
    """The different labels of a file, numbers in their order, texts by their letters."""
    found: set[str] = set()

    def add(names: Iterable[str]) -> None:
        if len(found) <= MOST_CLASSES:
            found.update(names)

    def look(rows: RowBatch) -> None:
        row = rows.one()
        if task == "multi_label":
            add(_listed(row, column, separator))
        elif isinstance(given := row.record.get(column), dict):
            add(map(str, given))
        else:
            raise row.wrong(column, "a mapping of class to score; give the classes for a list of scores")

    # a row that is wrong is refused by the data set, which opens the file for its examples
    rows = _rows(file, delimiter, encoding)
    if task == "single_label":
        rows.open(None, lambda rows: add(map(_spelling, _check_spelled(rows, column))), "skip")
    else:
        rows.open(None, look, "skip")
    if len(found) > MOST_CLASSES:
        raise DataError(
            f"{file}: {column} has over {MOST_CLASSES:,} different values, which are no labels; give data.dataset.classes"
        )
    if len(found) < 2:
        raise DataError(f"{file}: {column} has the labels {sorted(found)}, wanted at least two different ones")
    return tuple(sorted(found, key=(lambda x: (int(x), x)) if all(map(_WHOLE.fullmatch, found)) else (lambda x: (0, x))))


def _rows(file: Path, delimiter: str | None, encoding: str) -> RowFile:
    if file.suffix == ".jsonl":
        return JsonLines(file, encoding)
    return CsvFile(file, encoding, delimiter or ("\t" if file.suffix == ".tsv" else None))


def _one_file(options: Mapping[str, Any]) -> OneFile | None:
    """Which rows of one file are of a split, where all splits are in one.

    Raises:
        ValueError: if the options do not go together.
    """
    given = [name for name in ("split_column", "split_values", "split_shares", "group") if options.get(name) is not None]
    if options.get("file") is None:
        if given:
            raise ValueError(f"{given[0]} is about the rows of one file, which is not given; name it in file")
        return None
    if options.get("files"):
        raise ValueError("wanted files (a file a split) or file (one for all), got both")
    if options.get("blind") and options.get("split_column") is None:
        raise ValueError("rows without a label cannot be dealt out; give split_column in place of split_shares")
    is_stratified = options.get("stratify", True) and options.get("task", "single_label") == "single_label"
    label, seed = options.get("label") if is_stratified else None, options.get("split_seed", 0)
    names = ("split_column", "split_values", "split_shares")
    column, values, shares = (options.get(name) for name in names)
    return OneFile(column, values, shares, seed, label, options.get("group"))


def _file(options: Mapping[str, Any], split: str | None) -> Path:
    """The file of a split, the first of its possible names if it is not said and none is there.

    Raises:
        ValueError: if the split has none, or one of another format.
    """
    root, files = Path(str(options.get("root", "data"))), options.get("files")
    one_file = _one_file(options)
    if one_file is not None:
        known = one_file.splits
        if split is not None and known is not None and split not in known:
            raise ValueError(f"there is no split {split!r}.{did_you_mean(split, known)} Its splits: {', '.join(known)}")
        return _of_known_format(root / str(options["file"]))
    if not files:
        return next((f for s in SUFFIXES if (f := root / f"{split}{s}").is_file()), root / f"{split}{SUFFIXES[0]}")
    if split is None or split not in files:
        raise ValueError(f"files has no split {split!r}.{did_you_mean(str(split), files)} Its splits: {', '.join(files)}")
    return _of_known_format(root / str(files[split]))


def _of_known_format(file: Path) -> Path:
    if file.suffix not in SUFFIXES:
        raise ValueError(f"{file} has the suffix {file.suffix!r}, wanted one of {', '.join(SUFFIXES)}")
    return file


def _spelled(row: Row, key: str) -> str:
    """A value as a text: a text, a whole number, or true and false."""
    value = row.record.get(key)
    if isinstance(value, str) and value:
        return row.text(key)
    if isinstance(value, int):
        return _spelling(value)
    raise row.wrong(key, "a text, a whole number, true or false")


def _check_spelled(rows: RowBatch, key: str, may_be_empty: bool = False) -> list[Any]:
    """The values of a column, each of which is written as a text.

    Raises:
        DataError: if one is none.
    """
    values = rows.column(key)
    if not all_ids([value for value in values if value != ""] if may_be_empty else values):
        for row in rows:
            if not may_be_empty or row.record.get(key) != "":
                _spelled(row, key)
    return values


def _spelling(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _listed(row: Row, key: str, separator: str) -> list[str]:
    """The labels of a row: those of a list, or of a text with something between them."""
    value = row.record.get(key)
    if isinstance(value, str):
        return [label for part in row.text(key).split(separator) if (label := part.strip())]
    if isinstance(value, list) and all(isinstance(v, (str, int)) and v != "" for v in value):
        return [str(v).lower() if isinstance(v, bool) else str(v) for v in value]
    raise row.wrong(key, f"a list of labels, or a text with {separator!r} between them")


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


_WHOLE = re.compile(r"-?\d{1,18}")
