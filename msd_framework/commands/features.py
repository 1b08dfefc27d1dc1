"""The words of ``msd convert-features`` and ``msd extract-features``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from msd_framework.build.teacher_cache import bar, locked, shown_bytes
from msd_framework.checks.words import read_words
from msd_framework.commands.extract import extract, list_images
from msd_framework.config.values import flow, to_copy
from msd_framework.data.files import folders
from msd_framework.data.processors.images import Exif
from msd_framework.data.regions.base import FeatureReader
from msd_framework.data.regions.convert import compare, convert, plan_of
from msd_framework.data.regions.draft import Plan, StoreDraft
from msd_framework.data.regions.open import open_features
from msd_framework.data.regions.store import FeatureStore, Precision
from msd_framework.engine.distributed import World
from msd_framework.errors import ConfigError, DataError, Problem
from msd_framework.files import naming
from msd_framework.models.encoders.grid_backbone import build_backbone
from msd_framework.randomness import random_numbers_apart
from msd_framework.screen import say

SHOWN = 20
"""Sentences on wrong images that are printed; the rest is counted."""


def convert_from_words(words: Sequence[str]) -> str:
    """Does what the words after ``msd convert-features`` say, and tells what came of it.

    Raises:
        ConfigError: with every word that is wrong.
        DataError: if features cannot be read, or a check found something.
    """
    spelled = ["check=true" if word == "--check" else word for word in words]
    return convert_features(**read_words(spelled, convert_features).values)


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
    if _is_there(folder, plan):
        return f"{folder} holds these features already.\n{told(FeatureStore(folder))}"
    with naming(folder), _lock(World(), folder), bar("converting", len(reader), True) as advance:
        found = convert(reader, StoreDraft(folder, plan), on_error == "skip", advance)
    return _report(found.store, started, found.begun, found.skipped)


def extract_from_words(words: Sequence[str]) -> str:
    """Does what the words after ``msd extract-features`` say, and tells what came of it.

    Raises:
        ConfigError: with every word that is wrong.
        DataError: if an image cannot be read.
    """
    return extract_features(**read_words(words, extract_features).values)


def extract_features(
    images: str,
    store: str,
    backbone: str,
    weights: str = "DEFAULT",
    layer: str | None = None,
    image_size: int | list[int] | None = None,
    precision: Precision = "fp16",
    batch_size: int = 32,
    workers: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    on_error: Literal["raise", "skip"] = "raise",
    seed: int = 0,
    exif: Exif = "apply",
    allow_roots: list[str] | None = None,
) -> str:
    """Makes a store of what a network says of each cell of each image.

    Args:
        images: a folder of images, those of folders in it included.
        store: the folder that the store takes.
        backbone: `torchvision:NAME`, such as torchvision:resnet50, or `transformers:FOLDER_OR_HUB_NAME`.
        weights: DEFAULT for the published ones; another name of torchvision's, or a file of them; or random.
        layer: the module whose output is stored; if left out, the last one that says a grid.
        image_size: pixels of a side, or [height, width]; if left out, what the network was trained on.
        precision: of the features in the store, fp32 or fp16.
        batch_size: images that the network sees at once.
        workers: processes that read images ahead.
        device: cpu, cuda, or auto for a GPU where there is one.
        on_error: "raise" stops at the first image that cannot be read; "skip" leaves such images out and names them.
        seed: of random weights.
        exif: whether the turn that a camera wrote beside the pixels (EXIF orientation) is applied or ignored.
        allow_roots: folders outside that of the images that links in it may lead to.
    """
    sides = None if image_size is None else [image_size] * 2 if isinstance(image_size, int) else image_size
    ranges = {
        "batch_size": (batch_size, batch_size >= 1),
        "workers": (workers, workers >= 0),
        "image_size": (image_size, sides is None or (len(sides) == 2 and min(sides) >= 1)),
    }
    problems = [Problem(key, f"is out of range, got {value}.") for key, (value, fits) in ranges.items() if not fits]
    if problems:
        raise ConfigError(*problems)
    started, folder, found = time.monotonic(), Path(store), list_images(Path(images), folders(allow_roots))
    with World.join(device) as world:
        with random_numbers_apart(seed):
            network = build_backbone(backbone, weights, layer, (sides[0], sides[1]) if sides else None).to(world.device)
        size = network(torch.zeros(1, 3, *network.sight.size, device=world.device)).shape[-1]
        origin = {
            "backbone": backbone,
            "weights": f"random {seed}" if weights == "random" else weights,
            "layer": network.layer,
            "image_size": list(network.sight.size),
            "images": str(Path(images).resolve()),
            "exif": exif,
        }
        plan = Plan(precision, size, True, origin)
        if _is_there(folder, plan):
            world.wait()
            return f"{folder} holds these features already.\n{told(FeatureStore(folder))}"
        with _lock(world, folder):
            problem = _begun(folder, plan) if world.is_first else ""
            if problem := world.gather(problem)[0]:
                raise DataError(problem)
            draft = StoreDraft(folder, plan)
            done = draft.done()
            world.wait()  # all know what is done before anybody adds to it
            rest = [image for image in found if image.name not in done][world.rank :: world.size]
            with naming(folder), draft.shard(world.rank) as shard, bar("extracting", len(rest), world.is_first) as advance:
                skipped = extract(network, rest, shard, world.device, batch_size, workers, on_error == "skip", exif, advance)
            everyones = [sentence for part in world.gather(skipped) for sentence in part]
            world.wait()
            if world.is_first:
                draft.commit()
            world.wait()
        return _report(FeatureStore(folder), started, len(done), everyones)


def told(store: FeatureStore) -> str:
    """What a store holds, in lines."""
    counts = np.load(store.path / "entries.npy", mmap_mode="r")["num_regions"]
    size = sum(file.stat().st_size for file in store.path.iterdir())
    regions = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    use = {"type": "region_features", "folder": str(store.path)}
    return "\n".join(
        [
            f"  images:   {len(store):,}, {regions} regions each, {int(counts.sum()):,} in all",
            f"  features: {store.feature_size} numbers, {store.precision}, {'with' if store.has_boxes else 'without'} boxes",
            f"  size:     {shown_bytes(size)}",
            f"  use:      {to_copy(f'data.processors.image={flow(use)}')}",
        ]
    )


def _check(source: str, reader: FeatureReader, store: str | None, boxes: bool | None) -> str:
    made = None if store is None else FeatureStore(Path(store))
    wanted = made.has_boxes if made is not None else reader.has_boxes if boxes is None else boxes
    with bar("checking", len(reader), True) as advance:
        wrong = list(compare(reader, made, wanted, advance))
    if made is not None and len(made) != len(reader) and not wrong:
        wrong = [f"{store}: holds {len(made):,} images, {source} {len(reader):,}"]
    if wrong:
        raise DataError("\n".join([f"{len(wrong)} of {len(reader):,} images are wrong:", *_listed(wrong)]))
    return (
        f"{len(reader):,} images of {source} read, nothing is wrong with them" + (f", and {store} holds them" if made else "") + "."
    )


def _is_there(folder: Path, plan: Plan) -> bool:
    """Whether a store has been made by this plan already."""
    if not FeatureStore.claims(folder):
        return False
    card = FeatureStore(folder).card
    return all(card[key] == value for key, value in vars(plan).items())


def _begun(folder: Path, plan: Plan) -> str:
    """Begins a store, and says what is wrong if it cannot be."""
    try:
        StoreDraft(folder, plan)
    except DataError as error:
        return str(error)
    return ""


def _lock(world: World, folder: Path) -> AbstractContextManager[None]:
    """Holds what keeps two commands from writing one store at once."""
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    return locked(
        world, folder.absolute().with_name(f".{folder.name}.lock"), lambda: say(f"another process makes {folder}; waiting")
    )


def _report(store: FeatureStore, started: float, begun: int, skipped: list[str]) -> str:
    seconds = max(1e-3, time.monotonic() - started)
    rate = f"{(len(store) - begun) / seconds:,.1f} images a second"
    lines = [f"{store.path} holds a store of features, made in {seconds:,.1f} s ({rate}).", told(store)]
    lines += [f"  {begun:,} images had been written before."] if begun else []
    lines += [f"  {len(skipped):,} images were left out:", *_listed(skipped)] if skipped else []
    return "\n".join(lines)


def _listed(sentences: Sequence[str]) -> list[str]:
    more = len(sentences) - SHOWN
    return [f"  {text}" for text in sentences[:SHOWN]] + ([f"  and {more:,} more"] if more > 0 else [])
