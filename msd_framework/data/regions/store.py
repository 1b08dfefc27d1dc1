"""Our own store of region features: plain arrays on disk and an index that is mapped into memory, read in one go an image."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from msd_framework.components.options import mismatch
from msd_framework.data.regions.base import FeatureReader, Regions
from msd_framework.errors import DataError
from msd_framework.hashing import digest, key_of
from msd_framework.mapped import MappedArrays

FORMAT = 1
CARD, ENTRIES, SLOTS, NAMES = "index.json", "entries.npy", "slots.npy", "names.txt"
HEAD = 128
"""Bytes before the numbers of an array's file."""

Precision = Literal["fp32", "fp16"]
DTYPES: dict[Precision, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2")}
BOX = np.dtype("<f4")
RESIDENT = 1 << 32
"""Bytes that may have been read before they are let go."""

ENTRY = np.dtype(
    {
        "names": ["key", "start", "num_regions", "shard", "check", "width", "height"],
        "formats": ["V16", "<i8", "<u4", "<u4", "<u4", "<f4", "<f4"],
    }
)
"""What the index says of an image: the hash of its name, its rows and their file, their checksum, and its size in pixels."""

_ENTRY = struct.Struct("<16sqIIIff")


class Entry(NamedTuple):
    """An image in the index."""

    key: bytes
    start: int
    num_regions: int
    shard: int
    check: int
    width: float
    height: float


FORM: dict[str, Any] = {"feature_size": int, "depths": list[int], "images": int, "slots": int, "boxes": bool}
"""The types of what a card says."""


class FeatureStore(FeatureReader):
    """Region features in our own format.

    Files: ``features_<k>.npy``, float16 or float32 [R, D], the regions of one image after those of another, and
    ``boxes_<k>.npy``, float32 [R, 4], x1, y1, x2 and y2 in pixels, where there are boxes; ``index.json`` says what there is;
    ``entries.npy`` has 44 bytes an image, ``slots.npy`` leads from a name's hash to its entry, and ``names.txt`` lists the
    names, one JSON text a line. All arrays are plain, so ``numpy.load(mmap_mode="r")`` opens them.

    All of them are mapped into memory, so that processes share them, whatever their size, and reading an image copies nothing:
    its regions are a part of the mapped file until a batch is made of them. Numbers were checked when they were written; a
    checksum tells whether they still are what was written, see `verify`.

    Raises:
        DataError: if a file is missing, cut off, or is not what was written.
    """

    kind = "store"

    def __init__(self, path: Path):
        super().__init__(path)
        self.card = _read_card(path)
        try:
            self._map_files()
        except DataError:
            raise
        except Exception as error:  # a card that was edited can make it raise anything
            text = f"is not that of a store of features ({type(error).__name__}: {error})"
            raise DataError(f"{path / CARD}: {text}; make the store anew") from error

    def _map_files(self) -> None:
        for key, annotation in FORM.items():
            if text := mismatch(self.card[key], annotation):
                raise ValueError(f"{key}: {text.removesuffix('.')}")
        self.feature_size: int = self.card["feature_size"]
        self.depths: tuple[int, int] = tuple(self.card["depths"])
        self.precision: Precision = self.card["precision"]
        self._dtype = DTYPES[self.precision]
        self._entries = self._map(ENTRIES, ENTRY, self.card["images"]).view(np.uint8).data
        self._slots = self._map(SLOTS, np.dtype("<u4"), self.card["slots"]).data
        self._last = len(self._slots) - 1
        self._mapped, shards = MappedArrays(RESIDENT), [(int(k), int(rows)) for k, rows in self.card["shards"]]
        self._features = [self._open(f"features_{k}.npy", self._dtype, (rows, self.feature_size)) for k, rows in shards]
        self._boxes = [self._open(f"boxes_{k}.npy", BOX, (rows, 4)) for k, rows in shards if self.has_boxes]

    @classmethod
    def claims(cls, path: Path) -> bool:
        return (path / CARD).is_file()

    def names(self) -> Iterator[str]:
        try:
            with (self.path / NAMES).open(encoding="utf-8") as lines:
                yield from map(json.loads, lines)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path / NAMES}: cannot be read ({error}), wanted a name a line") from error

    def __len__(self) -> int:
        images: int = self.card["images"]
        return images

    def __contains__(self, name: str) -> bool:
        return self._search(key_of(name)) is not None

    def read(self, name: str, limit: int | None = None, boxes: bool = False) -> Regions:
        found = self.find(name, limit, boxes)
        if found is None:
            raise self.missing(name)
        return found

    def find(self, name: str, limit: int | None = None, boxes: bool = False) -> Regions | None:
        entry = self._search(key_of(name))
        if entry is None:
            return None
        _, start, num_regions, shard, _, width, height = entry
        end = start + (num_regions if limit is None or limit > num_regions else limit)
        features = self._features[shard][start:end]
        self._mapped.reads(features.nbytes)
        if not boxes:
            return Regions(features)
        if not self.has_boxes:
            raise DataError(f"{self.place(name)}: has no boxes; the store was made of features alone")
        return Regions(features, self._boxes[shard][start:end], (width, height))

    def count(self, name: str) -> int:
        return self.entry(name).num_regions

    def entry(self, name: str) -> Entry:
        """What the index says of an image.

        Raises:
            DataError: if it is not there.
        """
        found = self._search(key_of(name))
        if found is None:
            raise self.missing(name)
        return Entry(*found)

    @property
    def has_boxes(self) -> bool:
        boxes: bool = self.card["boxes"]
        return boxes

    def verify(self, name: str) -> None:
        """Compares what is stored of an image with its checksum.

        Raises:
            DataError: if it is not what was written.
        """
        found = self.read(name, boxes=self.has_boxes)
        if checksum(found) != self.entry(name).check:
            raise DataError(f"{self.place(name)}: is not what was written; make the store anew")

    @property
    def stamp(self) -> list[int]:
        found = (self.path / CARD).stat()
        return [found.st_size, found.st_mtime_ns]

    def _search(self, key: bytes) -> tuple[Any, ...] | None:
        slots, last = self._slots, self._last
        slot = slot_of(key, last)
        while place := slots[slot]:
            entry = _ENTRY.unpack_from(self._entries, (place - 1) * ENTRY.itemsize)
            if entry[0] == key:
                return entry
            slot = (slot + 1) & last
        return None

    def _map(self, name: str, dtype: np.dtype[Any], length: int) -> NDArray[Any]:
        file = self.path / name
        try:
            mapped = np.load(file, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # a damaged file can make numpy raise anything
            raise self._damaged(file, f"cannot be read ({error})") from error
        if mapped.dtype != dtype or mapped.shape != (length,):
            raise self._damaged(file, f"holds {mapped.dtype} {list(mapped.shape)}, wanted {dtype} [{length}]")
        return np.asarray(mapped)

    def _open(self, name: str, dtype: np.dtype[Any], shape: tuple[int, int]) -> NDArray[Any]:
        file, told = self.path / name, HEAD + dtype.itemsize * shape[0] * shape[1]
        try:
            found = file.stat().st_size
        except OSError as error:
            raise self._damaged(file, f"cannot be read ({error.strerror})") from error
        if found != told:  # to read behind the end of a mapped file would end the process
            raise self._damaged(file, f"holds {found:,} bytes, wanted {told:,}")
        return self._mapped.open(file, dtype, shape, HEAD, writable=True)

    def _damaged(self, file: Path, what: str) -> DataError:
        return DataError(f"{file}: {what}; this store of features cannot be trusted, make it anew")


def slot_of(key: bytes, last: int) -> int:
    """Where the search for a name begins in a table of ``last + 1`` slots, a power of two."""
    return int.from_bytes(key[:8], "little") & last


def checksum(regions: Regions) -> int:
    """The CRC-32 of features, and of their boxes if there are any."""
    check = zlib.crc32(np.ascontiguousarray(regions.features).data)
    return check if regions.boxes is None else zlib.crc32(np.ascontiguousarray(regions.boxes, BOX).data, check)


def _read_card(path: Path) -> dict[str, Any]:
    file = path / CARD
    try:
        card: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        told = card.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: cannot be read ({error!r}), wanted the index of a store of features") from error
    if card.get("format") != FORMAT:
        raise DataError(f"{file}: is of format {card.get('format')}, wanted {FORMAT}")
    if told != digest(card):
        raise DataError(f"{file}: is not what was written; this store of features cannot be trusted, make it anew")
    return card
