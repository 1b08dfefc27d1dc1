"""What models of an image and a text have in common: which inputs they take, and what is a region."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from msd_framework.models.base import Encoded, Encoder, encoder_problems
from msd_framework.models.distinct import encode_once
from msd_framework.models.pooling import visible
from msd_framework.structures import ModalityInputs, Setting


def image_text_problems(options: Mapping[str, Any], setting: Setting) -> list[str]:
    """Sentences where the processors make other values than regions, or pixels for an image encoder, and words."""
    encoder, image, text = options.get("image_encoder"), setting.kinds.get("image"), setting.kinds.get("text")
    problems = [] if encoder is None else encoder_problems("image_encoder", encoder, "image", setting)
    if encoder is None and image not in (None, "features"):
        problems.append(f"image_encoder: must be given, since the values of 'image' are {image} and no features.")
    if text not in (None, "tokens"):
        problems.append(f"the values of 'text' must be tokens, and the processor makes {text}.")
    return problems


def regions_of(image: ModalityInputs, encoder: Encoder | None, feature_size: int) -> tuple[Tensor, Tensor]:
    """An image's regions [B, L, F] with zeros where the mask is False, and the mask [B, L].

    Args:
        image: pixels for the encoder, or features.
        encoder: what makes tokens of pixels, if anything does.
        feature_size: F.

    Raises:
        ValueError: if there is no encoder and the image is no features of this size.
    """
    if encoder is not None:
        encoded: Encoded = encode_once(encoder, image, encoder)
        return visible(encoded.tokens, encoded.mask), encoded.mask
    if image.values.ndim != 3 or image.values.shape[-1] != feature_size:
        raise ValueError(
            f"image must be features [B, L, {feature_size}], got {list(image.values.shape)}; "
            f"set feature_size, or give pixels an image_encoder"
        )
    return visible(image.values, image.mask), image.mask
