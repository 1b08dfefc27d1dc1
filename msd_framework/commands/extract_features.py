"""images=FOLDER store=PATH backbone=torchvision:resnet50 [...]: what a network says of each cell of each image."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from msd_framework.checks.words import read_words
from msd_framework.commands.convert_features import contents_of, held, is_made, report
from msd_framework.data.files import files_below, folders
from msd_framework.data.processors.images import Exif, Pixels
from msd_framework.data.regions.base import Regions
from msd_framework.data.regions.draft import Plan, Shard, StoreDraft
from msd_framework.data.regions.store import FeatureStore, Precision
from msd_framework.engine.distributed import World
from msd_framework.errors import ConfigError, DataError, Problem
from msd_framework.files import naming
from msd_framework.launch import is_first
from msd_framework.models.encoders.grid_backbone import GridBackbone, build_backbone, cell_boxes
from msd_framework.randomness import random_numbers_apart
from msd_framework.screen import bar, put

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def main(words: Sequence[str]) -> int:
    lines = extract_features(**read_words(words, extract_features).values)
    if is_first():
        put(lines)
    return 0


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
    """Makes a store of a network's features of each cell of each image.

    Args:
        images: a folder of images, those of folders in it included.
        store: the folder that the store takes.
        backbone: `torchvision:NAME`, such as torchvision:resnet50, or `transformers:FOLDER_OR_HUB_NAME`.
        weights: DEFAULT for the published ones; another name of torchvision's, or a file of them; or random.
        layer: the module whose output is stored; if left out, the last one whose output is a grid.
        image_size: pixels of a side, or [height, width]; if left out, what the network was trained on.
        on_error: "raise" stops at the first image that cannot be read; "skip" leaves such images out and names them.
        seed: of random weights.
        exif: whether the turn that a camera wrote beside the pixels (EXIF orientation) is applied or ignored.
        allow_roots: folders outside that of the images that links in it may lead to.
    """
    sides = [image_size] * 2 if isinstance(image_size, int) else image_size
    problems = []
    if batch_size < 1:
        problems.append(Problem("batch_size", f"is out of range, got {batch_size}."))
    if workers < 0:
        problems.append(Problem("workers", f"is out of range, got {workers}."))
    if sides is not None and (len(sides) != 2 or min(sides) < 1):
        problems.append(Problem("image_size", f"is out of range, got {image_size}."))
    if problems:
        raise ConfigError(*problems)
    started, folder, files = time.monotonic(), Path(store), list_images(Path(images), folders(allow_roots))
    with World.join(device) as world:
        with random_numbers_apart(seed):
            network = build_backbone(backbone, weights, layer, (sides[0], sides[1]) if sides else None).to(world.device)
        sight = network.sight
        size = network(torch.zeros(1, 3, *sight.size, device=world.device)).shape[-1]
        origin = {
            "backbone": backbone,
            "weights": f"random {seed}" if weights == "random" else weights,
            "layer": network.layer,
            "image_size": list(sight.size),
            "images": str(Path(images).resolve()),
            "exif": exif,
        }
        plan = Plan(precision, size, True, origin)
        if is_made(folder, plan):
            world.wait()
            return f"{folder} holds these features already.\n{contents_of(FeatureStore(folder))}"
        with held(world, folder):
            world.together(lambda: StoreDraft(folder, plan) if world.is_first else None)
            draft = StoreDraft(folder, plan)
            done = draft.done()
            world.wait()  # all know what is done before anybody adds to it
            rest = [image for image in files.items() if image[0] not in done][world.rank :: world.size]
            pixels = Pixels(list(sight.size), mean=list(sight.mean), std=list(sight.std), interpolation="bicubic", exif=exif)
            options: dict[str, Any] = {"num_workers": workers, "collate_fn": _as_it_is, "generator": torch.Generator()}
            loader, skipped = DataLoader(_Files(rest, pixels), batch_size, **options), list[str]()
            with naming(folder), draft.shard(world.rank) as shard, bar("extracting", len(rest), world.is_first) as advance:
                for one in _extract(network, loader, pixels, shard, world):
                    if one.error and on_error == "raise":
                        raise DataError(f"{one.error}. Take on_error=skip to leave such images out.")
                    skipped += [one.error] if one.error else []
                    advance(1)
            everyones = list(chain.from_iterable(world.gather(skipped)))
            world.wait()
            if world.is_first:
                draft.commit()
            world.wait()
        return report(FeatureStore(folder), started, len(done), everyones)


class _Read(NamedTuple):
    """An image as a worker has read it, or what is wrong with it."""

    name: str
    pixels: Tensor
    size: tuple[float, float] = (0.0, 0.0)
    error: str = ""  # a text: torch's loader would add a worker's traceback to one that is raised there


class _Files(Dataset[_Read]):
    def __init__(self, images: Sequence[tuple[str, Path]], pixels: Pixels):
        self.images, self.pixels = images, pixels

    def __getitem__(self, index: int) -> _Read:
        name, file = self.images[index]
        try:
            return _Read(name, *self.pixels.load_sized(file))
        except DataError as error:
            return _Read(name, torch.empty(0), error=str(error))

    def __len__(self) -> int:
        return len(self.images)


def list_images(folder: Path, allowed: Sequence[Path] = ()) -> dict[str, Path]:
    """Every image of a folder and of those in it, by its path there without suffix; links may lead to the allowed folders."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; wanted one with images")
    images: dict[str, Path] = {}
    for path in map(PurePosixPath, files_below(folder, allowed)):
        if path.suffix.lower() in SUFFIXES:
            name = str(path.with_suffix(""))
            if name in images:
                raise DataError(f"{folder / path} and {images[name]} would have features of one name; rename one")
            images[name] = folder / path
    if not images:
        raise DataError(f"{folder} holds no image; wanted files {', '.join(SUFFIXES)}")
    return images


@torch.no_grad()
def _extract(network: GridBackbone, loader: Iterable[list[_Read]], pixels: Pixels, shard: Shard, world: World) -> Iterator[_Read]:
    """Writes the features and the boxes of the cells of each image, h w regions an image; tells of each when it is done."""
    for batch in loader:
        read = [one for one in batch if not one.error]
        if read:
            values = pixels.collate([one.pixels for one in read]).values.to(world.device)  # [B, 3, H, W]
            grid = network(values).float().cpu()  # [B, h, w, D]
            for one, cells in zip(read, grid):
                boxes = cell_boxes(cells.shape[0], cells.shape[1], *one.size)
                shard.add(one.name, Regions(cells.flatten(0, 1).numpy(), boxes.numpy(), one.size))
        yield from batch


# a function of the module, as a worker of the loader cannot be given a lambda
def _as_it_is(read: Any) -> Any:
    return read
