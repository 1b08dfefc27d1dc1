"""Images that a data set holds as arrays of numbers rather than as files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msd_framework.data.base import PROCESSORS, as_array
from msd_framework.data.processors.images import ImageProcessor, height_and_width
from msd_framework.errors import DataError
from msd_framework.ranges import positive
from msd_framework.structures import ModalityInputs


@PROCESSORS.register("pixel_array")
class PixelArray(ImageProcessor):
    r"""An array [H, W] or [H, W, C] as pixels :math:`(x / \mathrm{largest} - \mathrm{mean}) / \mathrm{std}`.

    Args:
        size: pixels of a side, or [height, width], which every array must have.
        channels: 1 for grey or 3 for colour.
        largest: the number that stands for white.
        mean: what is taken off, once white is 1.
        std: what is divided by then.

    >>> digits = PixelArray(size=2, largest=16)
    >>> digits.collate([digits.load(np.array([[0, 16], [8, 4]]))]).values
    tensor([[[[0.0000, 1.0000],
              [0.5000, 0.2500]]]])
    """

    def __init__(self, size: int | list[int], channels: int = 1, largest: float = 255.0, mean: float = 0.0, std: float = 1.0):
        self.size = height_and_width(size, channels)
        positive(largest=largest, std=std)
        self.channels, self.largest, self.mean, self.std = channels, largest, mean, std

    def load(self, value: Any) -> Tensor:
        """Normalised pixels, float32 [C, H, W]."""
        array = as_array(value)
        array = array[..., None] if array.ndim == 2 else array  # [H, W, C]
        if array.shape != (*self.size, self.channels) or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            wanted = f"wanted finite numbers {[*self.size, self.channels]}"
            raise DataError(f"an image is an array of {array.dtype} {list(array.shape)}, {wanted}")
        pixels = ((array / self.largest - self.mean) / self.std).astype(np.float32, copy=False)  # [H, W, C]
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def blank(self) -> Tensor:
        return torch.zeros(self.channels, *self.size)

    def collate(self, loaded: Sequence[Tensor]) -> ModalityInputs:
        """Pixels float32 [B, C, H, W], and a mask [B, 1] of ones."""
        return ModalityInputs(torch.stack(list(loaded)), torch.ones(len(loaded), 1, dtype=torch.bool))

    @property
    def fingerprint(self) -> str:
        return f"pixel_array {self.size} {self.channels} {self.largest} {self.mean} {self.std}"
