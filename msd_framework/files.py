"""Files that are written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

from msd_framework.escaping import cell


@contextmanager
def draft(path: Path) -> Iterator[TextIO]:
    """A text file to write into, which takes its name once all of it is written; an error before leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path, part):
            with part.open("w", encoding="utf-8", newline="") as file:
                yield file
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path, draft: Path | None = None) -> Iterator[None]:
    """Puts the name of the file into an error such as a full disk's, where the system gives none or that of a draft."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(draft)):
            error.filename, error.filename2 = str(path), None
        raise


def csv_line(cells: Iterable[Any]) -> str:
    """Cells as a line of a CSV file, without its end; texts that a spreadsheet would run are made harmless."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(map(cell, cells))
    return line.getvalue()


def split_file(folder: Path, kind: str, split: str, suffix: str) -> Path:
    """A file about a split, whose name may hold slashes."""
    return folder / f"{kind}_{split.replace('/', '_')}.{suffix}"


def write_text(path: Path, text: str) -> None:
    """Writes a text file: a reader finds the old content or the new, never half of it."""
    with draft(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, which takes its name once it has reached the disk; what is not finite becomes null."""
    with draft(path) as file:
        json.dump(finite(value), file, indent=1, allow_nan=False)
        sync(file)


def finite(value: Any) -> Any:
    """Nested plain values with None in place of numbers that are not finite, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return list(map(finite, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def sync(file: IO[Any]) -> None:
    """Waits until what was written has reached the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until the names of a folder's files have reached the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
