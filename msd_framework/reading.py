"""Text files of users: UTF-8 with or without a byte order mark, read strictly; what a file is in its place is told."""

from __future__ import annotations

import codecs
import json
import os
import re
import reprlib
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from encodings.aliases import aliases
from itertools import chain
from pathlib import Path
from typing import Any

from msd_framework.errors import DataError, did_you_mean

START = 4096  # how many bytes of a file tell what it is
ENCODING = "data.dataset.encoding"  # the option that names another encoding than UTF-8


def read_text(file: Path, keep_mark: bool = False) -> str:
    """The text of a file in UTF-8, each of its lines ended by one line feed, without its byte order mark unless that is kept."""
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
    """The object that a JSON file holds."""
    return _object(read_text(file), str(file), "an object")


def json_object(raw: bytes, place: str, wanted: str = "an object", has_option: bool = False) -> dict[str, Any]:
    """A JSON object in UTF-8; errors tell its place, what usually stands there, and whether another encoding can be named."""
    try:
        text = raw.removesuffix(b"\n").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(place, error, has_option)) from error
    return _object(text, place, wanted)


def encoding_problem(name: str) -> str:
    """Why a name is not that of an encoding of texts, as a sentence with the nearest one; empty if it is."""
    if _is_encoding(name):
        return ""
    hint = did_you_mean(name.replace("-", "_"), filter(_is_encoding, sorted({*aliases, *aliases.values()})))
    return f"encoding is {name!r}, wanted that of a text file, such as cp1252 or utf-16.{hint}"


def is_utf8(encoding: str | None) -> bool:
    """Whether an encoding, or that of a file of which none is named, is UTF-8."""
    return encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def copy_as_utf8(start: bytes, chunks: Callable[[], Iterator[bytes]], file: str, encoding: str) -> int:
    """An open file in UTF-8 without a name, made of one that begins so and is written in another encoding."""
    found = other_format(start, file, has_option=True, wanted=encoding)
    if found and not (_wide(start) and codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))):
        raise DataError(found)
    has_a_character_a_byte = len(bytes(range(0xA0, 0x100)).decode(encoding, "replace")) == 0x60
    if start.startswith(codecs.BOM_UTF8) or (has_a_character_a_byte and _are_utf8(chunks())):
        raise DataError(f"{file}: is UTF-8, wanted {encoding}, in which it would be other letters; leave {ENCODING} out")
    decoder, done = codecs.getincrementaldecoder(encoding)(), 0
    try:
        with tempfile.TemporaryFile() as copy:
            for chunk in chain(chunks(), [b""]):
                text = decoder.decode(chunk, final=not chunk)
                copy.write((text if done else text.removeprefix("\ufeff")).encode("utf-8", "surrogatepass"))
                done += len(chunk)
            copy.flush()
            return os.dup(copy.fileno())
    except UnicodeError as error:
        text = f"{file}: is not {encoding} (after byte {done:,}: {error}); name what it is in {ENCODING}, or save it as UTF-8"
        raise DataError(found or text) from error
    except OSError as error:
        text = f"{file}: cannot be copied into {tempfile.gettempdir()} as UTF-8 ({error.strerror})"
        raise DataError(f"{text}; make room there, name another folder in TMPDIR, or save the file as UTF-8") from error


def not_utf8(place: str, error: UnicodeDecodeError, has_option: bool = False) -> str:
    """The sentence about bytes that are not UTF-8; the place is the file, and the line if that is all that was read."""
    raw, at = error.object, error.start
    line = raw.count(b"\n", 0, at) + 1
    where = f" in line {line:,}" if b"\n" in raw.rstrip(b"\n") else ""
    near = raw[max(0, at - 10) : at + 10].decode("cp1252", "replace")
    reason = f"{error.reason} 0x{raw[at]:02X}{where} at byte {at + 1}"
    fix = f"save the file as UTF-8{f', or name its encoding, such as {ENCODING}=cp1252' * has_option}"
    return f"{place}: is not UTF-8 ({reason}), wanted UTF-8; in Windows-1252 it would read {near!r}: {fix}"


