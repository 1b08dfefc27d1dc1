"""Weights as others publish them: read, found under their prefixes, renamed, and their sizes told by their shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from msd_framework.models.layers.word_embeddings import TextSizes
from msd_framework.models.pretrained.weights import Pretrained, load_exactly, read_pretrained, read_tensors

Tensors = Mapping[str, Tensor]
Sizes = TypeVar("Sizes", bound=TextSizes)
FILE_ENDINGS = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")

# parts of the names of 2018, and what they became
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

# parts of the names of a BERT's weights, theirs to ours; the longer of two that overlap comes first
BERT_NAMES = {
    "embeddings.word_embeddings.": "embeddings.word.",
    "embeddings.position_embeddings.": "embeddings.position.",
    "embeddings.token_type_embeddings.": "embeddings.segment.",
    "embeddings.LayerNorm.": "embeddings.norm.",
    "encoder.layer.": "encoder.layers.",
    ".attention.self.query.": ".attention.query.",
    ".attention.self.key.": ".attention.key.",
    ".attention.self.value.": ".attention.value.",
    ".attention.output.dense.": ".attention.output.",
    ".attention.output.LayerNorm.": ".attention_norm.",
    ".intermediate.dense.": ".expand.",
    ".output.dense.": ".contract.",
    ".output.LayerNorm.": ".mlp_norm.",
    "pooler.dense.": "pooler.",
}

# what we call each size of a BERT, and what its config.json does
BERT_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "num_segments": "type_vocab_size",
}

# numbers of the parts of a torchvision ResNet without its classifier, and their names
RESNET_PARTS = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}
RESNET_NAMES = {f"image_encoder.grid.{number}.": f"image_encoder.grid.{name}." for number, name in RESNET_PARTS.items()}

# which of our tensors of a BERT tells a size, and in which of its dimensions
WORD_SHAPES = {
    "vocab_size": ("embeddings.word.weight", 0),
    "hidden_size": ("embeddings.word.weight", 1),
    "max_positions": ("embeddings.position.weight", 0),
    "num_segments": ("embeddings.segment.weight", 0),
}


@dataclass(frozen=True)
class WeightMap:
    """How published weights become those of a model, as a table."""

    names: tuple[Mapping[str, str], ...] = ()  # parts of names, theirs to ours, replaced in this order
    prefixes: tuple[str, ...] = ("",)  # under the first of these that there is stand the weights; "" is everything
    unused: tuple[str, ...] = (".position_ids",)  # parts of their names of what takes no part in any output
    only: tuple[str, ...] = ("",)  # how our names begin of what is taken
    left_out: tuple[str, ...] = ()  # how our names begin of what is not
    parts: tuple[str, ...] = ()  # the parts of the model that the weights are of
    shapes: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # which of our tensors tells a size, in which dimension
    counts: Mapping[str, str] = field(default_factory=dict)  # under which of our prefixes parts are numbered, a size's name first
    mark: str = ""  # how at least one of our names begins if the weights are of this kind
    kind: str = ""  # ends the sentence "the weights are not of ..." for a file of which no name does
    # how names of ours begin that a BERT lacks, and those of which they start as copies; "" leaves them as they are initially
    not_in_bert: Mapping[str, str] = field(default_factory=dict)
    bert_sizes: Mapping[str, str] = field(default_factory=dict)  # a size's name, and what a BERT's config.json calls it
    bert_fixed: Mapping[str, Any] = field(default_factory=dict)  # what that must state if it states it
    # how our names of an image encoder's weights begin; a file may lack them, and they then stay as they are
    image_encoder: str = "image_encoder."

    def ours(self, tensors: Tensors) -> dict[str, Tensor]:
        """The weights of a file by our names; none if there is no such prefix."""
        there = [prefix for prefix in self.prefixes if any(name.startswith(prefix) for name in tensors)]
        if not there:
            return {}
        prefix, renamed = there[0], {}
        for name, tensor in tensors.items():
            if not name.startswith(prefix) or any(part in name for part in self.unused):
                continue
            own = name.removeprefix(prefix)
            for names in (OLD_NAMES, *self.names):
                for theirs, ours in names.items():
                    own = own.replace(theirs, ours)
            if own.startswith(self.only) and not own.startswith(self.left_out):
                renamed[own] = tensor
        return renamed

    def theirs(self, tensors: Tensors) -> dict[str, Tensor]:
        """The weights of a model by their names, without prefix."""
        renamed = {}
        for name, tensor in tensors.items():
            for names in self.names:
                for theirs, ours in names.items():
                    name = name.replace(ours, theirs)
            renamed[name] = tensor
        return renamed

    def sizes(self, tensors: Tensors, source: str) -> dict[str, int]:
        """The sizes that the shapes of a file's weights tell, all but the heads."""
        own = self.ours(tensors)
        self._refuse_others(own, source)
        sizes = {size: own[name].shape[dim] for size, (name, dim) in self.shapes.items() if name in own}
        return sizes | {size: count(own, prefix) for size, prefix in self.counts.items()}

    def sizes_of(self, pretrained: Pretrained) -> dict[str, Any]:
        """The sizes that the shapes in a file tell, or that a folder's config.json states, which must be a BERT's."""
        config = pretrained.config
        if not config:
            return self.sizes(pretrained.tensors, pretrained.source)
        for key, value in {"model_type": "bert", "hidden_act": "gelu", **self.bert_fixed}.items():
            if config.get(key, value) != value:
                raise ValueError(f"{pretrained.source} has {key} {config[key]!r}, wanted {value!r}")
        return {ours: config[theirs] for ours, theirs in self.bert_sizes.items() if theirs in config}

    def body(self, model: nn.Module) -> nn.ModuleDict:
        return nn.ModuleDict({name: part for name, part in model.named_children() if name in self.parts})

    def load(self, model: nn.Module, pretrained: Pretrained | None) -> None:
        if pretrained is not None:
            body = self.body(model)
            load_exactly(body, self.complete(pretrained, body.state_dict()), pretrained.source)

    def load_head(self, head: nn.Module, pretrained: Pretrained | None) -> None:
        if pretrained is None:
            raise ValueError("pretrained_head needs pretrained, the file that the classifier is in")
        tensors = self.ours(pretrained.tensors)
        if not tensors:
            raise ValueError(f"there is no classifier in {pretrained.source}, so pretrained_head cannot take it")
        load_exactly(head, tensors, f"the classifier in {pretrained.source}")

    def complete(self, pretrained: Pretrained, initial: Tensors) -> dict[str, Tensor]:
        """The weights of a file by our names; where it may lack some, as a BERT does, the initial ones."""
        tensors = self.ours(pretrained.tensors)
        is_bert = bool(pretrained.config) and pretrained.config.get("model_type", "bert") == "bert"
        if is_bert and self.not_in_bert:
            parts = {name.partition(".")[0] for name in initial}
            tensors = {name: tensor for name, tensor in tensors.items() if name.partition(".")[0] in parts}
            for name, tensor in initial.items():
                for begin, copied in self.not_in_bert.items():
                    if name.startswith(begin):
                        tensors[name] = tensors.get(copied + name.removeprefix(begin), tensor)
        else:
            self._refuse_others(tensors, pretrained.source)
        own_encoder = {name: tensor for name, tensor in initial.items() if name.startswith(self.image_encoder)}
        published = any(name.startswith(self.image_encoder) for name in tensors)
        if published and not own_encoder:
            text = "have an image encoder, a ResNet; give the model one as image_encoder"
            raise ValueError(f"the weights of {pretrained.source} {text}")
        return known(tensors if published else own_encoder | tensors, initial)

    def _refuse_others(self, own: Tensors, source: str) -> None:
        if not any(name.startswith(self.mark) for name in own):
            raise ValueError(f"the weights of {source} are not of {self.kind}")


