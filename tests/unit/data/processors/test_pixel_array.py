"""Arrays of numbers as pixels."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from msd_framework.data.processors.arrays import PixelArray
from msd_framework.errors import DataError

COLOUR = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


def test_colour_is_channels_first_and_normalised() -> None:
    pixels = PixelArray([2, 3], channels=3, largest=255, mean=0.5, std=0.25)
    found = pixels.load(COLOUR)
    assert (found.shape, found.dtype) == ((3, 2, 3), torch.float32)
    np.testing.assert_allclose(found.numpy(), (COLOUR.transpose(2, 0, 1) / 255.0 - 0.5) / 0.25, atol=1e-6)  # float32


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">i4", np.float32, np.float64, ">f8", np.longdouble])
def test_grey_is_one_channel_whatever_its_numbers_are_kept_in(dtype: Any) -> None:
    pixels = PixelArray(2, largest=16)
    array = np.array([[0, 16], [8, 4]], dtype)
    batch = pixels.collate([pixels.load(array), pixels.load(array[..., None])])
    assert batch.values.tolist() == [[[[0.0, 1.0], [0.5, 0.25]]]] * 2
    assert batch.mask.tolist() == [[True], [True]]
    assert pixels.length(array) == 1


def test_pixels_are_read_backwards_and_of_tensors() -> None:
    pixels = PixelArray(2, largest=16)
    array = np.array([[8.0, 4.0], [0.0, 16.0]])
    for value in (array[::-1], torch.tensor([[0, 16], [8, 4]], dtype=torch.bfloat16, requires_grad=True)):
        assert pixels.load(value).tolist() == [[[0.0, 1.0], [0.5, 0.25]]]


@pytest.mark.parametrize(
    "array", [np.zeros((3, 2)), np.zeros((2, 2, 3)), np.zeros(4), np.array([["a", "b"], ["c", "d"]]), np.full((2, 2), np.nan)]
)
def test_anything_else_is_told(array: Any) -> None:
    wanted = f"an image is an array of {array.dtype} {list(array.shape) if array.ndim != 2 else [*array.shape, 1]}"
    with pytest.raises(DataError, match=re.escape(f"{wanted}, wanted finite numbers [2, 2, 1]")):
        PixelArray(2).load(array)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 0}, "size is 0, wanted a positive number, or"),
        ({"size": [1, 2, 3]}, "size is .1, 2, 3., wanted a positive number, or"),
        ({"size": 2, "channels": 2}, "channels is 2, wanted 3 for colour or 1 for grey"),
        ({"size": 2, "std": 0.0}, "std must be above 0"),
        ({"size": 2, "largest": -1.0}, "largest must be above 0"),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        PixelArray(**options)


def test_models_are_told_the_size_and_caches_what_makes_other_tensors() -> None:
    assert PixelArray(8).facts == {"image_size": 8, "image_channels": 1}
    assert PixelArray([8, 4], channels=3).facts == {"image_size": [8, 4], "image_channels": 3}
    made = [PixelArray(8), PixelArray(9), PixelArray(8, 3), PixelArray(8, largest=16), PixelArray(8, mean=1), PixelArray(8, std=2)]
    assert len({p.fingerprint for p in made}) == len(made)
