"""ViLBERT's weights and sizes under the names that its authors and MMF give them."""

from __future__ import annotations

from dataclasses import dataclass

from msd_framework.models.layers.transformer import LayerSizes
from msd_framework.models.layers.word_embeddings import TextSizes
from msd_framework.models.pretrained.published import BERT_NAMES, BERT_SIZES, WORD_SHAPES, WeightMap

LAYER_NORM_EPS = 1e-12  # what all of ViLBERT's layer norms add to the variance

# under which the two streams stand: in MMF's files, in its old ones, and in the authors' and transformers'
PREFIXES = ("model.bert.", "bert.bert.", "bert.")

# parts of names, theirs to ours: 1 is vision and 2 is text, and who reads has the query; BERT's own follow
THEIR_NAMES = {
    "v_embeddings.image_embeddings.": "image_embeddings.feature.",
    "v_embeddings.image_location_embeddings.": "image_embeddings.location.",
    "v_embeddings.LayerNorm.": "image_embeddings.norm.",
    "encoder.layer.": "text_layers.",
    "encoder.v_layer.": "image_layers.",
    "encoder.c_layer.": "connections.",
    ".biattention.query1.": ".image.attention.query.",
    ".biattention.key2.": ".image.attention.key.",
    ".biattention.value2.": ".image.attention.value.",
    ".biOutput.dense1.": ".image.attention.output.",
    ".biOutput.LayerNorm1.": ".image.attention_norm.",
    ".v_intermediate.dense.": ".image.expand.",
    ".v_output.dense.": ".image.contract.",
    ".v_output.LayerNorm.": ".image.mlp_norm.",
    ".biattention.query2.": ".text.attention.query.",
    ".biattention.key1.": ".text.attention.key.",
    ".biattention.value1.": ".text.attention.value.",
    ".biOutput.dense2.": ".text.attention.output.",
    ".biOutput.LayerNorm2.": ".text.attention_norm.",
    ".t_intermediate.dense.": ".text.expand.",
    ".t_output.dense.": ".text.contract.",
    ".t_output.LayerNorm.": ".text.mlp_norm.",
    "t_pooler.dense.": "text_pooler.",
    "v_pooler.dense.": "image_pooler.",
}

# both streams; a BERT is the text's
WEIGHTS = WeightMap(
    names=(THEIR_NAMES, BERT_NAMES),
    prefixes=(*PREFIXES, ""),
    unused=(".biOutput.q_dense1.", ".biOutput.q_dense2.", ".position_ids"),
    parts=("embeddings", "image_embeddings", "text_layers", "image_layers", "connections", "text_pooler", "image_pooler"),
    shapes={
        **WORD_SHAPES,
        "intermediate_size": ("text_layers.0.expand.weight", 0),
        "feature_size": ("image_embeddings.feature.weight", 1),
        "image_hidden_size": ("image_embeddings.feature.weight", 0),
        "image_intermediate_size": ("image_layers.0.expand.weight", 0),
        "co_hidden_size": ("text_pooler.weight", 0),
    },
    counts={"num_layers": "text_layers.", "image_num_layers": "image_layers.", "num_connections": "connections."},
    mark="image_embeddings.feature.weight",
    kind=f"a ViLBERT: there are no v_embeddings under {PREFIXES}",
    not_in_bert=dict.fromkeys(("image_embeddings.", "image_layers.", "connections.", "text_pooler.", "image_pooler."), ""),
    bert_sizes=BERT_SIZES,
    bert_fixed={"layer_norm_eps": LAYER_NORM_EPS},
)


@dataclass(frozen=True)
class VilbertSizes(TextSizes):
    """What fixes the shapes of ViLBERT's weights, and the heads; the defaults are those of the published model."""

    image_hidden_size: int = 1024
    image_num_layers: int = 6
    image_num_heads: int = 8
    image_intermediate_size: int = 1024
    co_hidden_size: int = 1024
    co_num_heads: int = 8
    num_connections: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        for of, width, heads in (
            ("", self.hidden_size, self.num_heads),
            ("image_", self.image_hidden_size, self.image_num_heads),
            ("co_", self.co_hidden_size, self.co_num_heads),
        ):
            if width % heads:
                raise ValueError(f"{of}num_heads must divide {of}hidden_size, got {heads} heads for {width} features")
        most = min(self.num_layers, self.image_num_layers)
        if self.num_connections > most:
            text = f"num_connections must be at most {most}, the layers of the shorter stream, got {self.num_connections}"
            raise ValueError(text)

    def layers(self, dropout: float, attention_dropout: float) -> tuple[LayerSizes, LayerSizes]:
        dropouts = dropout, attention_dropout, False
        text = self.hidden_size, self.num_heads, self.intermediate_size, *dropouts
        image = self.image_hidden_size, self.image_num_heads, self.image_intermediate_size, *dropouts
        return LayerSizes(*text, LAYER_NORM_EPS), LayerSizes(*image, LAYER_NORM_EPS)
