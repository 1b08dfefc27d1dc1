"""Image files as pixels: read whatever their mode, resized, perhaps augmented, normalised a batch at a time."""

from __future__ import annotations

import os
import stat
import unicodedata
import warnings
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path, PurePath
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

import numpy as np
import torch
from torch import Tensor

from msd_framework.data.base import PROCESSORS, Processor
from msd_framework.errors import DataError, did_you_mean
from msd_framework.structures import ModalityInputs

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MOST_NAMES = 1000  # of a folder, among which the nearest one is looked for
MAX_PIXELS = 100_000_000
Exif: TypeAlias = Literal["apply", "ignore"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageProcessor(Processor):
    """A processor whose values are pixels [B, C, H, W] of one size."""

    kind = "pixels"
    size: list[int]  # height and width
    channels: int

    def length(self, value: Any) -> int:
        return 1

    @property
    def facts(self) -> dict[str, Any]:
        """``image_size``, one number for a square, else [height, width]; and ``image_channels``."""
        height, width = self.size
        return {"image_size": height if height == width else self.size, "image_channels": self.channels}


@PROCESSORS.register("pixels")
class Pixels(ImageProcessor):
    r"""An image as pixels of one size: a file, or what was read of one, a PIL image or an array uint8 [H, W] or [H, W, 3 or 4].

    .. math:: x = (u / 255 - \mu) / \sigma

    with :math:`u` the 8-bit pixels after resizing, and mean :math:`\mu` and deviation :math:`\sigma` per channel. What is
    transparent becomes white. The aspect ratio is not kept. Models whose published numbers were made of photos that were not turned
    upright (torchvision's and MMF's loaders) want ``exif: ignore``.

    Args:
        size: height and width in pixels, one number for a square.
        channels: 3 for colour, 1 for grey.
        mean: one number in [0, 1] a channel; ImageNet's if left out (their average for grey).
        std: one positive number a channel; ImageNet's if left out (their average for grey).
        interpolation: how an image is resized; "box" undoes a magnification by a whole number exactly.
        augment: "crop_flip" trains on random parts of the image, mirrored at random; "none" on the image as it is.
        exif: whether the turn that a camera wrote beside the pixels (EXIF orientation) is applied or ignored.
    """

    free_options = frozenset({"augment"})

    def __init__(
        self,
        size: int | list[int] = 224,
        channels: int = 3,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        interpolation: Literal["nearest", "box", "bilinear", "bicubic"] = "bilinear",
        augment: Literal["none", "crop_flip"] = "none",
        exif: Exif = "apply",
    ):
        self.size = height_and_width(size, channels)
        self.channels, self.interpolation, self.augment, self.exif = channels, interpolation, augment, exif
        self.mean, self.std = _statistics(mean, IMAGENET_MEAN, channels), _statistics(std, IMAGENET_STD, channels)
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise ValueError(f"mean is {self.mean} and std is {self.std}, wanted {channels} of each, the latter positive")
        self.random = augment != "none"

    @cached_property  # at the first image, since it takes a second to import what it is made of
    def _transform(self) -> Any:
        from torchvision import transforms
        from torchvision.transforms import InterpolationMode

        mode, steps = InterpolationMode(self.interpolation), list[Any]()
        if self.augment == "crop_flip":
            steps += [transforms.RandomResizedCrop(self.size, interpolation=mode), transforms.RandomHorizontalFlip()]
        else:
            steps.append(transforms.Resize(self.size, mode))
        return transforms.Compose([*steps, transforms.PILToTensor()])

    def load(self, value: Any) -> Tensor:
        """An image as uint8 [C, H, W]."""
        return self.load_sized(value)[0]

    def load_sized(self, value: Any) -> tuple[Tensor, tuple[int, int]]:
        """An image as `load` gives it, and the width and height that it had before it was resized."""
        image = read_image(Path(value), self.exif) if isinstance(value, (str, PurePath)) else _in_memory(value, self.exif)
        pixels: Tensor = self._transform(image if self.channels == 3 else image.convert("L"))
        return pixels, image.size  # [C, H, W]

    def blank(self) -> Tensor:
        return torch.zeros(self.channels, *self.size, dtype=torch.uint8)

    def collate(self, loaded: Sequence[Tensor]) -> ModalityInputs:
        """Normalised pixels, float32 [B, C, H, W], and a mask [B, 1] of ones."""
        mean, std = torch.tensor(self.mean).view(-1, 1, 1), torch.tensor(self.std).view(-1, 1, 1)  # [C, 1, 1]
        pixels = torch.stack(list(loaded)).float().div_(255).sub_(mean).div_(std)  # [B, C, H, W]
        return ModalityInputs(pixels, torch.ones(len(loaded), 1, dtype=torch.bool))

    @property
    def fingerprint(self) -> str:
        options = f"{self.size} {self.channels} {self.mean} {self.std} {self.interpolation} {self.augment}"
        return f"pixels {options}" + " exif ignored" * (self.exif == "ignore")

    def deterministic(self) -> Pixels:
        return Pixels(self.size, self.channels, self.mean, self.std, self.interpolation, exif=self.exif)


def height_and_width(size: int | list[int], channels: int) -> list[int]:
    """The two sides of an image of 1 or 3 channels."""
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f"size is {size}, wanted a positive number, or [height, width]")
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}, wanted 3 for colour or 1 for grey")
    return sides


