"""Intermediates of a model by name, such as `image.9.hidden`: which there are, and how they are read off a transformer's layers.

A name is ``<part>.<layer>.<what>``. The part is a modality, whose own positions alone count, or `fused`, all that the model reads
as one sequence. Layer 0 is what the first layer reads. ``<part>.<what>`` is a summary that belongs to no layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor

from msd_framework.models.layers.pooling import masked_mean, visible
from msd_framework.models.layers.transformer import Transformer, TransformerLayer
from msd_framework.structures import Feature, FeatureKind

Features: TypeAlias = dict[str, Feature]
"""Intermediates of one view by name."""

FUSED = "fused"
"""The part that no modality has for itself."""

SUMMARY = "fused.pooled"
"""What a model's classifier reads."""

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
"""What a layer of a transformer has: its states, their mean, the first one, who looks at whom as probabilities and before the
softmax, and what that is made of, all heads of it."""

FROM_BELOW = frozenset({"attention", "scores", "query", "key", "value"})
"""Those that a layer makes of what it reads; the others are what it puts out."""


def layer_features(part: str, num_layers: int, whats: Collection[str] = KINDS) -> dict[str, FeatureKind]:
    """The names of a transformer's intermediates, and what each is.

    >>> list(layer_features("text", 1, ["hidden", "attention"]))
    ['text.0.hidden', 'text.1.hidden', 'text.1.attention']
    """
    own = [w for w in whats if w not in FROM_BELOW]
    return prefixed(part, {f"{i}.{w}": KINDS[w] for i in range(num_layers + 1) for w in (whats if i else own)})


def prefixed(part: str, features: Mapping[str, FeatureKind]) -> dict[str, FeatureKind]:
    """Names of intermediates under the name of the part that they belong to."""
    return {f"{part}.{name}" if part else name: kind for name, kind in features.items()}


def within(part: str, names: Iterable[str]) -> frozenset[str]:
    """The names that lie in a part, without its name.

    >>> sorted(within("image", ["image.2.hidden", "text.2.hidden", "image.pooled"]))
    ['2.hidden', 'pooled']
    """
    return frozenset(n.removeprefix(f"{part}.") for n in names if n.startswith(f"{part}."))


def layers_of(names: Iterable[str]) -> frozenset[int]:
    """The layers whose states must be kept for some intermediates.

    >>> sorted(layers_of(["fused.3.attention", "text.3.hidden", "fused.pooled", "last.hidden"]))
    [2, 3]
    """
    found = [parsed(name) for name in names]
    return frozenset(layer - (what in FROM_BELOW) for _, layer, what in found if layer is not None)


def parsed(name: str) -> tuple[str, int | None, str]:
    """The part, the layer and what it is; no layer where a name has no number.

    >>> parsed("image.9.hidden"), parsed("9.hidden"), parsed("last.hidden")
    (('image', 9, 'hidden'), ('', 9, 'hidden'), ('', None, 'hidden'))
    """
    at, _, what = name.rpartition(".")
    part, _, layer = at.rpartition(".")
    return part, int(layer) if layer.isdecimal() else None, what


@dataclass(frozen=True)
class Span:
    """The positions of a sequence that stand in one part.

    Args:
        start: the first of them.
        stop: the one after the last.
        mask: bool [B, stop - start], which of them hold something of the part.
    """

    start: int
    stop: int
    mask: Tensor


@dataclass(frozen=True)
class Trace:
    """What a transformer made of one view of a batch.

    Args:
        stack: the transformer.
        states: float [B, L, D] by layer, of those that were kept.
        mask: bool [B, L], the positions that are looked at.
        parts: where each part stands.
    """

    stack: Transformer
    states: Mapping[int, Tensor]
    mask: Tensor
    parts: Mapping[str, Span]

    def features(self, names: Iterable[str]) -> Features:
        """The intermediates of these names, of those that are read off layers and lie in parts that are there."""
        made: dict[tuple[str, int], Tensor] = {}
        found: Features = {}
        for name in names:
            part, layer, what = parsed(name)
            if layer is not None and part in self.parts:
                if (what, layer) not in made:
                    made[what, layer] = READ[what](self, layer)
                found[name] = CUT[KINDS[what]](made[what, layer], self.parts[part])
        return found

    def projected(self, layer: int, by: str) -> Tensor:
        """The queries, keys or values of all heads of a layer, [B, L, D]; of what it read, computed anew."""
        block = cast(TransformerLayer, self.stack.layers[layer - 1])
        x = self.states[layer - 1]
        made: Tensor = getattr(block.attention, by)(block.attention_norm(x) if block.norm_first else x)
        return made

    def scores(self, layer: int) -> Tensor:
        """How well each position's query fits each key, [B, H, L, L], float32 on a CPU as where the layer itself computes it."""
        attention = cast(TransformerLayer, self.stack.layers[layer - 1]).attention
        query, key = self.projected(layer, "query"), self.projected(layer, "key")
        if query.device.type != "cpu":
            return attention.scores(query, key)
        precise = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            return attention.scores(query.to(precise), key.to(precise))

    def attention(self, layer: int) -> Tensor:
        """How much each position looks at each other one, [B, H, L, L], before dropout."""
        scores = self.scores(layer)
        return scores.masked_fill(~self.mask[:, None, None, :], torch.finfo(scores.dtype).min).softmax(-1)


