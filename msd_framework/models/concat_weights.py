"""ConcatBERT's weights under the names that MMBT's authors and MMF give them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from msd_framework.models.mmbt_weights import RESNET_NAMES, with_image_encoder
from msd_framework.models.published import below, renamed
from msd_framework.models.weights import Pretrained

THEIR_NAMES = {
    "base.text.": "text_encoder.model.",
    "base.modal.model.": "image_encoder.grid.",
    "txtenc.bert.": "text_encoder.model.",
    "imgenc.model.": "image_encoder.grid.",
}
"""How names begin, MMF's and the authors' to ours; a BERT of transformers has its own names under ours."""


BODY = ("text_encoder.", "image_encoder.")


def body_tensors(pretrained: Pretrained, initial: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of both encoders by our names; an image encoder that the file has none of stays as it is initially.

    Raises:
        ValueError: if there is no text encoder in the file, or an image encoder that the model has none of.
    """
    theirs = {n: t for n, t in pretrained.tensors.items() if not n.endswith(".position_ids")}
    tensors = {n: t for n, t in renamed(theirs, THEIR_NAMES, RESNET_NAMES).items() if n.startswith(BODY)}
    if not any(n.startswith("text_encoder.") for n in tensors):
        raise ValueError(f"the weights of {pretrained.source} are not of a ConcatBERT: there is no base.text or txtenc")
    return with_image_encoder(tensors, initial, pretrained.source)


def head_tensors(pretrained: Pretrained | None) -> dict[str, Tensor]:
    """The weights of the perceptron, by the numbers of its parts.

    Raises:
        ValueError: if there are no weights, or no perceptron among them.
    """
    if pretrained is None:
        raise ValueError("pretrained_head needs pretrained, the file that the classifier is in")
    tensors = below(pretrained.tensors, ("classifier.layers.", "clf."))
    if not tensors:
        raise ValueError(f"there is no classifier in {pretrained.source}, so pretrained_head cannot take it")
    return tensors