# MMF's classifier
MMF_HEADS = ("model.classifier.", "bert.classifier.", "base.classifier.", "classifier.")
HEAD = WeightMap(names=({"0.dense.": "0.", "0.LayerNorm.": "2.", "1.": "3."},), prefixes=MMF_HEADS)


def read_published(source: str) -> Pretrained:
    """The weights of one file, which states no sizes, or of a folder or hub name in the layout of transformers."""
    path = Path(source).expanduser()
    return Pretrained(source, {}, read_tensors(path)) if path.suffix in FILE_ENDINGS else read_pretrained(source)


def known(tensors: Tensors, initial: Tensors) -> dict[str, Tensor]:
    """All but the counters of batches that some versions of batch norms save."""
    return {n: t for n, t in tensors.items() if n in initial or not n.endswith(".num_batches_tracked")}


def count(names: Iterable[str], prefix: str) -> int:
    """How many numbered parts there are under a prefix: its layers."""
    numbers = set()
    for name in names:
        match = re.match(re.escape(prefix) + r"(\d+)\.", name)
        if match:
            numbers.add(match[1])
    return len(numbers)


def choose_sizes(
    kind: type[Sizes], sizes_of: Callable[[Pretrained], Any], arguments: Mapping[str, Any], pretrained: Pretrained | None
) -> Sizes:
    """The sizes of published weights if there are any, else those among a constructor's arguments, else the defaults."""
    given = {name: arguments[name] for name in kind.__dataclass_fields__ if arguments[name] is not None}
    if arguments["image_encoder"] is not None:
        given["feature_size"] = arguments["image_encoder"].width
    if pretrained is None:
        return kind(**given)
    published = sizes_of(pretrained)
    for name, size in given.items():
        theirs = published.get(name, size)
        if size != theirs and not (name == "vocab_size" and size < theirs):
            raise ValueError(f"{name} is {size}, and the weights of {pretrained.source} have {theirs}")
    return kind(**{**given, **published})
