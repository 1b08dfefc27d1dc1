"""Two streams that read in each other: ViLBERT's co-attention."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from msd_framework.models.layers.dropout import Dropout
from msd_framework.models.layers.transformer import Attention


@dataclass(frozen=True)
class Stream:
    """One modality on its way through the layers.

    Args:
        x: float [B, L, D].
        mask: bool [B, L], True where a position holds something.
        keep: the layers after which x is kept; 0 is before the first one.
        layer: how many layers it went through.
        states: x by layer, where it was kept.
    """

    x: Tensor
    mask: Tensor
    keep: Collection[int] = ()
    layer: int = 0
    states: Mapping[int, Tensor] = field(default_factory=dict)

    @classmethod
    def begin(cls, x: Tensor, mask: Tensor, keep: Collection[int]) -> Stream:
        """A stream before its first layer."""
        return cls(x, mask, keep, states={0: x} if 0 in keep else {})

    def through(self, layer: nn.Module) -> Stream:
        """The stream one layer on."""
        x, number = layer(self.x, self.mask), self.layer + 1
        return replace(self, x=x, layer=number, states={**self.states, number: x} if number in self.keep else self.states)

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
    """What a stream reads in another one; nothing at all, which is zeros before the output, where that has no position.

    Args:
        width: features of the stream that reads.
        other_width: features of the one that is read.
        hidden_size: D, features of queries, keys and values.
        num_heads: into how many heads D is split.
        dropout: the share of attention weights that is dropped.
    """

    def __init__(self, width: int, other_width: int, hidden_size: int, num_heads: int, dropout: float):
        super().__init__(hidden_size, num_heads, dropout)
        self.query = nn.Linear(width, hidden_size)
        self.key = nn.Linear(other_width, hidden_size)
        self.value = nn.Linear(other_width, hidden_size)
        self.output = nn.Linear(hidden_size, width)

    def forward(self, x: Tensor, other: Stream | None) -> Tensor:
        """What the positions of one stream [B, Q, width] read in the other; None is one that was left out."""
        query = self.query(x)  # [B, Q, D]
        read = torch.zeros_like(query)
        if other is not None:
            read = self.read(query, self.key(other.x), self.value(other.x), other.mask)
            # a softmax over nothing but hidden positions spreads evenly over them, so what it read is taken back
            read = read.masked_fill(~other.present[:, None, None], 0.0)
        output: Tensor = self.output(read)  # [B, Q, width]
        return output


class CrossAttentionLayer(nn.Module):
    r"""One stream's half of a connection.

    .. math:: x' = \mathrm{norm}(x + \mathrm{attention}(x, y)), \qquad \mathrm{norm}(x' + \mathrm{mlp}(x'))

    Args:
        width: features of the stream.
        intermediate_size: features between the perceptron's two layers.
        other_width: features of the stream that is read.
        hidden_size: features of queries, keys and values.
        num_heads: heads of the attention.
        dropout: the share of features that is dropped after either part.
        attention_dropout: the share of attention weights that is dropped.
        layer_norm_eps: what a layer norm adds to the variance.
    """

    def __init__(
        self,
        width: int,
        intermediate_size: int,
        other_width: int,
        hidden_size: int,
        num_heads: int,
        dropout: float,
        attention_dropout: float,
        layer_norm_eps: float,
    ):
        super().__init__()
        self.attention = CrossAttention(width, other_width, hidden_size, num_heads, attention_dropout)
        self.attention_norm = nn.LayerNorm(width, layer_norm_eps)
        self.expand = nn.Linear(width, intermediate_size)
        self.contract = nn.Linear(intermediate_size, width)
        self.mlp_norm = nn.LayerNorm(width, layer_norm_eps)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, other: Stream | None) -> Tensor:
        """The stream [B, L, width] one layer on, having read in the other."""
        x = self.attention_norm(x + self.dropout(self.attention(x, other)))
        y: Tensor = self.mlp_norm(x + self.dropout(self.contract(nn.functional.gelu(self.expand(x)))))
        return y


class Connection(nn.Module):
    """Text and image read in each other at the same time.

    Source: Lu et al., ViLBERT, NeurIPS 2019, section 3.1.

    Args:
        text: what the text reads in the image.
        image: what the image reads in the text.
    """

    def __init__(self, text: CrossAttentionLayer, image: CrossAttentionLayer):
        super().__init__()
        self.text, self.image = text, image

    def forward(self, text: Stream, image: Stream | None) -> tuple[Stream, Stream | None]:
        """Both streams one layer on; an image that was left out stays so."""
        read = replace(text, x=self.text(text.x, image))
        return read, None if image is None else replace(image, x=self.image(image.x, text))
