"""Transformer layers: the ones of BERT, shared by every model and encoder that is written out here."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from msd_framework.models.layers.dropout import Dropout


@dataclass(frozen=True)
class LayerSizes:
    """What a transformer layer is made of."""

    hidden_size: int  # D
    num_heads: int
    intermediate_size: int  # features between the perceptron's two layers
    dropout: float = 0.1  # the share of features that is dropped after the attention and after the perceptron
    attention_dropout: float = 0.1  # the share of attention weights that is dropped
    norm_first: bool = False  # whether layer norms stand before the two parts rather than after their residuals
    layer_norm_eps: float = 1e-12


class Attention(nn.Module):
    r"""Multi-head attention of one sequence to another; a subclass says which.

    .. math:: \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V

    with d features a head. Written out rather than fused: it then has derivatives of derivatives, and forward-mode ones.

    Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017, section 3.2.
    """

    def __init__(self, width: int, other_width: int, hidden_size: int, num_heads: int, dropout: float):
        super().__init__()
        if num_heads < 1 or hidden_size % num_heads:
            raise ValueError(f"num_heads must divide hidden_size, got {num_heads} heads for {hidden_size} features")
        self.num_heads = num_heads
        self.dropout = Dropout(dropout)
        self.query = nn.Linear(width, hidden_size)
        self.key = nn.Linear(other_width, hidden_size)
        self.value = nn.Linear(other_width, hidden_size)
        self.output = nn.Linear(hidden_size, width)

    def read(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """What queries [B, Q, D] read in values [B, L, D] where the mask [B, L] of the keys is True, or everywhere."""
        return at_least_float32_on_cpu(partial(self._read, mask=mask), query, key, value)

    def _read(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        scores, value = self.scores(query, key), self._heads(value)  # [B, heads, Q, L], [B, heads, L, d]
        if mask is not None:
            # added rather than filled in, since the derivative of a sum costs nothing
            hidden = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, torch.finfo(scores.dtype).min)
            scores = scores + hidden[:, None, None, :]
        weights = self.dropout(scores.softmax(-1))
        return cast(Tensor, (weights @ value).transpose(1, 2).flatten(2))  # [B, Q, D]

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """How well queries [B, Q, D] fit keys [B, L, D], before any mask: [B, heads, Q, L]."""
        query, key = self._heads(query), self._heads(key)
        return cast(Tensor, query / query.shape[-1] ** 0.5 @ key.transpose(-1, -2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


def at_least_float32_on_cpu(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """What a function makes of tensors, on a CPU in float32 or more, autocast or not."""
    # oneDNN builds a bfloat16 kernel for every new shape, and each batch brings rows of new lengths
    if tensors[0].device.type != "cpu":
        return function(*tensors)
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        return function(*(x.to(dtype) for x in tensors))


class SelfAttention(Attention):
    """Multi-head attention of a sequence to itself."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float):
        super().__init__(hidden_size, hidden_size, hidden_size, num_heads, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """What each position reads [B, L, D] in the positions of a sequence [B, L, D] whose mask [B, L] is True."""
        return cast(Tensor, self.output(self.read(self.query(x), self.key(x), self.value(x), mask)))  # [B, L, D]


class TransformerLayer(nn.Module):
    r"""Attention and a two-layer perceptron, each with a residual and a layer norm.

    .. math::
        x' &= \mathrm{norm}(x + \mathrm{attention}(x)), & y &= \mathrm{norm}(x' + \mathrm{mlp}(x')) && \text{(BERT)} \\
        x' &= x + \mathrm{attention}(\mathrm{norm}(x)), & y &= x' + \mathrm{mlp}(\mathrm{norm}(x')) && \text{(norm first)}

    Source: Devlin et al., BERT, NAACL 2019; Xiong et al., On Layer Normalization in the Transformer Architecture, ICML 2020.
    """

    def __init__(self, sizes: LayerSizes, attention: Attention | None = None):
        super().__init__()
        if attention is None:
            attention = SelfAttention(sizes.hidden_size, sizes.num_heads, sizes.attention_dropout)
        self.attention = attention
        self.attention_norm = nn.LayerNorm(sizes.hidden_size, sizes.layer_norm_eps)
        self.expand = nn.Linear(sizes.hidden_size, sizes.intermediate_size)
        self.contract = nn.Linear(sizes.intermediate_size, sizes.hidden_size)
        self.mlp_norm = nn.LayerNorm(sizes.hidden_size, sizes.layer_norm_eps)
        self.dropout = Dropout(sizes.dropout)
        self.norm_first = sizes.norm_first

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """The sequence [B, L, D] one layer on; positions whose mask [B, L] is False are not read."""
        return self.step(x, whole, lambda y: self.attention(y, mask))

    def step(self, x: Tensor, keep: Callable[[Tensor], Tensor], attend: Callable[[Tensor], Tensor]) -> Tensor:
        """The positions that `keep` takes from x, one layer on, where `attend` says what each of them reads in x [.., D]."""
        if self.norm_first:
            x = keep(x) + self.dropout(attend(self.attention_norm(x)))
            x = x + self.dropout(self._mlp(self.mlp_norm(x)))
        else:
            x = self.attention_norm(keep(x) + self.dropout(attend(x)))
            x = self.mlp_norm(x + self.dropout(self._mlp(x)))
        return x

    def _mlp(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.contract(nn.functional.gelu(self.expand(x))))


class Transformer(nn.Module):
    """A stack of layers; where the norms come first, a last one ends the stack."""

    def __init__(self, num_layers: int, sizes: LayerSizes):
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(sizes) for _ in range(num_layers))
        self.last_norm = nn.LayerNorm(sizes.hidden_size, sizes.layer_norm_eps) if sizes.norm_first else nn.Identity()
        # the multiplications that a layer's matrices do for one token
        self.token_cost = 4 * sizes.hidden_size**2 + 2 * sizes.hidden_size * sizes.intermediate_size

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.trace(x, mask, ())[0]

    def trace(self, x: Tensor, mask: Tensor, layers: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """What `forward` returns, and the sequence [B, L, D] after some layers; 0 is before the first one."""
        states = {0: x} if 0 in layers else {}
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, mask)
            if number in layers:
                states[number] = x
        x = self.last_norm(x)
        if self.layers and len(self.layers) in layers:
            states[len(self.layers)] = x
        return x, states


def whole(x: Tensor) -> Tensor:
    """All positions go on."""
    return x


def bert_initialization(standard_deviation: float) -> Callable[[nn.Module], None]:
    """What BERT starts from, to be given to `nn.Module.apply`: normal weights, zero biases, zero padding embedding."""

    def initialize(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=standard_deviation)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])

    return initialize
