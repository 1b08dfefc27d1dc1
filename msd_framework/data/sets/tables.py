"""Data of a user's own, in a JSON-lines or CSV file a split: a YAML says which column is what, and no code is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from msd_framework.data.base import DATASETS, Example, RowKeys, check_opening
from msd_framework.data.files import DataFolder, plain_paths, plain_texts
from msd_framework.data.rows.row import Record, Row, RowBatch
from msd_framework.data.rows.rows import RowDataset
from msd_framework.data.sets.table_columns import columns_of
from msd_framework.data.sets.table_splits import SUFFIXES, OneFile, file_of, reader_of
from msd_framework.data.sets.table_targets import check_spelled, spelling, targets_of
from msd_framework.errors import DataError
from msd_framework.structures import DatasetInfo


@DATASETS.register("jsonl")
@DATASETS.register("csv")
class Table(RowDataset):
    r"""Data of your own: a file a split, or one file for all, whose columns are modalities and labels.

    A file is JSON lines (`.jsonl`: an object a line) or CSV with a header (`.csv`; `.tsv` with tabs), whichever of its two names
    this data set is called by; UTF-8 unless `encoding` says otherwise. A column of files holds paths that are relative to the
    root and never leave it. In place of a column there may be a pattern that names some, such as `images/{id}.jpg`. A row lacks a
    modality where its value is null, its key is absent, or the cell of a file is empty; an empty text is there.

    Args:
        split: which of the files to read.
        root: the folder of the data.
        files: the file of each split, relative to the root; `<split>.jsonl`, `.csv` or `.tsv` if left out.
        file: in place of `files`, the one file of all splits; `split_column` or `split_shares` says which row is of which.
        split_column: the column of `file` that says which split a row is of.
        split_values: the value of that column for each split, or a list of values; the names of the splits if left out.
        split_shares: the share of the rows of `file` that each split gets at random, rows of the same content together.
        split_seed: deals the rows out; the same file and seed give the same splits.
        stratify: whether each of those splits gets its share of each label, where rows have one label.
        group: a column whose equal values stay in one split, such as that of an image which several rows show.
        texts: the column of each modality that is a text, such as `{text: caption}`.
        images: the column of each modality that is an image file.
        features: the column of each modality that is a file of features.
        audio: the column of each modality that is a sound file.
        label: the column of the label. Several labels: a list, or a text with `separator`; soft targets: a mapping or a list.
        labels: a column a class in place of `label`: 0 or 1 for several labels, from 0 to 1 for soft targets.
        task: how many labels an example has, or scores.
        classes: the labels as they are written in the file, in the order of the classes; those of `classes_from` if left out.
        classes_from: the split whose labels are the classes, sorted, where they are not given.
        blind: splits whose rows may lack a label.
        id_column: the column of the ids, which must differ; the number of a row's line is its id if left out.
        keep: columns that are kept with the predictions.
        separator: what stands between labels in one text.
        delimiter: what stands between the columns of a CSV file; a comma, or what its header has in place of any, if left out.
        encoding: what the files are written in, by any name that Python knows, such as `cp1252`, `gbk` or `utf-16`.
        allow_roots: folders outside the root that links in it, or absolute paths, may lead to, such as those of a shared disk.
        max_examples: how many examples to read at most, the first of the file; all if left out.
        on_error: "raise" stops at the first row that cannot be read; "skip" leaves such rows out and counts them.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> _ = (root / "train.csv").write_text("name,caption,mood\n7,what a day,good\n8,oh no,bad\n")
    >>> options = {"root": str(root), "texts": {"text": "caption"}, "images": {"image": "img/{name}.png"}, "label": "mood"}
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
        task: Literal["single_label", "multi_label", "soft_target"] = "single_label",
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
        self.modalities, self.targets, self.one_file = columns_of(options), targets_of(options), OneFile.of(options)
        self.folder, self.id_column, self.keep = DataFolder(Path(root), allow_roots), id_column, keep or []
        self.columns: dict[str, bool] = {}  # of the inputs, and whether they are paths
        for modality in self.modalities.values():
            for key in modality.keys:
                self.columns[key] = modality.is_file or self.columns.get(key, False)
        self.columns_in_rows = set[str]()
        self.split, self.blind = split, blind or []
        self.named_splits = self.one_file if self.one_file is not None and self.one_file.column is not None else None
        limit = None if self.one_file else max_examples
        path = file_of(options, split)
        self.rows = reader_of(path, delimiter, encoding).open(id_column, self._check, on_error, limit, self._note)
        self.order = np.arange(len(self.rows))
        if self.one_file is not None:
            self.order = self.one_file.rows_of(split, str(path), self.rows.keys.contents)[:max_examples]
        for key in self.columns:
            if key not in self.columns_in_rows:
                raise self.rows[0].wrong(key, "a value in some row")

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        targets = targets_of(options)
        kinds = {name: column.kind for name, column in columns_of(options).items()}
        return DatasetInfo(kinds, len(targets.classes), targets.task, targets.classes)

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        try:
            file = file_of(options, split)
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
        rows, inputs = RowBatch([row.record], row.file, [row.number]), dict[str, Any]()
        for name, modality in self.modalities.items():
            (value,) = modality.inputs(rows)
            inputs[name] = self.folder.root / value if modality.is_file and value is not None else value
        name = str(row.number) if self.id_column is None else row.identifier(self.id_column)
        return Example(name, inputs, self._target(row), row.place, {key: spelling(row.record[key]) for key in self.keep})

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
        splits = rows.column(self.named_splits.column or "") if self.named_splits else []
        if None in splits or "" in splits or not self.targets.are_sure(rows):
            for row in rows:
                self._target(row)
        for key in self.keep:
            check_spelled(rows, key, may_be_empty=True)
        return self._contents(rows)

    def _target(self, row: Row) -> int | Sequence[float] | None:
        """A class, or a number a class; None where a row of a blind split has no label."""
        split = self.split if self.named_splits is None else self.named_splits.split_of(row)
        return None if split in self.blind and self.targets.are_missing(row) else self.targets.of(row)

    def _contents(self, rows: RowBatch) -> Iterable[Hashable]:
        """What a model sees of rows; all that a row holds if it lacks a modality: two posts without a photo may say the same."""
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
