"""Which file holds the rows of a split of a table, and what reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msd_framework.data.rows.csv_rows import CsvFile
from msd_framework.data.rows.json_lines import JsonLines
from msd_framework.data.rows.rows import RowFile
from msd_framework.data.sets.one_file import OneFile
from msd_framework.errors import did_you_mean

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
