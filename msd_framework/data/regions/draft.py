"""A store of region features that is being written: it appears whole, and goes on where it was left."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from msd_framework.array_files import ResumableWriter, key_of, write_card
from msd_framework.data.regions import store
from msd_framework.data.regions.base import Regions
from msd_framework.errors import DataError
from msd_framework.files import naming, sync, sync_folder, write_json

PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """What a store will hold."""

    precision: store.Precision
    feature_size: int
    boxes: bool
    origin: Mapping[str, Any]  # what the features come from, in JSON's types; a draft is resumed only with the same

    @property
    def columns(self) -> list[tuple[str, np.dtype[Any], int]]:
        """What a shard holds of a region: the file, the type of its numbers, and how many there are."""
        columns = [("features", store.DTYPES[self.precision], self.feature_size)]
        return [*columns, ("boxes", store.BOX, 4)] if self.boxes else columns


class Line(NamedTuple):
    """An image in a journal. It is written once the image's regions have reached the disk."""

    name: str
    num_regions: int
    check: int
    width: float
    height: float


class StoreDraft:
    """A store that is being written, in a hidden folder beside its own, whose name it takes when it is whole.

    Several processes may each add images to a `shard` of it; after a kill each resumes its own.
    """

    def __init__(self, folder: Path, plan: Plan):
        self.folder, self.plan = folder, plan
        self.part = folder.absolute().with_name(f".{folder.name}.draft")
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise DataError(f"{folder} is there already; name another place, or remove it")
        values = json.loads(json.dumps({**asdict(plan), **plan.origin}))
        del values["origin"]
        if (self.part / PLAN).is_file():
            there = json.loads((self.part / PLAN).read_text(encoding="utf-8"))
            keys = [key for key in {**values, **there} if there.get(key) != values.get(key)]
            if keys:
                other = "; ".join(f"{key} is {there.get(key)} there and {values.get(key)} here" for key in keys)
                raise DataError(f"{self.part} was left by a command that made something else: {other}; remove it")
        else:
            shutil.rmtree(self.part, ignore_errors=True)
            write_json(self.part / PLAN, values)

    def done(self) -> set[str]:
        """The images that have reached the disk."""
        return {line.name for number in self._shards() for line in self._lines(number)}

    def shard(self, number: int) -> Shard:
        """The writer of one process, which goes on behind what it wrote before."""
        return Shard(self, number, sum(line.num_regions for line in self._lines(number)))

    def commit(self) -> store.FeatureStore:
        """The store, whole, under its name. Needs at least one image, and none that two shards have."""
        numbers = self._shards()
        lines = [(shard, line) for shard, number in enumerate(numbers) for line in self._lines(number)]
        if not lines:
            raise DataError(f"{self.folder}: there is no image to store")
        names = [line.name for _, line in lines]
        entries, rows = np.zeros(len(lines), store.ENTRY), [0] * len(numbers)
        for place, (shard, line) in enumerate(lines):
            entries[place] = (np.void(key_of(line.name)), rows[shard], line.num_regions, shard, *line[2:])
            rows[shard] += line.num_regions
        slots = _slots(names, self.folder)
        _write_array(self.part / store.ENTRIES, entries)
        _write_array(self.part / store.SLOTS, slots)
        with (self.part / store.NAMES).open("w", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(name)}\n" for name in names)
            sync(file)
        for number, num_rows in zip(numbers, rows):
            for kind, dtype, width in self.plan.columns:
                _write_head(self.part / f"{kind}_{number}.npy", dtype, (num_rows, width))
        folders = [name.count("/") for name in names]
        card = {
            "format": store.FORMAT,
            "images": len(names),
            "shards": [*zip(numbers, rows)],
            "slots": len(slots),
            "depths": [min(folders), max(folders)],
            **asdict(self.plan),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S"),
        }
        write_card(self.part / store.CARD, card)
        sync_folder(self.part)
        self.part.rename(self.folder)
        sync_folder(self.folder.absolute().parent)
        for left in (self.folder / PLAN, *self.folder.glob("journal_*")):
            left.unlink()
        return store.FeatureStore(self.folder)

    def _shards(self) -> list[int]:
        return sorted(int(file.stem.partition("_")[2]) for file in self.part.glob("journal_*.jsonl"))

    def _lines(self, number: int) -> Iterator[Line]:
        """The lines of a journal that were written whole."""
        file = self.part / f"journal_{number}.jsonl"
        if file.is_file():
            with file.open("rb") as lines:
                yield from (Line(*json.loads(line)) for line in lines if line.endswith(b"\n"))


