"""ConcatBERT's weights under the names that MMBT's authors and MMF give them."""

from __future__ import annotations

from msd_framework.models.pretrained.published import RESNET_NAMES, WeightMap

# how names begin, MMF's and the authors' to ours; a BERT of transformers has its own names under ours
THEIR_NAMES = {
    "base.text.": "text_encoder.model.",
    "base.modal.model.": "image_encoder.grid.",
    "txtenc.bert.": "text_encoder.model.",
    "imgenc.model.": "image_encoder.grid.",
}

WEIGHTS = WeightMap(
    names=(THEIR_NAMES, RESNET_NAMES),
    only=("text_encoder.", "image_encoder."),
    parts=("text_encoder", "image_encoder"),
    mark="text_encoder.",
    kind="a ConcatBERT: there is no base.text or txtenc",
)

HEAD = WeightMap(prefixes=("classifier.layers.", "clf."))  # the perceptron, by the numbers of its parts
