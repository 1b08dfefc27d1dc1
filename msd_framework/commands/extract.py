"""Images become a store of features: a network looks at each of them once, in as many processes as there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from msd_framework.data.files import files_below
from msd_framework.data.processors.images import Exif, Pixels
from msd_framework.data.regions.base import Regions
from msd_framework.data.regions.draft import Shard
from msd_framework.errors import DataError
from msd_framework.models.encoders.grid_backbone import GridBackbone, cell_boxes

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageFile:
    """An image file and the name of its features: its path in the folder, without suffix.

    Args:
        name: of the features.
        file: of the image.
    """

    name: str
    file: Path


class _Read(NamedTuple):
    """An image as a worker has read it, or what is wrong with it.

    An error is a text here: torch's loader would add a worker's traceback to one that is raised there.
    """

    name: str
    pixels: Tensor | None
    size: tuple[float, float] = (0.0, 0.0)
    error: str = ""


class _Files(Dataset[_Read]):
    def __init__(self, images: Sequence[ImageFile], pixels: Pixels):
        self.images, self.pixels = images, pixels

    def __getitem__(self, index: int) -> _Read:
        image = self.images[index]
        try:
            return _Read(image.name, *self.pixels.load_sized(image.file))
        except DataError as error:
            return _Read(image.name, None, error=str(error))

    def __len__(self) -> int:
        return len(self.images)


def list_images(folder: Path, allowed: Sequence[Path] = ()) -> list[ImageFile]:
    """Every image of a folder and of those in it, by name.

    Args:
        folder: where they are.
        allowed: other folders that links in it may lead to.

    Raises:
        DataError: if there is none, two differ in their suffix alone, or a link leads elsewhere.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "42953.png").touch()
    >>> [image.name for image in list_images(folder)]
    ['42953']
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; wanted one with images")
    names = [name for name in map(PurePosixPath, files_below(folder, allowed)) if name.suffix.lower() in SUFFIXES]
    images = [ImageFile(str(name.with_suffix("")), folder / name) for name in names]
    if not images:
        raise DataError(f"{folder} holds no image; wanted files {', '.join(SUFFIXES)}")
    seen: dict[str, Path] = {}
    for image in images:
        if image.name in seen:
            raise DataError(f"{image.file} and {seen[image.name]} would have features of one name; rename one")
        seen[image.name] = image.file
    return images


@torch.no_grad()
def extract(
    backbone: GridBackbone,
    images: Sequence[ImageFile],
    shard: Shard,
    device: torch.device,
    batch_size: int = 32,
    workers: int = 0,
    skip_errors: bool = False,
    exif: Exif = "apply",
    advance: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Writes the features and the boxes of the cells of each image, h w regions an image.

    Args:
        backbone: the network, on its device.
        images: those of this process.
        shard: what this process writes.
        device: what it computes on.
        batch_size: images that the network sees at once.
        workers: processes that read images ahead.
        skip_errors: leaves out an image that cannot be read, in place of raising.
        exif: whether images are turned as their cameras say.
        advance: is told how many more images are done.

    Returns:
        A sentence for each image that was left out.

    Raises:
        DataError: if an image cannot be read, or a feature cannot be stored.
    """
    sight, skipped = backbone.sight, list[str]()
    pixels = Pixels(list(sight.size), mean=list(sight.mean), std=list(sight.std), interpolation="bicubic", exif=exif)
    loader = DataLoader(_Files(images, pixels), batch_size, num_workers=workers, collate_fn=_as_it_is, generator=torch.Generator())
    for batch in loader:
        wrong = [read.error for read in batch if read.pixels is None]
        if wrong and not skip_errors:
            raise DataError(f"{wrong[0]}. Take on_error=skip to leave such images out.")
        skipped += wrong
        read = [one for one in batch if one.pixels is not None]
        if read:
            seen = pixels.collate([one.pixels for one in read]).values.to(device)  # [B, 3, H, W]
            grid = backbone(seen).float().cpu()  # [B, h, w, D]
            for one, cells in zip(read, grid):
                boxes = cell_boxes(cells.shape[0], cells.shape[1], *one.size)
                shard.add(one.name, Regions(cells.flatten(0, 1).numpy(), boxes.numpy(), one.size))
        advance(len(batch))
    return skipped


def _as_it_is(read: Any) -> Any:
    return read
