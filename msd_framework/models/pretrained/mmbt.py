"""MMBT's weights and sizes under the names that its authors and MMF give them, and those of a BERT to begin with."""

from __future__ import annotations

from dataclasses import replace

from msd_framework.models.pretrained import published
from msd_framework.models.pretrained.published import BERT_NAMES, RESNET_NAMES, WORD_SHAPES, WeightMap
from msd_framework.models.pretrained.visual_bert import THEIR_SIZES

# under which the transformer stands: in MMF's files, in its old ones, in the authors' and in transformers'
PREFIXES = ("model.bert.mmbt.", "base.bert.mmbt.", "bert.mmbt.", "enc.", "bert.")

# parts of names, theirs to ours, of what BERT has not; BERT's own follow
THEIR_NAMES = {
    "transformer.": "",
    "modal_encoder.proj_embeddings.": "image_projection.",
    "modal_encoder.encoder.model.": "image_encoder.grid.",
    "img_embeddings.img_embeddings.": "image_projection.",
    "img_encoder.model.": "image_encoder.grid.",
    "txt_embeddings.": "embeddings.",
}

# the whole model but its classifier
WEIGHTS = WeightMap(
    names=(THEIR_NAMES, BERT_NAMES, RESNET_NAMES),
    prefixes=(*PREFIXES, ""),
    left_out=("modal_encoder.", "img_embeddings.", "clf."),  # what stands there twice, or takes no part in any output
    parts=("embeddings", "image_projection", "encoder", "pooler", "image_encoder"),
    shapes={
        **WORD_SHAPES,
        "intermediate_size": ("encoder.layers.0.expand.weight", 0),
        "feature_size": ("image_projection.weight", 1),
    },
    counts={"num_layers": "encoder.layers."},
    mark="image_projection.weight",
    kind=f"an MMBT: no image is projected under any of {PREFIXES}",
    not_in_bert={"image_projection.": ""},
    bert_sizes=THEIR_SIZES,
)

HEAD = replace(published.HEAD, prefixes=("clf.", *published.MMF_HEADS))  # the authors' classifier, and MMF's
