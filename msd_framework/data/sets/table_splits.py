"""The splits of a table: a file each, or one file, of which a column says whose a row is, or chance, alike in the labels."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd_framework.data.rows.csv_rows import CsvFile
from msd_framework.data.rows.json_lines import JsonLines
from msd_framework.data.rows.row import Record, Row
from msd_framework.data.rows.rows import RowFile
from msd_framework.errors import DataError, did_you_mean

SUFFIXES = (".jsonl", ".csv", ".tsv")


def file_of(options: Mapping[str, Any], split: str | None) -> Path:
    """The file of a split, the first of its possible names if it is not said and none is there."""
    root, files = Path(str(options.get("root", "data"))), options.get("files")
    one_file = OneFile.of(options)
    if one_file is not None:
        known = one_file.splits
        if split is not None and known is not None and split not in known:
            raise ValueError(f"there is no split {split!r}.{did_you_mean(split, known)} Its splits: {', '.join(known)}")
        file = root / str(options["file"])
    elif not files:
        return next((f for s in SUFFIXES if (f := root / f"{split}{s}").is_file()), root / f"{split}{SUFFIXES[0]}")
    elif split is None or split not in files:
        raise ValueError(f"files has no split {split!r}.{did_you_mean(str(split), files)} Its splits: {', '.join(files)}")
    else:
        file = root / str(files[split])
    if file.suffix not in SUFFIXES:
        raise ValueError(f"{file} has the suffix {file.suffix!r}, wanted one of {', '.join(SUFFIXES)}")
    return file


def reader_of(file: Path, delimiter: str | None, encoding: str) -> RowFile:
    if file.suffix == ".jsonl":
        return JsonLines(file, encoding)
    return CsvFile(file, encoding, delimiter or ("\t" if file.suffix == ".tsv" else None))


class OneFile:
    """Which rows of a file are of a split: a column says it, or shares are dealt out. It is shown each row that was taken."""

    def __init__(
        self,
        column: str | None,
        values: Mapping[str, Any] | None,
        shares: Mapping[str, float] | None,
        seed: int,
        label: str | None,
        group: str | None,
    ):
        if (column is None) == (shares is None):
            raise ValueError("of one file, either split_column (a column that names the split) or split_shares is wanted")
        if values is not None and column is None:
            raise ValueError("split_values are values of split_column, which is not given")
        if shares is not None and (min(shares.values(), default=0) <= 0 or abs(sum(shares.values()) - 1) > 1e-6):
            raise ValueError(f"split_shares are {dict(shares)}, wanted a positive share for each split, 1 in all")
        if seed < 0:
            raise ValueError(f"split_seed is {seed}, wanted 0 or more")
        self.column, self.shares, self.seed, self.label, self.group = column, shares, seed, label, group
        self.values = None if values is None else {name: _listed(value) for name, value in values.items()}
        self.codes = {name: _Codes() for name in (column, label if shares else None, group) if name is not None}

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> OneFile | None:
        """What a table's options say of it; None where each split has a file."""
        names = ("split_column", "split_values", "split_shares", "group")
        column, values, shares, group = map(options.get, names)
        if options.get("file") is None:
            for name in names:
                if options.get(name) is not None:
                    raise ValueError(f"{name} is about the rows of one file, which is not given; name it in file")
            return None
        if options.get("files"):
            raise ValueError("wanted files (a file a split) or file (one for all), got both")
        if options.get("blind") and column is None:
            raise ValueError("rows without a label cannot be dealt out; give split_column in place of split_shares")
        is_stratified = options.get("stratify", True) and options.get("task", "single_label") == "single_label"
        label = options.get("label") if is_stratified else None
        return cls(column, values, shares, options.get("split_seed", 0), label, group)

    @property
    def splits(self) -> tuple[str, ...] | None:
        """The names of the splits; None where they are the column's values."""
        known = self.shares or self.values
        return None if known is None else tuple(known)

    def split_of(self, row: Row) -> str:
        """What a row says of its split; empty where no split has it."""
        assert self.column is not None
        value = row.record.get(self.column)
        if value is None or str(value) == "":
            raise row.wrong(self.column, "the split that the row is of")
        return str(value) if self.values is None else next((n for n, v in self.values.items() if str(value) in v), "")

    def add(self, records: Sequence[Record]) -> None:
        for name, codes in self.codes.items():
            for record in records:
                codes.of_rows.append(codes.numbers.setdefault(str(record.get(name)), len(codes.numbers)))

    def rows_of(self, split: str, file: str, contents: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of a split's rows among those that were taken.

        Args:
            contents: a number for each row that was taken, the same for rows of the same content, which stay in one split.
        """
        if self.shares is not None:
            return self._dealt(split, file, contents)
        assert self.column is not None
        codes = self.codes[self.column]
        wanted = [split] if self.values is None else self.values[split]
        chosen = np.isin(np.array(codes.of_rows), [codes.numbers[value] for value in wanted if value in codes.numbers])
        if not chosen.any():
            known = list(codes.numbers)
            names = ", ".join(map(repr, known[:10])) + ", ..." * (len(known) > 10)
            missed = " or ".join(map(repr, wanted))
            text = f"{file}: no row is of split {split!r}: {self.column} is never {missed}, only {names}"
            raise DataError(f"{text}.{did_you_mean(wanted[0], known)} Name the values of each split in data.dataset.split_values")
        if self.group is not None:
            groups, spelled = np.array(self.codes[self.group].of_rows), list(self.codes[self.group].numbers)
            both = np.intersect1d(groups[chosen], groups[~chosen])
            if len(both):
                text = f"{len(both):,} groups of {self.group} have rows in {split!r} and in another split"
                raise DataError(f"{file}: {text}, such as {spelled[int(both[0])]!r}")
        return np.flatnonzero(chosen)

    def _dealt(self, split: str, file: str, contents: NDArray[np.int64]) -> NDArray[np.int64]:
        from sklearn.model_selection import train_test_split

        assert self.shares is not None
        if self.group is not None:
            groups: NDArray[Any] = np.array(self.codes[self.group].of_rows)
        else:  # the first row of the same content: the same in every process, unlike the numbers themselves
            _, first, inverse = np.unique(contents, return_index=True, return_inverse=True)
            groups = first[inverse]
        left = units = np.unique(groups)
        unit = "rows" if self.group is None else f"groups of {self.group}"
        labels = None
        if self.label is not None:
            # the commonest label of each group, in the order of the groups' numbers
            pairs, counts = np.unique(np.stack([groups, self.codes[self.label].of_rows]), axis=1, return_counts=True)
            pairs = pairs[:, np.lexsort((-counts, pairs[0]))]
            labels = pairs[1][np.unique(pairs[0], return_index=True)[1]]
            code, count = min(Counter(labels.tolist()).items(), key=lambda found: found[1])
            if count < len(self.shares):
                text = f"{self.label} {list(self.codes[self.label].numbers)[code]!r} has {count} {unit}"
                fix = "take them out, or set data.dataset.stratify=false"
                raise DataError(f"{file}: {text}, fewer than there are splits; {fix}")
        share, last = 1.0, tuple(self.shares)[-1]
        for name, wanted in self.shares.items():
            size = round(wanted / share * len(left))
            if name != last and not 0 < size < len(left):
                raise DataError(f"{file}: {len(units):,} {unit} are too few to be dealt out as split_shares says")
            try:
                alike = None if labels is None else labels[np.searchsorted(units, left)]
                options: Any = {"test_size": size, "random_state": self.seed, "stratify": alike}
                left, chosen = ([], left) if name == last else train_test_split(left, **options)
            except ValueError as error:
                text = f"{file}: the rows cannot be dealt out with labels alike ({error}); set data.dataset.stratify=false"
                raise DataError(text) from error
            if name == split:
                break
            share -= wanted
        return np.flatnonzero(np.isin(groups, chosen))


@dataclass
class _Codes:
    numbers: dict[str, int] = field(default_factory=dict)
    of_rows: array[int] = field(default_factory=lambda: array("I"))


def _listed(value: Any) -> list[str]:
    return list(map(str, value if isinstance(value, list) else [value]))
