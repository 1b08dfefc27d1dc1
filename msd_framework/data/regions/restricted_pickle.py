"""Pickles of arrays, numbers and texts, read without running anything that they ask for.

A pickle is a program. This reader knows the part of its language that makes numbers, texts, lists, tuples, dicts and numpy's
arrays; whatever else one asks for is an error that names it. Nothing of numpy is handed out: the names that numpy writes lead to
functions of this module, which check what they are given.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from msd_framework.errors import DataError

REASON = "which is refused, for it could run any code; wanted numpy arrays, str, int, float, list, dict and tuple alone"

OPCODE_NAMES = {opcode.code: opcode.name for opcode in pickletools.opcodes}
ALLOWED_OPCODES = """
    MARK STOP POP POP_MARK DUP FLOAT INT BININT BININT1 LONG BININT2 NONE REDUCE STRING BINSTRING SHORT_BINSTRING UNICODE
    BINUNICODE APPEND BUILD GLOBAL DICT EMPTY_DICT APPENDS GET BINGET LONG_BINGET LIST EMPTY_LIST PUT BINPUT LONG_BINPUT
    SETITEM TUPLE EMPTY_TUPLE SETITEMS BINFLOAT PROTO TUPLE1 TUPLE2 TUPLE3 NEWTRUE NEWFALSE LONG1 LONG4 BINBYTES
    SHORT_BINBYTES SHORT_BINUNICODE BINUNICODE8 BINBYTES8 STACK_GLOBAL MEMOIZE FRAME BYTEARRAY8
"""
OPCODES = frozenset(ALLOWED_OPCODES.split())  # none makes an object of a class, or loads what lies outside of the pickle


def read_pickle(content: bytes, place: str) -> Any:
    r"""What a pickle holds; a `DataError` if it is damaged, or asks for anything but arrays, texts, numbers, lists and dicts.

    >>> read_pickle(b"cos\nsystem\n(S'rm -r data'\ntR.", "a_info.npy")
    Traceback (most recent call last):
    msd_framework.errors.DataError: a_info.npy: wants to load os.system, which is refused, for it could run any code; ...
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except _RefusedError as refused:
        raise DataError(f"{place}: wants to load {refused}, {REASON}") from refused
    except Exception as error:  # a damaged pickle can make its reader raise anything
        raise DataError(f"{place}: is no pickle that can be read ({type(error).__name__}: {error})") from error


def read_pickled_array(file: Path) -> Any:
    """The single object, such as a dict, that ``numpy.save`` has pickled into a file."""
    try:
        with file.open("rb") as opened:
            header = HEADERS.get(np.lib.format.read_magic(opened))
            if header is None:
                raise ValueError("it is of a version that numpy does not write for objects")
            shape, _, dtype = header(opened)
            content = opened.read()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged header can make numpy raise anything
        raise DataError(f"{file}: is no file of numpy's ({error})") from error
    if dtype.kind != "O" or math.prod(shape) != 1:
        raise DataError(f"{file}: holds an array of {dtype} {list(shape)}, wanted one pickled dict")
    value = read_pickle(content, str(file))
    return value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size == 1 else value


HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class _RefusedError(Exception):
    """What a pickle wants to load and does not get."""


class _Opcodes(dict[int, Callable[[Any], None]]):
    def __missing__(self, opcode: int) -> Callable[[Any], None]:
        known = OPCODE_NAMES.get(chr(opcode))
        if known is None:
            raise pickle.UnpicklingError(f"no pickle says {bytes([opcode])!r}")
        raise _RefusedError(f"an object by {known}")


class _Unpickler(pickle._Unpickler):
    """Python's own reader rather than C's: it allocates what is there, not what a damaged length says."""

    dispatch = _Opcodes({code: read for code, read in pickle._Unpickler.dispatch.items() if OPCODE_NAMES[chr(code)] in OPCODES})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise _RefusedError(f"{module}.{name}")
        return ALLOWED[module, name]


class _Allowed:
    """A name that a pickle may load: it can be called, and nothing about it can be changed."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]):
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("the inside of a function")


class _Type:
    __slots__ = ("dtype",)

    def __init__(self, code: str, *copying: Any):
        self.dtype = np.dtype(_text(code))
        if self.dtype.kind not in "biufOSU":
            raise _RefusedError(f"numbers of the type {self.dtype}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *parts = state
        if any(part is not None for part in parts[:3]):
            raise _RefusedError("an array of records")
        self.dtype = self.dtype.newbyteorder(cast(Any, _text(order)))


class _Array(np.ndarray[Any, Any]):
    """An array that a pickle fills once its numbers are known to be as many as its shape says."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, kind, fortran, content = state[-4:]
        dtype, shape = _dtype(kind), tuple(map(int, shape))
        if dtype.kind == "O":
            fits = type(content) is list and len(content) == math.prod(shape)
        else:
            content = _bytes(content)
            fits = len(content) == math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or not fits:
            raise pickle.UnpicklingError(f"an array of {dtype} {list(shape)} has other contents")
        super().__setstate__(cast(Any, (1, shape, dtype, bool(fortran), content)))


def _empty(*described: Any) -> Any:
    return _Array((0,), "b")


def _from_bytes(content: Any, kind: Any, shape: Any, order: Any) -> Any:
    return np.frombuffer(_bytes(content), _numeric(kind)).reshape(tuple(map(int, shape)), order="F" if order == "F" else "C")


def _scalar(kind: Any, content: Any) -> Any:
    return np.frombuffer(_bytes(content), _numeric(kind), count=1)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if encoding != "latin1":
        raise _RefusedError(f"the encoding {encoding!r}")
    return _bytes(text)


def _no_bytes() -> bytes:
    return b""  # what pickles of old protocols call for where an array is empty


def _numeric(kind: Any) -> np.dtype[Any]:
    dtype = _dtype(kind)
    if dtype.kind == "O":
        raise _RefusedError("objects by their address")
    return dtype


def _dtype(kind: Any) -> np.dtype[Any]:
    if type(kind) is not _Type:
        raise pickle.UnpicklingError(f"{kind!r} is no type of numbers")
    return kind.dtype


def _bytes(content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    # pickles of old protocols hold bytes as a text
    return content.encode("latin1") if isinstance(content, str) else bytes(memoryview(content))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise pickle.UnpicklingError(f"{value!r} is no text")
    return value


# What pickles of numpy's arrays load, of any version of numpy, and what stands in for it here.
ALLOWED: dict[tuple[str, str], _Allowed] = {
    ("numpy", "dtype"): _Allowed(_Type),
    ("numpy", "ndarray"): _Allowed(_empty),
    ("_codecs", "encode"): _Allowed(_encode),
    ("__builtin__", "bytes"): _Allowed(_no_bytes),
    ("builtins", "bytes"): _Allowed(_no_bytes),
}
for _core in ("numpy.core", "numpy._core"):
    ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _Allowed(_empty)
    ALLOWED[f"{_core}.multiarray", "scalar"] = _Allowed(_scalar)
    ALLOWED[f"{_core}.numeric", "_frombuffer"] = _Allowed(_from_bytes)
BUILT = (_Type, _Array)  # what those functions make and a pickle may fill; both check what they are given
