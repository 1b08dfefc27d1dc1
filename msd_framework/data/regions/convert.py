"""Features of any kind become a store of ours; a store is compared with what it was made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from msd_framework.data.regions.base import FeatureReader
from msd_framework.data.regions.draft import Plan, StoreDraft
from msd_framework.data.regions.store import DTYPES, FeatureStore, Precision
from msd_framework.errors import DataError


@dataclass(frozen=True)
class Converted:
    """The result of a conversion."""

    store: FeatureStore
    begun: int  # images that an earlier command had written
    skipped: list[str]  # a sentence for each image that was left out


def plan_of(reader: FeatureReader, precision: Precision, boxes: bool | None) -> Plan:
    """What a store of these features will hold, from the first image that can be read; boxes as it has them if None."""
    boxes = reader.has_boxes if boxes is None else boxes
    origin = {"kind": reader.kind, "path": str(reader.path.resolve()), "stamp": reader.stamp}
    wrong = ""
    for name in reader.names():
        try:
            features = reader.read(name, boxes=boxes).features
        except DataError as error:
            wrong = wrong or str(error)
            continue
        if features.shape[-1]:
            return Plan(precision, features.shape[1], boxes, origin)
    raise DataError(f"{reader.path}: holds no features that can be read{': ' + wrong if wrong else ''}")


def convert(
    reader: FeatureReader, draft: StoreDraft, skip_errors: bool = False, advance: Callable[[int], None] = lambda done: None
) -> Converted:
    """Writes every image that the draft does not have yet, and makes a store; ``advance`` gets the number that is done anew."""
    done, skipped = draft.done(), list[str]()
    advance(len(done))
    with draft.shard(0) as shard:
        for name in reader.names():
            if name in done:
                continue
            try:
                shard.add(name, reader.read(name, boxes=draft.plan.boxes))
            except DataError as error:
                if not skip_errors:
                    raise
                skipped.append(str(error))
            advance(1)
    return Converted(draft.commit(), len(done), skipped)


def compare(reader: FeatureReader, store: FeatureStore | None, boxes: bool, advance: Callable[[int], None]) -> Iterator[str]:
    """A sentence for each image that cannot be read, or that the store which was made of them, if any, holds otherwise."""
    for name in reader.names():
        try:
            read = reader.read(name, boxes=boxes)
            if isinstance(reader, FeatureStore):
                reader.verify(name)
            if store is not None:
                store.verify(name)
                stored = store.read(name, boxes=store.has_boxes)
                with np.errstate(over="ignore"):
                    is_same = np.array_equal(read.features.astype(DTYPES[store.precision]), stored.features)
                if stored.boxes is not None and read.boxes is not None:
                    is_same = is_same and np.array_equal(stored.boxes, read.boxes)
                if not is_same:
                    raise DataError(f"{store.place(name)}: is not what it was made of; make the store anew")
        except DataError as error:
            yield str(error)
        advance(1)
