"""Region features in an HDF5 file, one group or array an image, or all images in one array."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from msd_framework.data.regions.base import SPELLINGS, FeatureReader, Regions, check_shape, checked, field, from_fields, optional
from msd_framework.errors import DataError

IDS = ("ids", "image_ids", "image_id")
DAMAGE = (OSError, RuntimeError, TypeError, KeyError, ValueError, MemoryError)  # what h5py raises where a file is damaged


class Hdf5File:
    """An HDF5 file, which each process opens for itself: what is open must not be taken along into a process that is forked."""

    def __init__(self, path: Path):
        self.path, self._opened_by = path, -1

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    @property
    def root(self) -> Any:
        if self._opened_by != os.getpid():
            h5py = optional("h5py", "hdf5")
            try:
                self._opened, self._opened_by = h5py.File(self.path, "r"), os.getpid()
            except Exception as error:  # what HDF5 says of damaged files is of many types
                raise DataError(f"{self.path}: is no HDF5 file that can be read ({error})") from error
        return self._opened


class Hdf5(FeatureReader):
    """An HDF5 file in one of three layouts.

    - a group an image: ``<name>/features`` [N, D], ``<name>/bbox`` [N, 4], ``<name>/image_width``, ``<name>/image_height``, the two
      last ones arrays or attributes;
    - an array an image: ``<name>`` [N, D], without boxes;
    - all images together: ``features`` [M, N, D], ``ids`` [M], and ``bbox`` [M, N, 4], ``num_boxes`` [M], ``image_width`` [M],
      ``image_height`` [M] if there are any.
    """

    kind = "hdf5"

    def __init__(self, path: Path):
        super().__init__(path)
        self._opened = Hdf5File(path)

    @classmethod
    def claims(cls, path: Path) -> bool:
        return path.is_file() and path.suffix in (".h5", ".hdf5", ".hdf")

    @property
    def _file(self) -> Any:
        return self._opened.root

    @cached_property
    def together(self) -> dict[str, int] | None:
        """The row of each image where all are in one array; None where each has its own."""
        with damage_as_data_error(str(self.path)):
            if not any(key in self._file for key in SPELLINGS["features"]):
                return None
            arrays = {key: self._own(self._file, key) for key in self._file}
            features, ids = field(str(self.path), arrays, "features"), next((arrays[key] for key in IDS if key in arrays), None)
            if not hasattr(features, "shape") or len(features.shape) != 3:
                shape = list(getattr(features, "shape", []))
                raise DataError(f"{self.path}: features are {shape}, wanted [M, N, D] for M images")
            if ids is None:
                raise DataError(f"{self.path}: has no {' or '.join(IDS)}, so nobody knows which image a row of features is of")
            names = [x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x) for x in np.asarray(ids).tolist()]
            if len(names) != len(features):
                raise DataError(f"{self.path}: holds {len(names)} ids for features of {len(features)} images")
            if len(set(names)) != len(names):
                again = Counter(names).most_common(1)[0][0]
                raise DataError(f"{self.path}: the id {again!r} is there twice; ids must differ")
            return {name: row for row, name in enumerate(names)}

    @property
    def _images(self) -> Any:
        """What goes over the names of images."""
        return self._file if self.together is None else self.together

    def names(self) -> Iterator[str]:
        with damage_as_data_error(str(self.path)):
            return iter(list(self._images))

    def __len__(self) -> int:
        with damage_as_data_error(str(self.path)):
            return len(self._images)

    def __contains__(self, name: str) -> bool:
        with damage_as_data_error(self.place(name)):
            return bool(name.strip("./")) and name in self._images

    def find(self, name: str, limit: int | None = None, boxes: bool = False) -> Regions | None:
        if name not in self:
            return None
        place, fields = self.place(name), dict[str, Any]()
        with damage_as_data_error(place):
            if self.together is not None:
                for key in itertools.chain(*SPELLINGS.values()):
                    if key not in self._file:
                        continue
                    values, row = self._own(self._file, key), self.together[name]
                    shape = list(getattr(values, "shape", []))
                    if not shape or shape[0] <= row:
                        raise DataError(f"{place}: {key} is {shape}, wanted a row for each image")
                    fields[key] = values[row]
                return from_fields(place, fields, limit, boxes)
            group = self._own(self._file, name)
            if hasattr(group, "shape"):
                if boxes:
                    wanted = "wanted a group with features, bbox and the image's size"
                    raise DataError(f"{place}: is an array of features alone, {wanted}")
                check_shape(place, group)
                return checked(place, group[:limit])
            fields |= group.attrs
            for key in group:
                value = self._own(group, key)
                if hasattr(value, "shape"):
                    fields[key] = value[()]
            return from_fields(place, fields, limit, boxes)

    def size_of(self, name: str) -> int | None:
        """D, from the shape of the image's array."""
        with damage_as_data_error(self.place(name)):
            features = self._own(self._file, name) if self.together is None else self._file
            if not hasattr(features, "shape"):
                key = next((key for key in SPELLINGS["features"] if key in features), None)
                features = None if key is None else self._own(features, key)
            return int(features.shape[-1]) if getattr(features, "size", 0) else None

    @property
    def has_boxes(self) -> bool:
        with damage_as_data_error(str(self.path)):
            group = self._file
            if self.together is None:
                group = next((self._own(self._file, key) for key in self._file), {})
            return not hasattr(group, "shape") and any(key in group for key in SPELLINGS["boxes"])

    def _own(self, group: Any, key: str) -> Any:
        """What a group holds itself: a link could lead to any file."""
        link = type(group.get(key, getlink=True)).__name__
        value = group[key] if link == "HardLink" else None
        if value is None or getattr(value, "external", None) or getattr(value, "is_virtual", False):
            raise DataError(f"{self.path}: {key!r} leads elsewhere ({link}), wanted the numbers themselves")
        return value


@contextmanager
def damage_as_data_error(place: str) -> Iterator[None]:
    """Raises a `DataError` with the place in place of h5py's errors on a damaged part of a file."""
    try:
        yield
    except DataError:
        raise
    except DAMAGE as error:
        raise DataError(f"{place}: cannot be read ({error})") from error