def other_format(start: bytes, file: Path | str, has_option: bool = False, wanted: str = "UTF-8") -> str:
    """What a file that starts so is in place of UTF-8 text, and what to do about it; empty if nothing speaks against text."""
    if wide := _wide(start):
        name, suffix = shlex.quote(str(file)), Path(file).suffix
        fix = f"{f'set {ENCODING}={wide.lower()}, ' * has_option}save it as UTF-8, or run"
        return f"{file}: is not {wanted} but {wide} text; {fix}: iconv -f {wide} -t UTF-8 {name} > utf8{suffix}"
    packed = next((name for magic, name in _MAGIC if start.startswith(magic)), "")
    return f"{file}: is {packed}, wanted {wanted} text" if packed else ""


def keys_are_once(text: str, values: Sequence[Any]) -> bool:
    """Whether no object of a list in JSON has a key twice, of which Python would take the last one without a word.

    The text is the inside of the list, and the values what Python reads there.
    """
    # a colon stands behind each key; if there are as many of them as keys were read, no key was lost, and quicker than to look
    colons, keys = text.count(":"), sum(map(len, values))
    if colons > keys and (keys := _num_keys(values)) < colons and not _SPACE_AND_COLON.search(text):
        colons = text.count('":')  # others stand in texts
    if colons == keys:
        return True
    try:
        json.loads(f"[{text}]", object_pairs_hook=_with_each_key_once)
    except _RepeatedKeyError:
        return False
    return True


class _RepeatedKeyError(ValueError):
    """An object has a key twice."""


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        again = next(name for name in names if names.count(name) > 1)
        raise _RepeatedKeyError(f"has the key {reprlib.repr(again)} twice, wanted it once")
    return record


def _num_keys(value: Any) -> int:
    """How many keys a JSON value and all objects in it have."""
    count = 0
    if type(value) is dict:
        count, value = len(value), value.values()
    for one in value:
        if type(one) is dict or type(one) is list:
            count += _num_keys(one)
    return count


def _object(text: str, place: str, wanted: str) -> dict[str, Any]:
    try:
        record = json.loads(text, object_pairs_hook=_with_each_key_once)
    except _RepeatedKeyError as error:
        raise DataError(f"{place}: {error}") from error
    except (ValueError, RecursionError) as error:
        is_old = "\r" in text.strip() and "\n" not in text.strip()  # as on old Macs
        hint = "; its lines end with a carriage return alone, save it with the line ends of Unix or Windows" if is_old else ""
        raise DataError(f"{place}: is not JSON ({error}), wanted {wanted}{hint}") from error
    if not isinstance(record, dict):
        raise DataError(f"{place}: is {reprlib.repr(record)} ({type(record).__name__}), wanted an object")
    return record


def _is_encoding(name: str) -> bool:
    try:
        return "yes".encode(name).decode(name) == "yes" and codecs.lookup(name).name.replace("-", "_") not in _NO_TEXTS
    except (LookupError, ValueError):  # no encoding at all, or one of other things than texts
        return False


def _are_utf8(chunks: Iterator[bytes]) -> bool:
    """Whether bytes are UTF-8 and not ASCII alone, as those of another encoding hardly ever are by chance."""
    decoder, is_ascii = codecs.getincrementaldecoder("utf-8")(), True
    try:
        for chunk in chain(chunks, [b""]):
            is_ascii = decoder.decode(chunk, final=not chunk).isascii() and is_ascii
    except UnicodeDecodeError:
        return False
    return not is_ascii


def _wide(start: bytes) -> str:
    """UTF-16 or UTF-32, also where the byte order mark is missing: every other byte of Latin letters is 0."""
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # before UTF-16, whose mark begins like it
        return "UTF-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    if len(start) >= 8 and not any(start[1:8:2]) and all(start[0:8:4]):
        return "UTF-32LE" if not any(start[2:8:4]) else "UTF-16LE"
    if len(start) >= 8 and not any(start[0:8:2]) and all(start[3:8:4]):
        return "UTF-32BE" if not any(start[1:8:4]) else "UTF-16BE"
    return ""


_SPACE_AND_COLON = re.compile(r"\s:")
_NO_TEXTS = ("idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape")
_MAGIC = (
    (b"\x1f\x8b", "compressed with gzip (unpack it)"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook (unpack it, or save the sheet as CSV UTF-8)"),
    (b"PAR1", "a Parquet file (write it as CSV or JSON lines)"),
    (b"\x93NUMPY", "an array of numpy"),
    (b"\x89HDF", "an HDF5 file"),
)
