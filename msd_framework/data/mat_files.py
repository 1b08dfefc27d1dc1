"""Arrays in files of MATLAB (level 5), which hold plain data: nothing of them is run."""

from __future__ import annotations

import math
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from msd_framework.errors import DataError, is_memory

HEADER, TAG, COMPRESSED = 128, 8, 15  # bytes before the first element and before its content; the type of a compressed one
MOST_BYTES = 2**29  # of a file once it is unpacked: a few bytes can be made to unpack to any size
NUMBERS = {"double": 8, "single": 4} | {f"{sign}int{bits}": bits // 8 for bits in (8, 16, 32, 64) for sign in ("", "u")}
"""The classes of numbers, and the bytes of one number."""


def read_mat(file: Path) -> NDArray[Any]:
    """The one array of numbers that a file holds; texts, cells, structs, functions and objects are refused before they are read."""
    from scipy.io import loadmat, whosmat  # takes a tenth of a second

    wanted = "wanted one array of numbers in a file of MATLAB's level 5 (save it with -v6 or -v7)"
    try:
        if file.exists() and not file.is_file():  # a pipe may never end
            raise DataError(f"{file}: is no regular file, {wanted}")
        raw = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    if raw[HEADER - 2 : HEADER] != b"IM":  # version 2 is HDF5; an older level has no mark, a big-endian machine another
        raise DataError(f"{file}: is no such file, {wanted}")
    try:
        unpacked = _unpacked(raw)
        held = whosmat(BytesIO(unpacked))
        if len(held) != 1 or held[0][2] not in NUMBERS:
            kinds = ", ".join(f"{name!r} ({kind})" for name, _, kind in held)
            raise DataError(f"{file}: holds {kinds or 'nothing'}, {wanted}")
        name, shape, kind = held[0]
        if math.prod(shape) * NUMBERS[kind] > MOST_BYTES:
            raise DataError(f"{file}: holds {name!r} {list(shape)} ({kind}), which has more than {MOST_BYTES:,} bytes, {wanted}")
        array: NDArray[Any] = loadmat(BytesIO(unpacked))[name]
    except DataError:
        raise
    except Exception as error:  # of a file that was cut or changed, scipy raises anything
        if is_memory(error):
            raise
        raise DataError(f"{file}: is damaged ({' '.join(str(error).split())}), {wanted}") from error
    return array


def _unpacked(raw: bytes) -> bytes:
    """The file with its elements as they are before compression, which is that of zlib."""
    parts, at, room = [raw[:HEADER]], HEADER, MOST_BYTES
    while at < len(raw):
        kind, size = struct.unpack_from("<II", raw, at)
        end = at + TAG + size
        if end > len(raw):
            raise ValueError("it was cut off")
        part = raw[at:end]
        if kind == COMPRESSED:
            part = zlib.decompressobj().decompress(part[TAG:], room + 1)
            if len(part) <= room:
                # the reader would unpack what is packed once more without a limit
                inner, length = struct.unpack_from("<II", part)
                if inner == COMPRESSED or TAG + length > len(part):
                    raise ValueError("a packed element holds no whole one that is not packed")
                part = part[: TAG + length]
        room -= len(part)
        if room < 0:
            raise ValueError(f"it unpacks to more than {MOST_BYTES:,} bytes")
        parts.append(part)
        at = end
    return b"".join(parts)
