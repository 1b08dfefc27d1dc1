"""VisualBERT's weights and sizes under the names that transformers gives them, both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from msd_framework.models.layers.transformer import LayerSizes, Transformer
from msd_framework.models.layers.word_embeddings import TextSizes
from msd_framework.models.pretrained.published import BERT_NAMES, BERT_SIZES, WeightMap
from msd_framework.models.pretrained.weights import Pretrained

THEIR_SIZES = BERT_SIZES | {"feature_size": "visual_embedding_dim", "layer_norm_eps": "layer_norm_eps"}

# parts of the names of what BERT has not, theirs to ours; BERT's own follow
VISUAL_NAMES = {
    "embeddings.visual_position_embeddings.": "embeddings.visual_position.",
    "embeddings.visual_token_type_embeddings.": "embeddings.visual_segment.",
}

# The encoder of a VisualBERT of transformers, whose heads are left behind. The regions' positions and segments begin as those of
# a BERT's text, their projection stays as it is initially.
WEIGHTS = WeightMap(
    names=(VISUAL_NAMES, BERT_NAMES),
    prefixes=("visual_bert.", "bert.", ""),
    parts=("embeddings", "encoder", "pooler"),
    not_in_bert={"embeddings.visual_": "embeddings."},
)


@dataclass(frozen=True)
class VisualBertSizes(TextSizes):
    """What fixes the shapes of VisualBERT's and MMBT's weights; the defaults are those of the published models."""

    layer_norm_eps: float = 1e-12

    def transformer(self, dropout: float, attention_dropout: float) -> Transformer:
        sizes = self.hidden_size, self.num_heads, self.intermediate_size, dropout, attention_dropout, False
        return Transformer(self.num_layers, LayerSizes(*sizes, self.layer_norm_eps))

    def config(self) -> dict[str, Any]:
        return {THEIR_SIZES[name]: size for name, size in asdict(self).items()}


def sizes_of(pretrained: Pretrained) -> dict[str, Any]:
    config = pretrained.config
    kind = config.get("model_type")
    if kind not in ("visual_bert", "bert"):
        raise ValueError(f"{pretrained.source} holds a model of type {kind!r}, wanted 'visual_bert' or 'bert'")
    for key, value in {"hidden_act": "gelu", "bypass_transformer": False}.items():
        if config.get(key, value) != value:
            raise ValueError(f"{pretrained.source} has {key} {config[key]!r}, and visual_bert computes with {value!r} only")
    return {ours: config[theirs] for ours, theirs in THEIR_SIZES.items() if theirs in config}


def write_transformers(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Writes an encoder's weights, named as ours, so that `transformers.VisualBertModel.from_pretrained` reads them."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    kept = {n: t.detach().cpu().contiguous() for n, t in WEIGHTS.theirs(tensors).items()}
    text = json.dumps({"model_type": "visual_bert", "architectures": ["VisualBertModel"], **config}, indent=2)
    (folder / "config.json").write_text(text + "\n")
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # safetensors lets nobody else read it
