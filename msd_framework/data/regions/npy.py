"""Region features in one ``.npy`` file an image, with an optional ``_info.npy`` beside it that holds the boxes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd_framework.data.files import files_below, folders, inside
from msd_framework.data.regions.base import FeatureReader, Regions, check_shape, checked, from_fields, wanted
from msd_framework.data.regions.restricted_pickle import read_pickled_array
from msd_framework.errors import DataError

INFO = "_info"
HEAD = 128
_SHAPE = re.compile(rb"'shape': \((\d+), (\d+)\)")


class NpyFolder(FeatureReader):
    """A folder with ``<name>.npy``, float [N, D], for each image.

    ``<name>_info.npy`` may hold a pickled dict with ``bbox`` [N, 4] in pixels, ``image_width`` and ``image_height``; it is read
    where boxes are wanted, by the restricted reader. Names are paths relative to the folder, without suffix. Links in it may lead
    to ``allow_roots`` alone.
    """

    kind = "npy"

    def __init__(self, path: Path, allow_roots: Sequence[str] | None = None):
        super().__init__(path)
        self.allowed = folders(allow_roots)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, list(map(str, self.allowed)))

    @classmethod
    def claims(cls, path: Path) -> bool:
        return path.is_dir()

    def names(self) -> Iterator[str]:
        for file in files_below(self.path, self.allowed):
            name = file.removesuffix(".npy")
            of_another = name.endswith(INFO) and (self.path / f"{name.removesuffix(INFO)}.npy").is_file()
            if name != file and not (of_another or name.startswith(".") or "/." in name):
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self.names())

    def __contains__(self, name: str) -> bool:
        return self._file(name).is_file()

    def find(self, name: str, limit: int | None = None, boxes: bool = False) -> Regions | None:
        file = self._file(name)
        if not file.is_file():
            return None
        stored = _opened(file)
        if not boxes:
            return checked(str(file), stored, limit=limit)
        info = self._info(file)
        if not info.is_file():
            raise DataError(f"{info}: no such file, wanted one with the boxes of {file.name}")
        fields = read_pickled_array(info)
        if not isinstance(fields, dict):
            raise DataError(f"{info}: holds a {type(fields).__name__}, wanted a dict with bbox, image_width and image_height")
        fields = {key: value for key, value in fields.items() if key != "num_boxes"}  # here no region is padding
        return from_fields(str(info), fields, limit, True, stored)

    def count(self, name: str) -> int:
        if name not in self:
            raise self.missing(name)
        return len(_opened(self._file(name)))

    def size_of(self, name: str) -> int | None:
        """D, from the first bytes of the image's file; its other faults are found when it is read."""
        with (self.path / f"{name}.npy").open("rb") as file:
            shape = _SHAPE.search(file.read(HEAD))
        return int(shape[2]) if shape and int(shape[1]) else None

    @property
    def has_boxes(self) -> bool:
        first = next(self.names(), None)
        return first is not None and self._info(self._file(first)).is_file()

    @property
    def stamp(self) -> list[int]:
        return []  # files are added and touched one by one

    def place(self, name: str) -> str:
        return str(self._file(name))

    def missing(self, name: str) -> DataError:
        return DataError(f"{self._file(name)}: no such feature file{self.known_names(name)}")

    def _file(self, name: str) -> Path:
        return inside(self.path, f"{name}.npy", self.allowed, "allow_roots")

    def _info(self, file: Path) -> Path:
        info = file.relative_to(self.path).with_name(f"{file.stem}{INFO}.npy").as_posix()
        return inside(self.path, info, self.allowed, "allow_roots")


def _opened(file: Path) -> NDArray[Any]:
    """The array of a file, of which nothing but the head is read yet."""
    try:
        stored = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged file can make numpy raise anything
        raise DataError(f"{file}: is not a plain array that can be read without unpickling ({error})") from error
    if not isinstance(stored, np.ndarray):
        raise DataError(f"{file}: holds several arrays, {wanted()}")
    check_shape(str(file), stored)
    return stored