READ: Mapping[str, Callable[[Trace, int], Tensor]] = {
    "hidden": lambda trace, layer: trace.states[layer],
    "mean": lambda trace, layer: trace.states[layer],
    "cls": lambda trace, layer: trace.states[layer][:, 0],
    "attention": Trace.attention,
    "scores": Trace.scores,
    "query": lambda trace, layer: trace.projected(layer, "query"),
    "key": lambda trace, layer: trace.projected(layer, "key"),
    "value": lambda trace, layer: trace.projected(layer, "value"),
}
"""How each is read off all positions."""


def hidden_feature(states: Tensor, mask: Tensor) -> Feature:
    """States [B, L, D] with zeros where the mask is False."""
    return Feature(visible(states, mask), mask)


def _hidden(states: Tensor, part: Span) -> Feature:
    return hidden_feature(states[:, part.start : part.stop], part.mask)


def _pooled(states: Tensor, part: Span) -> Feature:
    return Feature(masked_mean(states[:, part.start : part.stop], part.mask) if states.ndim == 3 else states)


def _square(maps: Tensor, part: Span) -> Feature:
    own = maps[:, :, part.start : part.stop, part.start : part.stop]
    pairs = part.mask[:, None, :, None] & part.mask[:, None, None, :]  # [B, 1, L, L]
    return Feature(torch.where(pairs, own, torch.zeros((), dtype=own.dtype, device=own.device)), part.mask)


CUT: Mapping[FeatureKind, Callable[[Tensor, Span], Feature]] = {
    "hidden": _hidden,
    "pooled": _pooled,
    "attention": _square,
    "scores": _square,
}
"""How a part is taken from what was read off all positions."""


# ---- names that a user writes ----


def numbered(pattern: str, feature_kinds: Iterable[str]) -> dict[int, str]:
    """The intermediates of a name whose layer is `*`, by layer, those of the embeddings left out.

    >>> numbered("text.*.hidden", ["text.0.hidden", "text.1.hidden", "text.2.hidden", "text.2.cls"])
    {1: 'text.1.hidden', 2: 'text.2.hidden'}
    """
    part, _, what = pattern.partition(".*.")
    layer = re.compile(rf"{re.escape(part)}\.([1-9]\d*)\.{re.escape(what)}")
    found = {int(match[1]): name for name in feature_kinds if (match := layer.fullmatch(name))}
    return dict(sorted(found.items()))


def told(feature_kinds: Iterable[str]) -> str:
    """A list of intermediates in which layers of one part stand together.

    >>> told(["text.0.hidden", "text.1.hidden", "text.1.cls", "fused.pooled"])
    'text.{0..1}.hidden, text.1.cls, fused.pooled'
    """
    layers: dict[tuple[str, str], list[str]] = {}
    for name in feature_kinds:
        part, *layer, what = name.split(".")
        layers.setdefault((part, what), []).extend(layer)
    return ", ".join(f"{part}.{_range(found)}{what}" for (part, what), found in layers.items()) or "none"


def _range(layers: Sequence[str]) -> str:
    counted = sorted(int(i) for i in layers if i.isdecimal())
    named = [i for i in layers if not i.isdecimal()]
    if len(counted) > 1:
        named.append(f"{counted[0]}..{counted[-1]}")
    else:
        named += map(str, counted)
    return "" if not named else f"{named[0]}." if len(named) == 1 and ".." not in named[0] else f"{{{','.join(named)}}}."