def read_image(file: Path, exif: Exif = "apply") -> Any:
    """An image file as a PIL image in RGB, turned as its camera says, what is transparent on white and 16 bits brought to 8."""
    from PIL import Image, UnidentifiedImageError

    try:
        if stat.S_ISFIFO(file.stat().st_mode):  # to open a pipe waits for whoever writes into it
            raise DataError(f"{file}: is a pipe, wanted an image")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata that is not read, and sizes that are checked below
            with Image.open(file, formats=FORMATS) as image:
                return _upright(image, exif)
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such image file{_nearest(file)}") from error
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{file}: has too many pixels ({error}), wanted at most {MAX_PIXELS:,}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{file}: is not an image ({file.stat().st_size} bytes), wanted one of {', '.join(FORMATS)}") from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise DataError(f"{file}: cannot be read as an image ({error})") from error


def _in_memory(value: Any, exif: Exif) -> Any:
    from PIL import Image

    if isinstance(value, np.ndarray):
        is_grey, is_colour = value.ndim == 2, value.ndim == 3 and value.shape[2] in (3, 4)
        if value.dtype != np.uint8 or not value.size or not (is_grey or is_colour):
            raise DataError(f"an image is an array of {value.dtype} {list(value.shape)}, wanted uint8 [H, W] or [H, W, 3 or 4]")
        value = Image.fromarray(value)
    if not isinstance(value, Image.Image):
        raise DataError(f"an image is a {type(value).__name__}, wanted the path of a file, a PIL image or an array")
    try:
        return _upright(value, exif)
    except Exception as error:  # PIL reads the file of an image only now, which may be damaged
        raise DataError(f"an image of {value.width} x {value.height} pixels cannot be read ({error})") from error


def _upright(image: Any, exif: Exif) -> Any:
    from PIL import Image

    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{image.width} x {image.height}")
    turn = _TURNS.get(_orientation(image)) if exif == "apply" else None
    rgb = to_rgb(image)
    return rgb if turn is None else rgb.transpose(Image.Transpose[turn])


def to_rgb(image: Any) -> Any:
    """A PIL image of any mode with 8 or 16 bits a channel as RGB."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its values are floating-point numbers of no known range, wanted 8 or 16 bits a channel")
    if image.mode == "I" and image.format not in (None, "PNG", "PPM"):  # in which it is 16 bits
        raise ValueError("its values are 32-bit whole numbers of no known range, wanted 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # 16 bits; PIL would clip them to 255
        values = np.asarray(image).clip(0, 65535)
        if 0 < values.max() < 4096:  # 8 or 12 bits in 16, as scanners write them
            raise ValueError(f"its 16-bit values reach {values.max()} of 65535, which is black or nearly so; save it with 8 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if "transparency" not in image.info and image.mode not in ("RGBA", "RGBa", "LA", "La", "PA"):
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image.convert("RGBA"))
    return ground.convert("RGB")


def _nearest(file: Path) -> str:
    """What a folder holds in place of a file: a name that is spelled another way, or the nearest one."""
    if not file.parent.is_dir():
        return f"; there is no folder {file.parent}"
    names = _names_in(str(file.parent))
    same = {_plain(name): name for name in names}.get(_plain(file.name))
    hint = f" Did you mean {same!r}?" if same else did_you_mean(file.name, names[:MOST_NAMES])
    return f"; {file.parent} holds {len(names):,} names.{hint}" if hint else ""


@lru_cache(maxsize=8)
def _names_in(folder: str) -> list[str]:
    return sorted(os.listdir(folder))


def _plain(name: str) -> str:
    """A name less what programs change in it: capital letters, the form of accents, %20, and the suffix of a JPEG."""
    return unicodedata.normalize("NFC", unquote(name)).casefold().replace(".jpeg", ".jpg")


def _orientation(image: Any) -> int:
    """How the camera was held, 1 to 8; 1 where nobody knows, or where PIL turns the image by itself."""
    if image.format == "TIFF":
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata of an image whose pixels are whole: viewers show it as it is stored
        return 1


_ORIENTATION = 0x0112
# How an image is turned upright, by its EXIF orientation from 2 on.
_NAMES = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
_TURNS = dict(enumerate(_NAMES, 2))


def _statistics(given: list[float] | None, imagenet: Sequence[float], channels: int) -> list[float]:
    if given is None:
        return list(imagenet) if channels == 3 else [sum(imagenet) / 3]
    return list(map(float, given))