class Shard(ResumableWriter):
    """Writes the images of one process. An image counts as written once its regions have reached the disk."""

    def __init__(self, draft: StoreDraft, number: int, rows: int):
        super().__init__()
        self.plan, self.pending, self.files = draft.plan, list[Line](), dict[str, Any]()
        for kind, dtype, width in draft.plan.columns:
            size = store.HEAD + rows * width * dtype.itemsize
            self.files[kind] = _open_behind(draft.part / f"{kind}_{number}.npy", size)
        journal = draft.part / f"journal_{number}.jsonl"
        whole_lines = journal.read_bytes().rfind(b"\n") + 1 if journal.is_file() else 0
        self.journal = _open_behind(journal, whole_lines)

    def add(self, name: str, regions: Regions) -> None:
        """Writes the regions of an image, which must fit to those before."""
        size, dtype = regions.features.shape[1], store.DTYPES[self.plan.precision]
        if size != self.plan.feature_size:
            raise DataError(f"{name!r} has features of {size} numbers, those before have {self.plan.feature_size}")
        if self.plan.boxes and regions.boxes is None:
            raise DataError(f"{name!r} has no boxes, though others have; take boxes=false to leave them out")
        with np.errstate(over="ignore"):
            features = np.ascontiguousarray(regions.features, dtype)
        if not np.isfinite(features).all():
            text = f"{name!r} has a number beyond {np.finfo(dtype).max:,.0f}, too large for {self.plan.precision}"
            raise DataError(f"{text}; take precision=fp32")
        boxes = np.ascontiguousarray(regions.boxes, store.BOX) if self.plan.boxes else None
        self.files["features"].write(features.data)
        if boxes is not None:
            self.files["boxes"].write(boxes.data)
        width, height = regions.size if self.plan.boxes else (0.0, 0.0)
        self.pending.append(Line(name, len(features), store.checksum(Regions(features, boxes)), width, height))
        self.flush_in_time()

    def flush(self) -> None:
        for file in self.files.values():
            sync(file)
        self.journal.write("".join(f"{json.dumps(line)}\n" for line in self.pending).encode())
        sync(self.journal)
        self.pending.clear()

    def close(self) -> None:
        for file in (*self.files.values(), self.journal):
            file.close()


def _open_behind(file: Path, size: int) -> Any:
    """A file to write on behind the bytes of it that count; what lies behind was left by a process that was killed."""
    file.touch()
    if file.stat().st_size < size and size > store.HEAD:
        raise DataError(f"{file}: was cut off, so that nobody can go on with it; remove {file.parent}")
    opened = file.open("r+b")
    opened.truncate(size)
    opened.seek(size)
    return opened


def _slots(names: list[str], folder: Path) -> np.ndarray[Any, Any]:
    """An open-addressed hash table, at least half empty: 1 + the place of the name whose hash leads to a slot, 0 for none."""
    last = (1 << (2 * len(names) - 1).bit_length()) - 1
    slots, keys = [0] * (last + 1), list(map(key_of, names))
    for place, key in enumerate(keys, 1):
        slot = store.slot_of(key, last)
        while other := slots[slot]:
            if keys[other - 1] == key:
                raise DataError(f"{folder}: the image {names[place - 1]!r} is there twice; names must differ")
            slot = (slot + 1) & last
        slots[slot] = place
    return np.array(slots, "<u4")


def _write_array(file: Path, values: np.ndarray[Any, Any]) -> None:
    with naming(file), file.open("wb") as opened:
        content = io.BytesIO()
        np.save(content, values, allow_pickle=False)
        opened.write(content.getvalue())  # numpy's own writing does not say why it failed
        sync(opened)


def _write_head(file: Path, dtype: np.dtype[Any], shape: tuple[int, int]) -> None:
    """What numpy wants to read before an array's numbers, in 128 bytes."""
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
    with file.open("r+b") as opened:
        opened.write(b"\x93NUMPY\x01\x00" + (store.HEAD - 10).to_bytes(2, "little") + text.ljust(store.HEAD - 11).encode() + b"\n")
        sync(opened)
