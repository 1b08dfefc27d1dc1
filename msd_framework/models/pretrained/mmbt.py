"""MMBT's weights and sizes under the names that its authors and MMF give them, and those of a BERT to begin with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from msd_framework.models.pretrained import published
from msd_framework.models.pretrained.published import BERT_NAMES, RESNET_NAMES, WeightMap
from msd_framework.models.pretrained.visual_bert import THEIR_SIZES
from msd_framework.models.pretrained.weights import Pretrained

PREFIXES = ("model.bert.mmbt.", "base.bert.mmbt.", "bert.mmbt.", "enc.", "bert.")
"""Under which the transformer stands: in MMF's files, in its old ones, in the authors' and in transformers'."""

THEIR_NAMES = {
    "transformer.": "",
    "modal_encoder.proj_embeddings.": "image_projection.",
    "modal_encoder.encoder.model.": "image_encoder.grid.",
    "img_embeddings.img_embeddings.": "image_projection.",
    "img_encoder.model.": "image_encoder.grid.",
    "txt_embeddings.": "embeddings.",
}
"""Parts of names, theirs to ours, of what BERT has not; BERT's own follow."""

WEIGHTS = WeightMap(
    names=(THEIR_NAMES, BERT_NAMES, RESNET_NAMES),
    prefixes=(*PREFIXES, ""),
    left_out=("modal_encoder.", "img_embeddings.", "clf."),  # what stands there twice, or takes no part in any output
    parts=("embeddings", "image_projection", "encoder", "pooler", "image_encoder"),
    shapes={
        "vocab_size": ("embeddings.word.weight", 0),
        "hidden_size": ("embeddings.word.weight", 1),
        "max_positions": ("embeddings.position.weight", 0),
        "num_segments": ("embeddings.segment.weight", 0),
        "intermediate_size": ("encoder.layers.0.expand.weight", 0),
        "feature_size": ("image_projection.weight", 1),
    },
    counts={"num_layers": "encoder.layers."},
    mark="image_projection.weight",
    kind=f"an MMBT: no image is projected under any of {PREFIXES}",
    not_in_bert={"image_projection.": ""},
)
"""The whole model but its classifier."""

HEAD = replace(published.HEAD, prefixes=("clf.", *published.MMF_HEADS))
"""The authors' classifier, and MMF's."""


def sizes_of(pretrained: Pretrained) -> dict[str, Any]:
    """The sizes that published weights tell: all but the heads of an MMBT's, or those of a BERT's.

    Raises:
        ValueError: if they are of neither.
    """
    if pretrained.config:
        return published.bert_sizes(pretrained, THEIR_SIZES, {})
    return WEIGHTS.sizes(pretrained.tensors, pretrained.source)
