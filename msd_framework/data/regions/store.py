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

from msd_framework.array_files import MappedArrays, key_of, read_card
from msd_framework.components.options import mismatch
from msd_framework.data.regions.base import FeatureReader, Regions, stamp_of
from msd_framework.errors import DataError

FORMAT = 1
CARD, ENTRIES, SLOTS, NAMES = "index.json", "entries.npy", "slots.npy", "names.txt"
HEAD = 128  # bytes before the numbers of an array's file

Precision = Literal["fp32", "fp16"]
DTYPES: dict[Precision, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2")}
BOX = np.dtype("<f4")
RESIDENT = 1 << 32  # bytes that may have been read before they are let go
CARD_TYPES: dict[str, Any] = {"feature_size": int, "depths": list[int], "images": int, "slots": int, "boxes": bool}


class Entry(NamedTuple):
    key: bytes  # the hash of its name
    start: int  # its first row in its shard
    num_regions: int
    shard: int  # the number of the pair of files that holds it
    check: int  # the checksum of its rows
    width: float  # in pixels
    height: float


ENTRY = np.dtype({"names": Entry._fields, "formats": ["V16", "<i8", "<u4", "<u4", "<u4", "<f4", "<f4"]})
_ENTRY = struct.Struct("<16sqIIIff")


class FeatureStore(FeatureReader):
    """Region features in our own format.

    Files: ``features_<k>.npy``, float16 or float32 [R, D], the regions of one image after those of another, and
    ``boxes_<k>.npy``, float32 [R, 4], x1, y1, x2 and y2 in pixels, where there are boxes; ``index.json`` says what there is;
    ``entries.npy`` has 44 bytes an image, ``slots.npy`` leads from a name's hash to its entry, and ``names.txt`` lists the
    names, one JSON text a line. All of them are mapped into memory: processes share them, and reading an image copies nothing.
    """

    kind = "store"

    def __init__(self, path: Path):
        super().__init__(path)
        self.card = read_card(path / CARD, FORMAT, _damaged)
        try:
            self._map_files()
        except DataError:
            raise
        except Exception as error:  # a card that was edited can make it raise anything
            raise _damaged(path / CARD, f"is not that of a store of features ({type(error).__name__}: {error})") from error

    def _map_files(self) -> None:
        for key, annotation in CARD_TYPES.items():
            if text := mismatch(self.card[key], annotation):
                raise ValueError(f"{key}: {text.removesuffix('.')}")
        self.feature_size: int = self.card["feature_size"]
        self.depths: tuple[int, int] = tuple(self.card["depths"])
        self.precision: Precision = self.card["precision"]
        self._entries = self._map(ENTRIES, ENTRY, self.card["images"]).view(np.uint8).data
        self._slots = self._map(SLOTS, np.dtype("<u4"), self.card["slots"]).data
        self._last = len(self._slots) - 1
        self._mapped = MappedArrays(_damaged, RESIDENT)
        self._features, self._boxes = list[NDArray[Any]](), list[NDArray[Any]]()
        for number, rows in self.card["shards"]:
            shape = int(rows), self.feature_size
            file = self.path / f"features_{int(number)}.npy"
            self._features.append(self._mapped.open(file, DTYPES[self.precision], shape, HEAD, writable=True, whole=True))
            if self.has_boxes:
                file = self.path / f"boxes_{int(number)}.npy"
                self._boxes.append(self._mapped.open(file, BOX, (int(rows), 4), HEAD, writable=True, whole=True))

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
        return int(self.card["images"])

    def __contains__(self, name: str) -> bool:
        return self._search(key_of(name)) is not None

    def find(self, name: str, limit: int | None = None, boxes: bool = False) -> Regions | None:
        entry = self._search(key_of(name))
        if entry is None:
            return None
        _, start, num_regions, shard, _, width, height = entry
        end = start + (num_regions if limit is None else min(limit, num_regions))
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
        entry = self._search(key_of(name))
        if entry is None:
            raise self.missing(name)
        return Entry(*entry)

    @property
    def has_boxes(self) -> bool:
        return bool(self.card["boxes"])

    def verify(self, name: str) -> None:
        """Compares what is stored of an image with its checksum; a `DataError` if it is not what was written."""
        if checksum(self.read(name, boxes=self.has_boxes)) != self.entry(name).check:
            raise DataError(f"{self.place(name)}: is not what was written; make the store anew")

    @property
    def stamp(self) -> list[int]:
        return stamp_of(self.path / CARD)

    def _search(self, key: bytes) -> tuple[Any, ...] | None:
        """The fields of `Entry`, as a plain tuple: a look-up is made for each image of a batch."""
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
            raise _damaged(file, f"cannot be read ({error})") from error
        if mapped.dtype != dtype or mapped.shape != (length,):
            raise _damaged(file, f"holds {mapped.dtype} {list(mapped.shape)}, wanted {dtype} [{length}]")
        return np.asarray(mapped)


def _damaged(file: Path, text: str) -> DataError:
    return DataError(f"{file}: {text}; this store of features cannot be trusted, make it anew")


def slot_of(key: bytes, last: int) -> int:
    """Where the search for a name begins in a table of ``last + 1`` slots, a power of two."""
    return int.from_bytes(key[:8], "little") & last


def checksum(regions: Regions) -> int:
    """The CRC-32 of features, and of their boxes if there are any."""
    check = zlib.crc32(np.ascontiguousarray(regions.features).data)
    return check if regions.boxes is None else zlib.crc32(np.ascontiguousarray(regions.boxes, BOX).data, check)
