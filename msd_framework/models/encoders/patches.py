"""A small image encoder that starts from nothing: patches, each turned by a small perceptron."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from msd_framework.models.base import ENCODERS, Encoded, LayeredEncoder
from msd_framework.models.features import NO_CLS, Features, Span, layer_features, layers_of, stack_features
from msd_framework.models.layers.pooling import masked_mean, visible
from msd_framework.models.layers.transformer import LayerSizes, Transformer
from msd_framework.ranges import not_negative, positive
from msd_framework.structures import FeatureKind, ModalityInputs


@ENCODERS.register("patches")
class Patches(LayeredEncoder):
    r"""Cuts an image into patches that do not overlap, L of them.

    .. math:: x_l = W_2\, \mathrm{GELU}(W_1\, \mathrm{patch}_l + b_1) + b_2 + \mathrm{position}_l

    and then, if asked for, transformer layers with the norms first.

    Source: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, section 3.1, with a two-layer patch embedding.

    Args:
        image_size: pixels of a side, or [height, width].
        patch_size: pixels of a patch's side; it divides the image's.
        image_channels: colours.
        hidden_size: D.
        num_layers: transformer layers after the embedding.
        num_heads: heads of each attention.
        dropout: the share of features that is dropped.
    """

    kinds = frozenset({"pixels"})

    def __init__(
        self,
        image_size: int | list[int],
        patch_size: int = 8,
        image_channels: int = 3,
        hidden_size: int = 128,
        num_layers: int = 0,
        num_heads: int = 4,
        dropout: float = 0.1,
        freeze: bool = False,
    ):
        super().__init__()
        positive(image_channels=image_channels, hidden_size=hidden_size)
        not_negative(num_layers=num_layers)
        height, width = image_size if isinstance(image_size, list) else (image_size, image_size)
        if patch_size < 1 or height % patch_size or width % patch_size:
            raise ValueError(f"patch_size must divide image_size, got {patch_size} for {image_size}")
        self.width = hidden_size
        self.shape = (image_channels, height, width)
        self.unfold = nn.Unfold(patch_size, stride=patch_size)
        self.embed = nn.Sequential(
            nn.Linear(image_channels * patch_size**2, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size)
        )
        self.position = nn.Parameter(0.02 * torch.randn((height // patch_size) * (width // patch_size), hidden_size))
        self.dropout = nn.Dropout(dropout)
        sizes = LayerSizes(hidden_size, num_heads, 4 * hidden_size, dropout, dropout, norm_first=True, layer_norm_eps=1e-5)
        self.layers = Transformer(num_layers, sizes) if num_layers else None
        self.requires_grad_(not freeze)

    @property
    def feature_kinds(self) -> dict[str, FeatureKind]:
        if self.layers is None:
            return super().feature_kinds
        return super().feature_kinds | layer_features("", len(self.layers.layers), NO_CLS)

    def forward_features(self, inputs: ModalityInputs, wanted: Collection[str]) -> tuple[Encoded, Features]:
        if inputs.values.shape[1:] != self.shape:
            raise ValueError(f"images must be {list(self.shape)}, got {list(inputs.values.shape[1:])}")
        patches = self.unfold(visible(inputs.values, inputs.mask)).transpose(1, 2)  # [B, L, channels * patch * patch]
        tokens = self.dropout(self.embed(patches) + self.position)  # [B, L, D]
        mask = inputs.mask.expand(tokens.shape[:2])  # [B, L]
        of_layers: Features = {}
        if self.layers is not None:
            tokens, states = self.layers.trace(tokens, mask, layers_of(wanted))
            of_layers = stack_features(wanted, self.layers, states, mask, {"": Span(mask)})
        encoded = Encoded(tokens, mask, masked_mean(tokens, mask))
        return encoded, encoded.features(wanted) | of_layers
