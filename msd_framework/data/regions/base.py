"""Features of the regions of an image, whatever they are stored in: one interface, and the checks that all of them share."""

from __future__ import annotations

import importlib
import itertools
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd_framework.errors import DataError, did_you_mean

# The names that files give to the fields of an image.
SPELLINGS = {
    "features": ("features", "image_features", "image_feat"),
    "boxes": ("bbox", "boxes", "image_bb"),
    "width": ("image_width", "image_w"),
    "height": ("image_height", "image_h"),
    "count": ("num_boxes",),
}
DEPTHS = (0, 2)  # in how many folders the names of images lie, where nothing more is known
MOST_NAMES = 1000  # among which the nearest one is looked for


class Regions(NamedTuple):
    """The regions of an image."""

    features: NDArray[Any]  # float [N, D], in the precision in which they are stored
    boxes: NDArray[np.float32] | None = None  # [N, 4], x1, y1, x2 and y2 in pixels; None where not stored, or not wanted
    size: tuple[float, float] = (0.0, 0.0)  # width and height of the image in pixels; zeros where there are no boxes


class FeatureReader(ABC):
    """Features of regions by the name of their image. It may be copied to other processes, each of which opens files of its own."""

    kind: ClassVar[str]  # the prefix of a path of this kind, as in ``lmdb:features/detectron``
    feature_size: int | None = None  # D, where it is known without reading an image
    depths: tuple[int, int] = DEPTHS  # in how many folders the names of images lie at least and at most

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    @classmethod
    @abstractmethod
    def claims(cls, path: Path) -> bool:
        """Whether what lies at a path looks like one of these."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """The name of each image."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __contains__(self, name: str) -> bool: ...

    @abstractmethod
    def find(self, name: str, limit: int | None = None, boxes: bool = False) -> Regions | None:
        """The regions of an image, the first ``limit`` of them, with their boxes where wanted; None if it is not there."""

    def read(self, name: str, limit: int | None = None, boxes: bool = False) -> Regions:
        """The regions of an image that must be there, see `find`."""
        regions = self.find(name, limit, boxes)
        if regions is None:
            raise self.missing(name)
        return regions

    def count(self, name: str) -> int:
        """How many regions an image has that is there."""
        return len(self.read(name).features)

    def size_of(self, name: str) -> int | None:
        """D of an image that is there; None where it has no region, or where that is known only once all of it is read."""
        return self.feature_size

    @property
    @abstractmethod
    def has_boxes(self) -> bool:
        """Whether images come with boxes, as far as the first one tells."""

    @property
    def stamp(self) -> list[int]:
        """Numbers that change with the file: its size and when it was written."""
        return stamp_of(self.path)

    def place(self, name: str) -> str:
        """Where the features of an image lie, for errors."""
        return f"{self.path}: {name!r}"

    def missing(self, name: str) -> DataError:
        """The error of an image that is not there, with names that are."""
        return DataError(f"{self.path}: has no features of {name!r} among {len(self):,} images{self.known_names(name)}")

    def known_names(self, name: str) -> str:
        """Some names of images that are there, and the nearest one, as the end of a sentence."""
        known = self._first_names
        if not known:
            return ""
        return f"; they are called {', '.join(map(repr, known[:3]))}{', ...' * (len(known) > 3)}.{did_you_mean(name, known)}"

    @cached_property
    def _first_names(self) -> list[str]:
        return list(itertools.islice(self.names(), MOST_NAMES))


