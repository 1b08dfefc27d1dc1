"""Weights as others publish them: read, found under their prefixes, renamed, and their sizes told by their shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from msd_framework.models.weights import Pretrained, load_exactly, read_pretrained, read_tensors

FILE_ENDINGS = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")

HEAD_NAMES = {"0.dense.": "0.", "0.LayerNorm.": "2.", "1.": "3."}
"""Parts of the names of MMF's classifier, theirs to ours."""


def read_published(source: str) -> Pretrained:
    """The weights of one file, which states no sizes, or of a folder or hub name in the layout of transformers.

    Raises:
        ValueError: if there is no such file, folder or name, or if it cannot be read.
    """
    path = Path(source).expanduser()
    if path.suffix not in FILE_ENDINGS:
        return read_pretrained(source)
    return Pretrained(source, {}, read_tensors(path))


def below(tensors: Mapping[str, Tensor], prefixes: Iterable[str]) -> dict[str, Tensor]:
    """The tensors under the first of these prefixes that there is, without it; none if there is none.

    >>> import torch
    >>> list(below({"model.bert.pooler": torch.ones(1), "model.cls": torch.ones(1)}, ["bert.", "model.bert."]))
    ['pooler']
    """
    found = next((p for p in prefixes if any(n.startswith(p) for n in tensors)), None)
    return {} if found is None else {n.removeprefix(found): t for n, t in tensors.items() if n.startswith(found)}


def renamed(tensors: Mapping[str, Tensor], *maps: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors with parts of their names replaced, in the order of the maps; names of 2018 and later ones give the same.

    >>> import torch
    >>> list(renamed({"layer.0.LayerNorm.gamma": torch.ones(1)}, {"layer.": "layers.", "LayerNorm.": "norm."}))
    ['layers.0.norm.weight']
    """
    return {_renamed(name, maps): t for name, t in tensors.items()}


def sizes_by_shape(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """Sizes, where the tensor is there that tells it: its name, and which of its dimensions."""
    return {size: tensors[name].shape[dim] for size, (name, dim) in shapes.items() if name in tensors}


def count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered parts there are under a prefix: its layers.

    >>> import torch
    >>> count({"layers.0.a": torch.ones(1), "layers.0.b": torch.ones(1), "layers.11.a": torch.ones(1)}, "layers.")
    2
    """
    return len({m.group(1) for n in tensors if (m := re.match(re.escape(prefix) + r"(\d+)\.", n))})


def chosen(given: Mapping[str, Any], published: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Sizes that were given, and those of published weights, which must not contradict each other.

    A vocabulary that is smaller than the published one fits it: all its ids have an embedding.

    Raises:
        ValueError: with the first size that does not fit.
    """
    named = {name: size for name, size in given.items() if size is not None}
    for name, size in named.items():
        theirs = published.get(name, size)
        if size != theirs and not (name == "vocab_size" and size < theirs):
            raise ValueError(f"{name} is {size}, and the weights of {source} have {theirs}")
    return named | dict(published)


def bert_sizes(pretrained: Pretrained, names: Mapping[str, str], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that a folder's config.json states, which must be of a BERT.

    Args:
        pretrained: the folder.
        names: what we call each size, and what the file does.
        fixed: what it must state if it states it.

    Raises:
        ValueError: if it is another kind of model, or one that computes something else.
    """
    config = pretrained.config
    for key, value in {"model_type": "bert", "hidden_act": "gelu", **fixed}.items():
        if config.get(key, value) != value:
            raise ValueError(f"{pretrained.source} has {key} {config[key]!r}, wanted {value!r}")
    return {ours: config[theirs] for ours, theirs in names.items() if theirs in config}


def load_head(head: nn.Module, pretrained: Pretrained | None, prefixes: Iterable[str] = ()) -> None:
    """Loads a classifier that was published with a model's weights.

    Args:
        head: one linear layer, or MMF's.
        pretrained: the weights.
        prefixes: under which the classifier stands besides those of MMF.

    Raises:
        ValueError: if there are no weights, no classifier among them, or one that does not fit.
    """
    if pretrained is None:
        raise ValueError("pretrained_head needs pretrained, the file that the classifier is in")
    tensors = below(pretrained.tensors, [*prefixes, "model.classifier.", "bert.classifier.", "base.classifier.", "classifier."])
    if not tensors:
        raise ValueError(f"there is no classifier in {pretrained.source}, so pretrained_head cannot take it")
    load_exactly(head, renamed(tensors, HEAD_NAMES), f"the classifier in {pretrained.source}")


def _renamed(name: str, maps: Iterable[Mapping[str, str]]) -> str:
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    for names in maps:
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
    return name
