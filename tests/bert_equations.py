"""BERT, ViLBERT and MMBT as equations on published weights by their published names: what our models are compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from msd_framework.models.base import Encoded
from msd_framework.models.single_sequence import SingleSequence
from msd_framework.structures import Inputs

Weights = dict[str, Tensor]
"""A checkpoint's tensors, named as its publisher does."""


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.pow(2).mean(-1, keepdim=True)
    return w[f"{name}.weight"] * centred / (variance + 1e-12).sqrt() + w[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def attend(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor, heads: int) -> Tensor:
    def split(x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], heads, -1).permute(0, 2, 1, 3)

    query, key, value = split(query), split(key), split(value)
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    scores = scores + (1.0 - key_mask[:, None, None, :].to(scores.dtype)) * -10000.0
    read = scores.softmax(-1) @ value
    return read.permute(0, 2, 1, 3).flatten(2)


def bert_layer(w: Weights, name: str, x: Tensor, mask: Tensor, heads: int) -> Tensor:
    query, key, value = (linear(w, f"{name}.attention.self.{part}", x) for part in ("query", "key", "value"))
    read = linear(w, f"{name}.attention.output.dense", attend(query, key, value, mask, heads))
    x = norm(w, f"{name}.attention.output.LayerNorm", read + x)
    inner = gelu(linear(w, f"{name}.intermediate.dense", x))
    return norm(w, f"{name}.output.LayerNorm", linear(w, f"{name}.output.dense", inner) + x)


def word_embeddings(w: Weights, name: str, ids: Tensor, segments: Tensor) -> Tensor:
    position = w[f"{name}.position_embeddings.weight"][: ids.shape[1]]
    word, segment = w[f"{name}.word_embeddings.weight"][ids], w[f"{name}.token_type_embeddings.weight"][segments]
    return norm(w, f"{name}.LayerNorm", word + position + segment)


def transform_head(w: Weights, x: Tensor) -> Tensor:
    """MMF's classifier, of its own weights."""
    return linear(w, "1", norm(w, "0.LayerNorm", gelu(linear(w, "0.dense", x))))


def layer_shapes(name: str, width: int, inner: int) -> dict[str, tuple[int, ...]]:
    """The linear layers of a BERT layer."""
    parts = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    shapes: dict[str, tuple[int, ...]] = {f"{name}.{part}": (width, width) for part in parts}
    shapes |= {f"{name}.intermediate.dense": (inner, width), f"{name}.output.dense": (width, inner)}
    return shapes | {f"{name}.attention.output.LayerNorm": (width,), f"{name}.output.LayerNorm": (width,)}


def word_shapes(name: str, words: int, positions: int, segments: int, width: int) -> dict[str, tuple[int, ...]]:
    """The tables of words; a layer norm has one size, a table's name ends in embeddings."""
    tables = {"word_embeddings": words, "position_embeddings": positions, "token_type_embeddings": segments}
    return {f"{name}.{table}": (rows, width) for table, rows in tables.items()} | {f"{name}.LayerNorm": (width,)}


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Weights:
    """Every weight and bias of these parts, all of them off their usual 0 and 1; tables have no bias."""
    generator = torch.Generator().manual_seed(seed)

    def draw(shape: tuple[int, ...], mean: float = 0.0) -> Tensor:
        return mean + 0.3 * torch.randn(shape, generator=generator)

    weights: Weights = {}
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = draw(shape, mean=float(len(shape) == 1))
        if not name.endswith(("word_embeddings", "position_embeddings", "token_type_embeddings")):
            weights[f"{name}.bias"] = draw(shape[:1])
    return weights


def encoded(model: SingleSequence, inputs: Inputs) -> Encoded:
    """The sequence of one of our models after its last layer, padded, and its summary."""
    sequence, mask = model.embed(model.parts([inputs])[0])
    hidden = model.encoder(sequence, mask)  # [B, L, D]
    return Encoded(hidden, mask, model.pool(hidden[:, 0]))
