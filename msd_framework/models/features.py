"""Intermediates of a model by name, such as `image.9.hidden`: which there are, and how they are read off a transformer's layers.

A name is ``<part>.<layer>.<what>``. The part is a modality, whose own positions alone count, or `fused`, all that the model reads
as one sequence. Layer 0 is what the first layer reads. ``<part>.<what>`` is a summary that belongs to no layer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from msd_framework.models.layers.pooling import masked_mean, visible
from msd_framework.models.layers.transformer import Transformer, TransformerLayer, at_least_float32_on_cpu
from msd_framework.structures import Feature, FeatureKind

T = TypeVar("T")
Features: TypeAlias = dict[str, Feature]  # intermediates of one view by name
FUSED = "fused"  # the part that no modality has for itself
SUMMARY = "fused.pooled"  # what a model's classifier reads

# What a layer of a transformer has: its states, their mean, the first one, who looks at whom as probabilities and before the
# softmax, and what that is made of, all heads of it.
KINDS: Mapping[str, FeatureKind] = {
    "hidden": "hidden",
    "mean": "pooled",
    "cls": "pooled",
    "attention": "attention",
    "scores": "scores",
    "query": "hidden",
    "key": "hidden",
    "value": "hidden",
}
NO_CLS = tuple(what for what in KINDS if what != "cls")  # what a layer has of a part that begins with no [CLS]
# those that a layer makes of what it reads; the others are what it puts out
FROM_BELOW = frozenset({"attention", "scores", "query", "key", "value"})


def layer_features(part: str, num_layers: int, whats: Collection[str] = KINDS) -> dict[str, FeatureKind]:
    """The names of a transformer's intermediates, and what each is."""
    kinds: dict[str, FeatureKind] = {}
    for layer in range(num_layers + 1):
        for what in whats:
            # nothing lies below layer 0
            if layer or what not in FROM_BELOW:
                kinds[f"{layer}.{what}"] = KINDS[what]
    return prefixed(part, kinds)


def prefixed(part: str, features: Mapping[str, T]) -> dict[str, T]:
    """Intermediates under the name of the part that they belong to."""
    return {f"{part}.{name}" if part else name: feature for name, feature in features.items()}


def within(part: str, names: Iterable[str]) -> frozenset[str]:
    """The names that lie in a part, without its name."""
    return frozenset(n.removeprefix(f"{part}.") for n in names if n.startswith(f"{part}."))


def parsed(name: str) -> tuple[str, int | None, str]:
    """The part, the layer and what it is; no layer where a name has no number.

    >>> parsed("image.9.hidden"), parsed("9.hidden"), parsed("last.hidden")
    (('image', 9, 'hidden'), ('', 9, 'hidden'), ('', None, 'hidden'))
    """
    at, _, what = name.rpartition(".")
    part, _, layer = at.rpartition(".")
    return part, int(layer) if layer.isdecimal() else None, what


def of_layers(names: Iterable[str]) -> dict[str, tuple[str, int, str]]:
    """The names that have a layer, each with its part, its layer and what it is."""
    layered = {}
    for name in names:
        part, layer, what = parsed(name)
        if layer is not None:
            layered[name] = part, layer, what
    return layered


def layers_of(names: Iterable[str]) -> frozenset[int]:
    """The layers whose states must be kept for some intermediates."""
    return frozenset(layer - (what in FROM_BELOW) for _, layer, what in of_layers(names).values())


def numbered(pattern: str, feature_kinds: Iterable[str]) -> dict[int, str]:
    """The intermediates of a name whose layer is `*`, by layer, those of the embeddings left out.

    >>> numbered("text.*.hidden", ["text.0.hidden", "text.1.hidden", "text.2.hidden", "text.2.cls"])
    {1: 'text.1.hidden', 2: 'text.2.hidden'}
    """
    part, _, what = pattern.partition(".*.")
    layer = re.compile(rf"{re.escape(part)}\.([1-9]\d*)\.{re.escape(what)}")
    matches = map(layer.fullmatch, feature_kinds)
    return dict(sorted((int(match[1]), match[0]) for match in matches if match))


