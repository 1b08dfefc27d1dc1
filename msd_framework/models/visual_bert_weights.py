"""VisualBERT's weights and sizes under the names that transformers gives them, both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from msd_framework.models.transformer import Transformer
from msd_framework.models.weights import Pretrained

THEIR_NAMES = {
    "embeddings.word_embeddings.": "embeddings.word.",
    "embeddings.position_embeddings.": "embeddings.position.",
    "embeddings.token_type_embeddings.": "embeddings.segment.",
    "embeddings.visual_position_embeddings.": "embeddings.visual_position.",
    "embeddings.visual_token_type_embeddings.": "embeddings.visual_segment.",
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
"""Parts of names, theirs to ours; the longer of two that overlap comes first."""

THEIR_SIZES = {
    "vocab_size": "vocab_size",
    "feature_size": "visual_embedding_dim",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "num_segments": "type_vocab_size",
    "layer_norm_eps": "layer_norm_eps",
}

VISUAL = "embeddings.visual_"
"""How the names begin, ours and theirs, of what VisualBERT has and BERT has not."""


@dataclass(frozen=True)
class VisualBertSizes:
    """What fixes the shapes of VisualBERT's weights; the defaults are those of the published model."""

    vocab_size: int = 30522
    feature_size: int = 2048
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    num_segments: int = 2
    layer_norm_eps: float = 1e-12

    @classmethod
    def choose(cls, given: Mapping[str, Any], pretrained: Pretrained | None) -> VisualBertSizes:
        """The sizes of the published weights if there are any, else those given, else the defaults.

        A vocabulary that is smaller than the published one fits it: all its ids have an embedding.

        Raises:
            ValueError: if what was given contradicts the published weights, or if they are not of such a model.
        """
        named = {name: size for name, size in given.items() if size is not None}
        if pretrained is None:
            return cls(**named)
        sizes = sizes_of(pretrained)
        for name, size in named.items():
            theirs = sizes.get(name, size)
            if size != theirs and not (name == "vocab_size" and size < theirs):
                raise ValueError(f"{name} is {size}, and the weights of {pretrained.source} have {theirs}")
        return cls(**(named | sizes))

    def transformer(self, dropout: float, attention_dropout: float) -> Transformer:
        """Layers of these sizes."""
        sizes = (self.num_layers, self.hidden_size, self.num_heads, self.intermediate_size)
        return Transformer(*sizes, dropout, attention_dropout, layer_norm_eps=self.layer_norm_eps)

    def config(self) -> dict[str, Any]:
        """The sizes as a config.json calls them."""
        return {THEIR_SIZES[f.name]: getattr(self, f.name) for f in fields(self)}


def sizes_of(pretrained: Pretrained) -> dict[str, Any]:
    """The sizes that a published BERT or VisualBERT states.

    Raises:
        ValueError: if it is another kind of model, or one that computes something else.
    """
    config = pretrained.config
    kind = config.get("model_type")
    if kind not in ("visual_bert", "bert"):
        raise ValueError(f"{pretrained.source} holds a model of type {kind!r}, wanted 'visual_bert' or 'bert'")
    for key, value in {"hidden_act": "gelu", "bypass_transformer": False}.items():
        if config.get(key, value) != value:
            raise ValueError(f"{pretrained.source} has {key} {config[key]!r}, and visual_bert computes with {value!r} only")
    return {ours: config[theirs] for ours, theirs in THEIR_SIZES.items() if theirs in config}


def our_tensors(pretrained: Pretrained, initial: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights of a published BERT or VisualBERT by our names; its heads are left behind.

    What BERT lacks: the regions' positions and segments begin as those of the text, their projection stays as it is
    initially.
    """
    theirs = pretrained.tensors
    prefix = next((p for p in ("visual_bert.", "bert.") if any(name.startswith(p) for name in theirs)), "")
    own = {n.removeprefix(prefix): t for n, t in theirs.items() if n.startswith(prefix) and not n.endswith(".position_ids")}
    tensors = {_our_name(n): t for n, t in own.items()}
    if pretrained.config["model_type"] == "visual_bert":
        return tensors
    visual = {n: tensors.get(n.replace(VISUAL, "embeddings."), t) for n, t in initial.items() if n.startswith(VISUAL)}
    return visual | tensors


def write_transformers(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Writes an encoder's weights, named as ours, so that `transformers.VisualBertModel.from_pretrained` reads them."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    kept = {_their_name(n): t.detach().cpu().contiguous() for n, t in tensors.items()}
    text = json.dumps({"model_type": "visual_bert", "architectures": ["VisualBertModel"], **config}, indent=2)
    (folder / "config.json").write_text(text + "\n")
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # safetensors lets nobody else read it


def _our_name(name: str) -> str:
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")  # files of 2018
    for theirs, ours in THEIR_NAMES.items():
        name = name.replace(theirs, ours)
    return name


def _their_name(name: str) -> str:
    for theirs, ours in THEIR_NAMES.items():
        name = name.replace(ours, theirs)
    return name
