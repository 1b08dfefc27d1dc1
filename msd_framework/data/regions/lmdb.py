"""Region features in an LMDB: a pickled dict an image, as MMF writes them, read without running what is in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from msd_framework.data.regions.base import FeatureReader, Regions, from_fields, optional, stamp_of
from msd_framework.data.regions.restricted_pickle import read_pickle
from msd_framework.errors import DataError

KEYS = b"keys"


class Lmdb(FeatureReader):
    """An LMDB with a value for each image: a pickled dict with ``features`` [N, D], ``bbox`` [N, 4] and the image's size.

    The key ``keys`` may hold a pickled list of the others; without it, all of them are images.
    """

    kind = "lmdb"
    _opened: _Opened | None = None

    @classmethod
    def claims(cls, path: Path) -> bool:
        return (path / "data.mdb").is_file() or (path.is_file() and path.suffix in (".lmdb", ".mdb"))

    @cached_property
    def listed(self) -> list[str]:
        """The names of the images, in the order in which they are listed."""
        pickled = self._get(KEYS)
        if pickled is None:
            with self._reading() as transaction:
                return [key.decode("utf-8", "replace") for key in transaction.cursor().iternext(values=False)]
        keys = read_pickle(pickled, f"{self.path}: 'keys'")
        if not isinstance(keys, (list, tuple)) or not all(isinstance(key, (bytes, str)) for key in keys):
            raise DataError(f"{self.path}: 'keys' holds a {type(keys).__name__}, wanted a list of the keys of images")
        return [key.decode("utf-8", "replace") if isinstance(key, bytes) else key for key in keys]

    def names(self) -> Iterator[str]:
        return iter(self.listed)

    def __len__(self) -> int:
        return len(self.listed)

    def __contains__(self, name: str) -> bool:
        return name.encode() != KEYS and self._get(name.encode()) is not None

    def find(self, name: str, limit: int | None = None, boxes: bool = False) -> Regions | None:
        value, place = self._get(name.encode()), self.place(name)
        if value is None or name.encode() == KEYS:
            return None
        fields = read_pickle(value, place)
        if not isinstance(fields, dict):
            raise DataError(f"{place}: holds a {type(fields).__name__}, wanted a dict with features")
        return from_fields(place, fields, limit, boxes)

    @property
    def has_boxes(self) -> bool:
        first = next(self.names(), None)
        fields = None if first is None else read_pickle(self._get(first.encode()) or b"N.", self.place(first))
        return isinstance(fields, dict) and "bbox" in fields

    @property
    def stamp(self) -> list[int]:
        return stamp_of(_file(self.path))

    def _get(self, key: bytes) -> bytes | None:
        if not 0 < len(key) <= self._environment.max_key_size():
            return None
        with self._reading() as transaction:
            value: bytes | None = transaction.get(key)
        return value

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        """A transaction. Damaged pages are errors as far as lmdb notices; it follows a wrong length blindly."""
        environment = self._environment
        try:
            with environment.begin() as transaction:
                yield transaction
        except optional("lmdb", "lmdb").Error as error:
            raise DataError(f"{self.path}: is no LMDB that can be read ({error})") from error

    @property
    def _environment(self) -> Any:
        """The open file; it must not be taken along into another process."""
        if self._opened is None or self._opened.process != os.getpid():
            self._opened = _open(self.path)
        return self._opened.environment


class _Opened:
    """An LMDB that is open in a process, until the last reader of it is gone."""

    def __init__(self, environment: Any):
        self.environment, self.process = environment, os.getpid()

    def __del__(self) -> None:
        self.environment.close()


_OPENED: WeakValueDictionary[str, _Opened] = WeakValueDictionary()  # lmdb does not open a file twice in a process


def _file(path: Path) -> Path:
    return path / "data.mdb" if path.is_dir() else path


def _open(path: Path) -> _Opened:
    lmdb, key = optional("lmdb", "lmdb"), os.path.realpath(path)
    opened = _OPENED.get(key)
    if opened is not None and opened.process == os.getpid():
        return opened
    if opened is not None:
        opened.environment.close()  # a fork's copy, of which lmdb would say that it is open already
    try:
        options = {"readonly": True, "lock": False, "readahead": False, "create": False}
        environment = lmdb.open(str(path), subdir=path.is_dir(), **options)
        size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    except lmdb.Error as error:
        raise DataError(f"{path}: is no LMDB that can be read ({error})") from error
    actual_size = _file(path).stat().st_size
    if actual_size < size:  # to read behind the end of a mapped file would end the process
        environment.close()
        raise DataError(f"{path}: holds {actual_size:,} bytes, wanted {size:,}: it was cut off")
    opened = _OPENED[key] = _Opened(environment)
    return opened
