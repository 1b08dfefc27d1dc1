"""MMBT's weights and sizes under the names that its authors and MMF give them, and those of a BERT to begin with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from msd_framework.models.published import below, bert_sizes, chosen, count, renamed, sizes_by_shape
from msd_framework.models.visual_bert_weights import THEIR_NAMES as BERT_NAMES
from msd_framework.models.visual_bert_weights import THEIR_SIZES, VisualBertSizes
from msd_framework.models.weights import Pretrained

PREFIXES = ("model.bert.mmbt.", "base.bert.mmbt.", "bert.mmbt.", "enc.", "bert.")
"""Under which the transformer stands: in MMF's files, in its old ones, in the authors' and in transformers'."""

HEAD_PREFIXES = ("clf.",)
"""Under which the authors' classifier stands."""

THEIR_NAMES = {
    "transformer.": "",
    "modal_encoder.proj_embeddings.": "image_projection.",
    "modal_encoder.encoder.model.": "image_encoder.grid.",
    "img_embeddings.img_embeddings.": "image_projection.",
    "img_encoder.model.": "image_encoder.grid.",
    "txt_embeddings.": "embeddings.",
}
"""Parts of names, theirs to ours, of what BERT has not; BERT's own follow."""

IMAGE_ENCODER = "image_encoder."
"""How our names of an image encoder's tensors begin."""

RESNET_NAMES = {f"image_encoder.grid.{i}.": f"image_encoder.grid.{name}." for i, name in enumerate(("conv1", "bn1"))} | {
    f"image_encoder.grid.{i + 3}.": f"image_encoder.grid.layer{i}." for i in range(1, 5)
}
"""Numbers of the parts of a torchvision ResNet without its classifier, and their names."""

REPEATED = ("modal_encoder.", "img_embeddings.", "clf.")
"""How the names begin of what is in their files twice, or takes no part in any output, once the others have our names."""

SHAPES = {
    "vocab_size": ("embeddings.word.weight", 0),
    "hidden_size": ("embeddings.word.weight", 1),
    "max_positions": ("embeddings.position.weight", 0),
    "num_segments": ("embeddings.segment.weight", 0),
    "intermediate_size": ("encoder.layers.0.expand.weight", 0),
    "feature_size": ("image_projection.weight", 1),
}


def choose_sizes(given: Mapping[str, Any], pretrained: Pretrained | None) -> VisualBertSizes:
    """The sizes of the published weights if there are any, else those given, else BERT's; they are of the kinds of VisualBERT's.

    Raises:
        ValueError: if what was given contradicts the published weights, or if they are not of such a model.
    """
    if pretrained is None:
        return VisualBertSizes(**chosen(given, {}, ""))
    return VisualBertSizes(**chosen(given, sizes_of(pretrained), pretrained.source))


def sizes_of(pretrained: Pretrained) -> dict[str, Any]:
    """The sizes that published weights tell: all but the heads of an MMBT's, or those of a BERT's.

    Raises:
        ValueError: if they are of neither.
    """
    if pretrained.config:
        return bert_sizes(pretrained, THEIR_SIZES, {})
    tensors = our_tensors(pretrained)
    if "image_projection.weight" not in tensors:
        raise ValueError(f"the weights of {pretrained.source} are not of an MMBT: no image is projected under any of {PREFIXES}")
    return sizes_by_shape(tensors, SHAPES) | {"num_layers": count(tensors, "encoder.layers.")}


def body_tensors(pretrained: Pretrained, initial: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the model by our names; of a BERT all but the projection of images, which stays as it is initially.

    An image encoder that the file has none of stays so too.

    Raises:
        ValueError: if there is an image encoder in the file and none in the model.
    """
    tensors = our_tensors(pretrained)
    if pretrained.config:
        tensors = {n: t for n, t in tensors.items() if n.startswith(("embeddings.", "encoder.", "pooler."))}
        tensors |= {n: t for n, t in initial.items() if n.startswith("image_projection.")}
    return with_image_encoder(tensors, initial, pretrained.source)


def with_image_encoder(tensors: Mapping[str, Tensor], initial: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The weights of a file by our names, with those of the model's own image encoder where the file has none.

    Raises:
        ValueError: if there is an image encoder in the file and none in the model.
    """
    own = {n: t for n, t in initial.items() if n.startswith(IMAGE_ENCODER)}
    published = any(n.startswith(IMAGE_ENCODER) for n in tensors)
    if published and not own:
        raise ValueError(f"the weights of {source} have an image encoder, a ResNet; give the model one as image_encoder")
    kept = {n: t for n, t in tensors.items() if n in initial or not n.endswith(".num_batches_tracked")}
    return kept if published else own | kept


def our_tensors(pretrained: Pretrained) -> dict[str, Tensor]:
    """All that stands under the transformer's prefix, by our names; without a prefix, everything."""
    theirs = below(pretrained.tensors, PREFIXES) or dict(pretrained.tensors)
    used = renamed({n: t for n, t in theirs.items() if not n.endswith(".position_ids")}, THEIR_NAMES, BERT_NAMES, RESNET_NAMES)
    return {n: t for n, t in used.items() if not n.startswith(REPEATED)}
