"""Text files of users: UTF-8 with or without a byte order mark, read strictly; what a file is in its place is told."""

from __future__ import annotations

import codecs
import json
import reprlib
import shlex
from pathlib import Path
from typing import Any

from msd_framework.errors import DataError

START = 4096
"""How many bytes of a file tell what it is."""


def read_text(file: Path, keep_mark: bool = False) -> str:
    r"""The text of a file, each of its lines ended by one line feed.

    Args:
        file: where it is.
        keep_mark: whether a byte order mark is a part of it.

    Raises:
        DataError: if it cannot be read or is not UTF-8, with the byte or the line.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "answers.txt"
    >>> _ = file.write_bytes(b"\xef\xbb\xbfyes\r\nno\r\n")
    >>> read_text(file)
    'yes\nno\n'
    """
    try:
        text = file.read_text(encoding="utf-8" if keep_mark else "utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(other_format(error.object[:START], file) or not_utf8(str(file), error)) from error
    found = other_format(text[:START].encode(), file) if "\0" in text[:START] else ""
    if found:
        raise DataError(found)
    return text


def read_json(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        DataError: if it cannot be read, is not JSON in UTF-8, or holds something else.
    """
    return _object(read_text(file), str(file), "an object")


def json_object(raw: bytes, place: str, wanted: str = "an object") -> dict[str, Any]:
    """A JSON object in UTF-8.

    Args:
        raw: what holds it.
        place: where it is, for errors.
        wanted: what stands there usually.

    Raises:
        DataError: if it is not UTF-8, not JSON, or something else.
    """
    try:
        text = raw.removesuffix(b"\n").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(place, error)) from error
    return _object(text, place, wanted)


def not_utf8(place: str, error: UnicodeDecodeError) -> str:
    """The sentence about bytes that are not UTF-8.

    Args:
        place: the file, and the line if that is all that was read.
        error: what Python says of it.
    """
    raw, at = error.object, error.start
    line = raw.count(b"\n", 0, at) + 1
    where = f" in line {line:,}" if b"\n" in raw.rstrip(b"\n") else ""
    near = raw[max(0, at - 10) : at + 10].decode("cp1252", "replace")
    reason = f"{error.reason} 0x{raw[at]:02X}{where} at byte {at + 1}"
    return f"{place}: is not UTF-8 ({reason}), wanted UTF-8; in Windows-1252 it would read {near!r}: save the file as UTF-8"


def other_format(start: bytes, file: Path | str) -> str:
    """What a file is in place of UTF-8 text, as a sentence that says what to do; empty if nothing speaks against text.

    Args:
        start: its first bytes, at most `START`.
        file: where it is.

    >>> other_format("yes".encode("utf-16"), "a.txt")
    'a.txt: is not UTF-8 but UTF-16 text; save it as UTF-8, or run: iconv -f UTF-16 -t UTF-8 a.txt > utf8.txt'
    """
    wide = next((name for mark, name in _MARKS if start.startswith(mark)), "") or _without_mark(start)
    if wide:
        name, suffix = shlex.quote(str(file)), Path(file).suffix
        return f"{file}: is not UTF-8 but {wide} text; save it as UTF-8, or run: iconv -f {wide} -t UTF-8 {name} > utf8{suffix}"
    packed = next((name for magic, name in _MAGIC if start.startswith(magic)), "")
    return f"{file}: is {packed}, wanted UTF-8 text" if packed else ""


def old_mac_hint(text: str) -> str:
    """What to do about a text whose lines end as on old Macs; empty if they do not."""
    is_old = "\r" in text.strip() and "\n" not in text.strip()
    return "; its lines end with a carriage return alone, save it with the line ends of Unix or Windows" if is_old else ""


def _object(text: str, place: str, wanted: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: is not JSON ({error}), wanted {wanted}{old_mac_hint(text)}") from error
    if not isinstance(record, dict):
        raise DataError(f"{place}: is {reprlib.repr(record)} ({type(record).__name__}), wanted an object")
    return record


def _without_mark(start: bytes) -> str:
    """UTF-16 or UTF-32 whose byte order mark is missing: every other byte of Latin letters is 0."""
    if len(start) >= 8 and not any(start[1:8:2]) and all(start[0:8:4]):
        return "UTF-32LE" if not any(start[2:8:4]) else "UTF-16LE"
    if len(start) >= 8 and not any(start[0:8:2]) and all(start[3:8:4]):
        return "UTF-32BE" if not any(start[1:8:4]) else "UTF-16BE"
    return ""


_MARKS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # before that of UTF-16, which begins like it
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_MAGIC = (
    (b"\x1f\x8b", "compressed with gzip (unpack it)"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook (unpack it, or save the sheet as CSV UTF-8)"),
    (b"PAR1", "a Parquet file (write it as CSV or JSON lines)"),
    (b"\x93NUMPY", "an array of numpy"),
    (b"\x89HDF", "an HDF5 file"),
)
