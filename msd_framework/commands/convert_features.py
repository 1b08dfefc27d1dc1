"""source=PATH store=PATH [precision=fp16 --check ...]: region features of .npy files, LMDB or HDF5 as one store."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import numpy as np

from msd_framework.checks.words import read_words
from msd_framework.config.values import flow
from msd_framework.data.regions.base import FeatureReader
from msd_framework.data.regions.convert import compare, convert, plan_of
from msd_framework.data.regions.draft import Plan, StoreDraft
from msd_framework.data.regions.open import open_features
from msd_framework.data.regions.store import FeatureStore, Precision
from msd_framework.engine.distributed import World
from msd_framework.engine.locks import locked
from msd_framework.errors import ConfigError, DataError, Problem
from msd_framework.files import naming, size_of
from msd_framework.screen import bar, put, say, shortened, shown_bytes

SHOWN = 20  # sentences on wrong images that are printed; the rest is counted


def main(words: Sequence[str]) -> int:
    spelled = ["check=true" if word == "--check" else word for word in words]
    put(convert_features(**read_words(spelled, convert_features).values))
    return 0


def convert_features(
    source: str,
    store: str | None = None,
    precision: Precision = "fp32",
    boxes: bool | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    check: bool = False,
    allow_roots: list[str] | None = None,
) -> str:
    """Makes a store of features that others have written, or compares one with them.

    Args:
        source: a folder of .npy files, an LMDB, an HDF5 file or a store; `npy:`, `lmdb:`, `hdf5:` or `store:` before it says which.
        store: the folder that the store takes; a check may do without.
        precision: of the features in the store; fp16 takes half the room and rounds by at most 1/2048 of a number.
        boxes: whether boxes are stored; if left out, where the first image has them.
        on_error: "raise" stops at the first image that cannot be read; "skip" leaves such images out and names them.
        check: reads every image and writes nothing; where there is a store, compares it with what it was made of.
        allow_roots: folders outside a folder of .npy files that links in it may lead to.
    """
    reader = open_features(source, allow_roots)
    if check:
        return _check(source, reader, store, boxes)
    if store is None:
        raise ConfigError(Problem("store", "must be given: the folder that the store takes."))
    folder, started = Path(store), time.monotonic()
    if reader.path.resolve() in folder.resolve().parents:
        raise ConfigError(Problem("store", f"{store} lies in {reader.path}, whose images its files would be; name another place."))
    plan = plan_of(reader, precision, boxes)
    if is_made(folder, plan):
        return f"{folder} holds these features already.\n{contents_of(FeatureStore(folder))}"
    with naming(folder), held(World(), folder), bar("converting", len(reader), True) as advance:
        converted = convert(reader, StoreDraft(folder, plan), on_error == "skip", advance)
    return report(converted.store, started, converted.begun, converted.skipped)


def contents_of(store: FeatureStore) -> str:
    counts = np.load(store.path / "entries.npy", mmap_mode="r")["num_regions"]
    regions = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    use = {"type": "region_features", "folder": str(store.path)}
    return (
        f"  images:   {len(store):,}, {regions} regions each, {int(counts.sum()):,} in all\n"
        f"  features: {store.feature_size} numbers, {store.precision}, {'with' if store.has_boxes else 'without'} boxes\n"
        f"  size:     {shown_bytes(size_of(store.path))}\n"
        f"  use:      {shlex.quote(f'data.processors.image={flow(use)}')}"
    )


def _check(source: str, reader: FeatureReader, store: str | None, boxes: bool | None) -> str:
    made = None if store is None else FeatureStore(Path(store))
    wanted = reader.has_boxes if boxes is None else boxes
    if made is not None:
        wanted = made.has_boxes
    with bar("checking", len(reader), True) as advance:
        wrong = list(compare(reader, made, wanted, advance))
    if made is not None and len(made) != len(reader) and not wrong:
        wrong = [f"{store}: holds {len(made):,} images, {source} {len(reader):,}"]
    if wrong:
        raise DataError("\n".join([f"{len(wrong)} of {len(reader):,} images are wrong:", *_listed(wrong)]))
    held = f", and {store} holds them" if made else ""
    return f"{len(reader):,} images of {source} read, nothing is wrong with them{held}."


def is_made(folder: Path, plan: Plan) -> bool:
    """Whether a store has been made by this plan already."""
    if not FeatureStore.claims(folder):
        return False
    card = FeatureStore(folder).card
    return all(card[key] == value for key, value in vars(plan).items())


def held(world: World, folder: Path) -> AbstractContextManager[None]:
    """Holds the lock that keeps two commands from writing one store at once."""
    lock = folder.absolute().with_name(f".{folder.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    return locked(world, lock, lambda: say(f"another process makes {folder}; waiting"))


def report(store: FeatureStore, started: float, begun: int, skipped: list[str]) -> str:
    """The contents of a new store, how fast it was made, and which images were left out."""
    seconds = max(1e-3, time.monotonic() - started)
    rate = f"{(len(store) - begun) / seconds:,.1f} images a second"
    lines = [f"{store.path} holds a store of features, made in {seconds:,.1f} s ({rate}).", contents_of(store)]
    lines += [f"  {begun:,} images had been written before."] if begun else []
    lines += [f"  {len(skipped):,} images were left out:", *_listed(skipped)] if skipped else []
    return "\n".join(lines)


def _listed(sentences: Sequence[str]) -> list[str]:
    return shortened([f"  {text}" for text in sentences], SHOWN, "  and {} more")
