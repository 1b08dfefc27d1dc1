"""What data sets share: files that lie inside one folder, read a line at a time, with the place named where one is wrong."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from msd_framework.errors import DataError, did_you_mean

T = TypeVar("T")

OnError: TypeAlias = Literal["raise", "skip"]
"""What becomes of a line that cannot be read: the run stops, or the line is left out and its sentence is kept."""


@dataclass(frozen=True)
class JsonLine:
    """One line of a JSON-lines file, with the place to name where it is wrong.

    Args:
        record: what the line holds.
        place: ``file:line``.

    >>> line = JsonLine({"id": "00127", "label": 1, "txt": "hello"}, "dev.jsonl:3")
    >>> line.identifier("id"), line.label("label", (0, 1))
    ('00127', 1)
    >>> line.text("text")
    Traceback (most recent call last):
    msd_framework.errors.DataError: dev.jsonl:3: has no 'text', only 'id', 'label', 'txt'. Did you mean 'txt'?
    """

    record: Mapping[str, Any]
    place: str

    def get(self, key: str) -> Any:
        """A value that must be there.

        Raises:
            DataError: if it is not.
        """
        if key not in self.record:
            found = ", ".join(map(repr, self.record)) or "nothing"
            raise DataError(f"{self.place}: has no {key!r}, only {found}.{did_you_mean(key, self.record)}")
        return self.record[key]

    def text(self, key: str) -> str:
        """A text.

        Raises:
            DataError: if it is none, or holds half a character (a lone surrogate), which no tokenizer can read.
        """
        value = self.get(key)
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise self.wrong(key, "whole Unicode characters")
        return value

    def identifier(self, key: str) -> str:
        """An id, a text or a whole number; a text keeps its leading zeros.

        Raises:
            DataError: if it is neither.
        """
        value = self.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, "an id, a text or a whole number")
        return self.text(key)

    def label(self, key: str, spellings: Sequence[int | str]) -> int:
        """The class whose spelling a value is.

        Raises:
            DataError: if it is none of them, type included.
        """
        value = self.get(key)
        found = [c for c, spelling in enumerate(spellings) if type(value) is type(spelling) and value == spelling]
        if not found:
            raise self.wrong(key, f"one of {', '.join(map(repr, spellings))}")
        return found[0]

    def file(self, root: Path, relative: str) -> str:
        """A path relative to the data set's root, which it must not leave.

        Raises:
            DataError: if it does.
        """
        try:
            inside(root, relative)
        except DataError as error:
            raise DataError(f"{self.place}: {error}") from error
        return relative

    def wrong(self, key: str, wanted: str) -> DataError:
        """The error of a value that is not what was wanted."""
        value = self.record[key]
        return DataError(f"{self.place}: {key} is {reprlib.repr(value)} ({type(value).__name__}), wanted {wanted}")


def read_json_lines(
    file: Path, key: str, read: Callable[[JsonLine], T], on_error: OnError = "raise", limit: int | None = None
) -> tuple[list[T], list[str]]:
    """What a function makes of each line of a JSON-lines file, which is read once, a line at a time.

    Args:
        file: one JSON object a line, UTF-8; empty lines do not count.
        key: which of its values is the id, unique in the file.
        read: makes one example's entry of a line.
        on_error: whether a line that cannot be read stops the reading, or is left out.
        limit: how many entries to read at most; None for all.

    Returns:
        The entries, and a sentence for each line that was left out.

    Raises:
        DataError: with the file, the line, what was got and what was wanted; or if there is no entry at all.
    """
    entries: list[T] = []
    skipped: list[str] = []
    places: dict[str, str] = {}
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if len(entries) == limit:
                break
            if not line.strip():
                continue
            try:
                parsed = _parse(line, f"{file}:{number}")
                name = parsed.identifier(key)
                if name in places:
                    raise DataError(f"{parsed.place}: {key} {name!r} is already that of {places[name]}; ids must differ")
                entries.append(read(parsed))
                places[name] = parsed.place
            except DataError as error:
                if on_error == "raise":
                    raise
                skipped.append(str(error))
    if not entries:
        raise DataError(f"{file}: holds no example that can be read" + (f": {skipped[0]}" if skipped else ""))
    return entries, skipped


def inside(root: Path, relative: str) -> Path:
    """The path of a file in a folder.

    Raises:
        DataError: if it leaves the folder: by ``..``, as an absolute path, or through a symbolic link.

    >>> inside(Path("data"), "../secret.png")
    Traceback (most recent call last):
    msd_framework.errors.DataError: '../secret.png' does not lie inside data
    """
    try:
        real, top = Path(os.path.realpath(root / relative)), Path(os.path.realpath(root))
    except ValueError as error:  # a null character, or one that no file name can hold
        raise DataError(f"{relative!r} is not a file name ({error})") from error
    if Path(relative).is_absolute() or top not in real.parents:
        raise DataError(f"{relative!r} does not lie inside {root}")
    return root / relative


def missing(file: Path, page: str, tree: Sequence[str]) -> list[str]:
    """A sentence that says where to get a file and how its folder must look, or nothing if it is there."""
    if file.is_file():
        return []
    return [f"{file} is missing: download the data set from {page} and unpack it so that its root holds {', '.join(tree)}."]


def unknown_split(dataset: str, split: str, splits: Sequence[str]) -> list[str]:
    """A sentence that names the nearest split, or nothing if the split is known."""
    if split in splits:
        return []
    return [f"{dataset} has no split {split!r}.{did_you_mean(split, splits)} Its splits: {', '.join(splits)}."]


def write_whole(file: Path, text: str) -> None:
    """Writes a file so that a reader finds the old content or the new, never half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def _parse(line: bytes, place: str) -> JsonLine:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: is not UTF-8 ({error.reason} at byte {error.start + 1}), wanted UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: is not JSON ({error}), wanted one object a line") from error
    if not isinstance(record, dict):
        raise DataError(f"{place}: is {reprlib.repr(record)} ({type(record).__name__}), wanted an object")
    return JsonLine(record, place)
