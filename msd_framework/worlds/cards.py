"""Drawing: a card is a 16 x 16 RGB canvas with handwritten digits in coloured ink on a noisy black ground."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from msd_framework.worlds.handwriting import GlyphBank

CANVAS = 16  # the side of a canvas, in pixels
PLAIN_INKS = ("blue", "green", "yellow", "white")
INKS = (*PLAIN_INKS, "red")  # red is kept for what is decided by the image alone
RED = INKS.index("red")
# float32 [5, 3], the RGB of each ink
COLOURS = np.array([[70, 130, 255], [40, 220, 90], [250, 220, 60], [240, 240, 240], [255, 40, 40]], np.float32) / 255


def card_sign(digit: int, ink: int) -> str:
    """What a card shows, in words."""
    return f"{INKS[ink]} {digit}"


def draw_card(
    digits: NDArray[np.int64], inks: NDArray[np.int64], bank: GlyphBank, noise: float, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Cards uint8 [N, 16, 16, 3] with one digit each, twice the size of its scan and moved by up to a pixel.

    Args:
        digits: int64 [N].
        inks: int64 [N], indices into `INKS`.
        noise: the standard deviation of the noise on each channel, whose range is 0 to 1.
    """
    glyphs = bank.pick(digits, generator).repeat(2, axis=1).repeat(2, axis=2)  # [N, 16, 16]
    framed = np.pad(glyphs, ((0, 0), (1, 1), (1, 1)))  # [N, 18, 18]
    top, left = generator.integers(0, 3, (2, len(digits), 1, 1))
    pixel = np.arange(CANVAS)
    moved = framed[np.arange(len(digits))[:, None, None], top + pixel[:, None], left + pixel]  # [N, 16, 16]
    return _develop(moved[..., None] * _ink(inks, generator)[:, None, None], noise, generator)


def draw_poster(
    digits: NDArray[np.int64], inks: NDArray[np.int64], bank: GlyphBank, noise: float, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Posters uint8 [N, 16, 16, 3] with up to four digits, one in each quarter.

    Args:
        digits: int64 [N, 4] in the order top left, top right, bottom left, bottom right; -1 leaves a quarter empty.
        inks: int64 [N, 4], indices into `INKS`.
        noise: the standard deviation of the noise on each channel, whose range is 0 to 1.
    """
    glyphs = bank.pick(np.maximum(digits, 0), generator) * (digits >= 0)[..., None, None]  # [N, 4, 8, 8]
    quarters = glyphs[..., None] * _ink(inks, generator)[:, :, None, None]  # [N, 4, 8, 8, 3]
    half = CANVAS // 2
    grid = quarters.reshape(-1, 2, 2, half, half, 3).swapaxes(2, 3)  # [N, 2, 8, 2, 8, 3]
    return _develop(grid.reshape(-1, CANVAS, CANVAS, 3), noise, generator)


def _ink(inks: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.float32]:
    """The colour of each ink, at 80 to 100 % of its brightness: float32 [..., 3]."""
    return (COLOURS[inks] * generator.uniform(0.8, 1.0, (*inks.shape, 1))).astype(np.float32)


def _develop(light: NDArray[np.float32], noise: float, generator: np.random.Generator) -> NDArray[np.uint8]:
    noisy = light + noise * generator.standard_normal(light.shape, np.float32)
    canvas: NDArray[np.uint8] = np.rint(255 * noisy.clip(0, 1)).astype(np.uint8)
    return canvas