def listing(feature_kinds: Iterable[str]) -> str:
    """A list of intermediates in which layers of one part stand together.

    >>> listing(["text.0.hidden", "text.1.hidden", "text.1.cls", "fused.pooled"])
    'text.{0..1}.hidden, text.1.cls, fused.pooled'
    """
    layers: dict[tuple[str, str], list[str]] = {}
    for name in feature_kinds:
        part, *layer, what = name.split(".")
        layers.setdefault((part, what), []).extend(layer)
    return ", ".join(f"{part}.{_braced(of_part)}{what}" for (part, what), of_part in layers.items()) or "none"


def _braced(layers: Sequence[str]) -> str:
    numbers = sorted(int(layer) for layer in layers if layer.isdecimal())
    entries = [layer for layer in layers if not layer.isdecimal()]
    if len(numbers) > 1:
        entries.append(f"{numbers[0]}..{numbers[-1]}")
    else:
        entries += map(str, numbers)
    if not entries:
        return ""
    is_single = len(entries) == 1 and ".." not in entries[0]
    return f"{entries[0]}." if is_single else f"{{{','.join(entries)}}}."


@dataclass(frozen=True)
class Span:
    """The positions of a sequence that stand in one part."""

    mask: Tensor  # bool [B, L'], which of them hold something of the part
    start: int = 0  # the first of them

    @property
    def stop(self) -> int:
        return self.start + self.mask.shape[1]


def stack_features(
    names: Iterable[str], stack: Transformer, states: Mapping[int, Tensor], mask: Tensor, parts: Mapping[str, Span]
) -> Features:
    """The intermediates that are read off a transformer's layers; `mask` [B, L] says which positions are looked at."""
    # several parts may want the same thing of all positions, which is computed once
    of_all: dict[tuple[int, str], Tensor] = {}
    features: Features = {}
    for name, (part, layer, what) in of_layers(names).items():
        if part not in parts:
            continue
        if (layer, what) not in of_all:
            of_all[layer, what] = _of_layer(stack, states, mask, layer, what)
        features[name] = cut(KINDS[what], of_all[layer, what], parts[part])
    return features


def _of_layer(stack: Transformer, states: Mapping[int, Tensor], mask: Tensor, layer: int, what: str) -> Tensor:
    if what not in FROM_BELOW:
        return states[layer][:, 0] if what == "cls" else states[layer]
    # of what the layer read, computed anew
    block, x = cast(TransformerLayer, stack.layers[layer - 1]), states[layer - 1]
    if what in ("query", "key", "value"):
        return _projected(block, x, what)
    query, key = _projected(block, x, "query"), _projected(block, x, "key")
    scores = at_least_float32_on_cpu(block.attention.scores, query, key)  # [B, H, L, L]
    if what == "scores":
        return scores
    return scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min).softmax(-1)  # before dropout


def _projected(block: TransformerLayer, x: Tensor, by: str) -> Tensor:
    """All heads, [B, L, D]; through a norm of its own, since one for all would add gradients in another order."""
    return cast(Tensor, getattr(block.attention, by)(block.attention_norm(x) if block.norm_first else x))


def hidden_feature(states: Tensor, mask: Tensor) -> Feature:
    """States [B, L, D] with zeros where the mask is False."""
    return Feature(visible(states, mask), mask)


def cut(kind: FeatureKind, values: Tensor, part: Span) -> Feature:
    """What a part has of an intermediate of all positions, [B, L, D] or [B, H, L, L], or of a summary [B, D], which is as it is."""
    own = slice(part.start, part.stop)
    if kind == "hidden":
        return hidden_feature(values[:, own], part.mask)
    if kind == "pooled":
        return Feature(masked_mean(values[:, own], part.mask) if values.ndim == 3 else values)
    pairs = part.mask[:, None, :, None] & part.mask[:, None, None, :]  # [B, 1, L, L]
    zero = torch.zeros((), dtype=values.dtype, device=values.device)
    return Feature(torch.where(pairs, values[:, :, own, own], zero), part.mask)
