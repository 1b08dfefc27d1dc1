"""Two streams that read in each other: ViLBERT's co-attention."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from msd_framework.models.layers.transformer import Attention, LayerSizes, TransformerLayer, whole


@dataclass(frozen=True)
class Stream:
    """One modality on its way through the layers."""

    x: Tensor  # float [B, L, D]
    mask: Tensor  # bool [B, L], True where a position holds something
    keep: Collection[int] = ()  # the layers after which x is kept; 0 is before the first one
    layer: int = 0  # how many layers it went through
    states: Mapping[int, Tensor] = field(default_factory=dict)  # x by layer, where it was kept

    @classmethod
    def begin(cls, x: Tensor, mask: Tensor, keep: Collection[int]) -> Stream:
        return cls(x, mask, keep, states={0: x} if 0 in keep else {})

    def through(self, layer: nn.Module) -> Stream:
        x, number = layer(self.x, self.mask), self.layer + 1
        states = {**self.states, number: x} if number in self.keep else self.states
        return replace(self, x=x, layer=number, states=states)

    @property
    def present(self) -> Tensor:
        """Whether an example has any position in this stream, bool [B]."""
        return self.mask.any(1)

    @property
    def first(self) -> Tensor:
        """The first position of each example that is not masked, float [B, D]; any one where there is none."""
        index = self.mask.byte().argmax(1)  # [B]
        return self.x.take_along_dim(index[:, None, None], 1).squeeze(1)


class CrossAttention(Attention):
    """What one stream reads in another; where that has no position, nothing at all: zeros before the output."""

    def forward(self, x: Tensor, other: Stream | None) -> Tensor:
        """What positions [B, Q, width] read in the other stream; None is one that was left out."""
        query = self.query(x)  # [B, Q, D]
        read = torch.zeros_like(query)
        if other is not None:
            read = self.read(query, self.key(other.x), self.value(other.x), other.mask)
            # a softmax over nothing but hidden positions spreads evenly over them, so what it read is taken back
            read = read.masked_fill(~other.present[:, None, None], 0.0)
        return cast(Tensor, self.output(read))  # [B, Q, width]


class Connection(nn.Module):
    """Text and image read in each other at the same time: a layer each, whose attention is to the other stream.

    Source: Lu et al., ViLBERT, NeurIPS 2019, section 3.1.
    """

    def __init__(self, text: LayerSizes, image: LayerSizes, hidden_size: int, num_heads: int):
        super().__init__()

        def layer(own: LayerSizes, other: LayerSizes) -> TransformerLayer:
            widths = own.hidden_size, other.hidden_size
            return TransformerLayer(own, CrossAttention(*widths, hidden_size, num_heads, own.attention_dropout))

        self.text, self.image = layer(text, image), layer(image, text)

    def forward(self, text: Stream, image: Stream | None) -> tuple[Stream, Stream | None]:
        """Both streams one layer on; an image that was left out stays so."""
        read = replace(text, x=self.text.step(text.x, whole, lambda x: self.text.attention(x, image)))
        if image is None:
            return read, None
        return read, replace(image, x=self.image.step(image.x, whole, lambda x: self.image.attention(x, text)))