def stamp_of(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def names_of(value: Any, depths: tuple[int, int] = DEPTHS) -> list[str]:
    """The names under which an image's features may be stored: the last parts of its path, the most of them and no suffix first."""
    fewest, most = depths
    folder, _, last = os.fspath(value).rpartition("/")
    stem = last.rpartition(".")[0] or last
    spellings = [stem] if stem == last else [stem, last]
    if most == 0:
        return spellings
    folders = folder.rsplit("/", most)[-most:] if folder else []
    names = []
    for spelling in spellings:
        for depth in range(len(folders), fewest - 1, -1):
            parents = folders[len(folders) - depth :]
            if {"", ".", ".."}.isdisjoint(parents):
                names.append("/".join([*parents, spelling]))
    return names


def respelled(value: Any) -> list[str]:
    """Names under which other programs store an image's features: with Windows' backslashes, or COCO's numbers.

    >>> respelled("COCO_train2014_000000000042.jpg")
    ['42', '000000000042', '42.jpg', '000000000042.jpg']
    """
    plain = names_of(value)
    names = [name.replace("/", "\\") for name in plain if "/" in name]
    stem, *with_suffix = names_of(value, (0, 0))
    number = re.fullmatch(r"(?:COCO_[a-z]+\d{4}_)?0*(\d{1,12})", stem)
    if number is None:
        return names
    suffix = with_suffix[0].removeprefix(stem) if with_suffix else ""
    short, long = number[1], number[1].zfill(12)
    names += [name for name in dict.fromkeys([short, long, short + suffix, long + suffix]) if name not in plain]
    return names


def checked(
    place: str, features: NDArray[Any], boxes: Any = None, size: tuple[Any, Any] = (0.0, 0.0), limit: int | None = None
) -> Regions:
    """Regions as a file holds them, once nothing is wrong with them; N may be 0, where the detector found nothing."""
    check_shape(place, features)
    kept = np.array(features[:limit], dtype=features.dtype.newbyteorder("="))  # a copy, so that a mapped file is closed  [N, D]
    with np.errstate(over="ignore"):
        if not np.isfinite(kept.astype(np.float32, copy=False)).all():
            raise DataError(f"{place}: holds numbers that are no finite float32, {wanted()}")
    if boxes is None or not len(kept):
        return Regions(kept, None if boxes is None else np.zeros((0, 4), np.float32))
    corners, width, height = _floats(place, "boxes", boxes), _pixels(place, size[0], "width"), _pixels(place, size[1], "height")
    if corners.shape != (len(features), 4):
        raise DataError(f"{place}: holds boxes {list(corners.shape)} for {len(features)} regions, wanted [{len(features)}, 4]")
    x1, y1, x2, y2 = corners.T
    if not ((x1 <= x2) & (y1 <= y2)).all():
        raise DataError(f"{place}: holds a box whose end lies before its beginning, wanted x1, y1, x2 and y2 in pixels")
    if not ((x1 >= -1) & (y1 >= -1) & (x2 <= width + 1) & (y2 <= height + 1)).all():
        raise DataError(f"{place}: holds a box that leaves the image of {width:g} x {height:g} pixels")
    if corners.max() <= 1 < min(width, height):
        raise DataError(f"{place}: holds boxes within one pixel of a corner; they seem to be shares of the image, wanted pixels")
    return Regions(kept, corners[:limit], (width, height))


def check_shape(place: str, features: Any) -> None:
    """Refuses features that are not floats [N, D], before they are read."""
    if features.dtype.kind != "f" or features.dtype.itemsize > 8:
        raise DataError(f"{place}: holds {features.dtype}, {wanted()}")
    is_empty = tuple(features.shape) in ((0,), (0, 0))  # the detector found nothing, so D is not known
    if not is_empty and (len(features.shape) != 2 or features.shape[1] == 0):
        raise DataError(f"{place}: holds an array of shape {list(features.shape)}, {wanted()}")


def wanted(feature_size: int | None = None) -> str:
    """What the features of an image must be, as the end of a sentence."""
    return f"wanted floats [N, {feature_size or 'D'}]"


def from_fields(place: str, fields: Mapping[str, Any], limit: int | None, boxes: bool, features: Any = None) -> Regions:
    """The regions of an image from its fields, under any of their spellings; its features may be given apart from them."""
    features = np.asarray(field(place, fields, "features")) if features is None else features
    corners = np.asarray(field(place, fields, "boxes")) if boxes else None
    size = (field(place, fields, "width"), field(place, fields, "height")) if boxes else (0.0, 0.0)
    (key,) = SPELLINGS["count"]
    if fields.get(key) is not None and features.ndim == 2:
        number = np.asarray(fields[key]).reshape(-1)
        if number.dtype.kind not in "iu" or number.shape != (1,) or not 0 <= number[0] <= len(features):
            raise DataError(f"{place}: num_boxes is {fields[key]!r} for features of {len(features)} regions")
        features, corners = features[: number[0]], None if corners is None else corners[: number[0]]  # the rest is padding
    return checked(place, features, corners, size, limit)


def field(place: str, fields: Mapping[str, Any], what: str) -> Any:
    for key in SPELLINGS[what]:
        if key in fields:
            return fields[key]
    names = list(map(str, fields))
    hint = did_you_mean(SPELLINGS[what][0], names)
    raise DataError(f"{place}: has no {' or '.join(SPELLINGS[what])}, only {', '.join(names) or 'nothing'}.{hint}")


def optional(package: str, extra: str) -> Any:
    """A package that only some users need; without it, a `DataError` says what to install."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise DataError(f"the package {package} is not installed; install it with: pip install 'msd_framework[{extra}]'") from error


def _floats(place: str, what: str, values: Any) -> NDArray[np.float32]:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise DataError(f"{place}: holds {what} of {array.dtype}, wanted numbers")
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if not np.isfinite(single).all():
        raise DataError(f"{place}: holds {what} that are no finite numbers")
    return single


def _pixels(place: str, value: Any, what: str) -> float:
    number = _floats(place, f"an image {what}", value).reshape(-1)
    if number.shape != (1,) or number[0] <= 0:
        raise DataError(f"{place}: the image's {what} is {value!r}, wanted a positive number of pixels")
    return float(number[0])
