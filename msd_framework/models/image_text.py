"""What models of an image and a text have in common: their inputs, their options, and what is a region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

from torch import Tensor

from msd_framework.models.base import Encoded, Encoder, SummaryModel, encoder_problems
from msd_framework.models.layers.distinct import encode_once
from msd_framework.structures import ModalityInputs, Setting

# the options that say which published weights a model begins with, as they are where there are none
NO_WEIGHTS: Mapping[str, Any] = {"pretrained": None}
NO_WEIGHTS_OR_HEAD: Mapping[str, Any] = {"pretrained": None, "pretrained_head": False}


class ImageTextModel(SummaryModel):
    """A model of a text and an image, which comes as regions or through an encoder of pixels.

    Args:
        num_classes: C.
        vocab_size: how many word ids there are; 30522 if neither this nor `pretrained` says.
        pad_id: the id of [PAD], which has no meaning to learn.
        feature_size: F, features a region; 2048 if neither this nor `pretrained` says. An image encoder sets it.
        hidden_size: D; 768 if neither this nor `pretrained` says.
        num_layers: transformer layers; 12 if neither this nor `pretrained` says.
        num_heads: heads of each attention; 12 if neither this nor `pretrained` says, which a file of weights alone never does.
        intermediate_size: features inside each layer's perceptron; 3072 if neither this nor `pretrained` says.
        max_positions: the longest text; 512 if neither this nor `pretrained` says.
        num_segments: segments that words and regions can have; 2 if neither this nor `pretrained` says.
        layer_norm_eps: what layer norms add to the variance; 1e-12 if neither this nor `pretrained` says.
        dropout: the share of features that is dropped.
        attention_dropout: the share of attention weights that is dropped.
        head: the classifier, one linear layer or MMF's dense, GELU, layer norm and linear.
        pretrained: a file of weights as MMF or the authors save them, or a folder or hub name of a BERT of transformers.
        pretrained_head: whether the classifier too is taken from the file, which then must have as many classes.
        image_encoder: turns pixels into regions; none if the image comes as features.
        cls_id: the id of [CLS], used only where the text is left out.
        sep_id: the id of [SEP], used only where the text is left out.
        initializer_range: standard deviation of the initial weights.
    """

    modalities = ("image", "text")
    without_weights: ClassVar[Mapping[str, Any]] = {}  # one of the two above
    image_encoder: Encoder | None
    sizes: Any = None  # a data class of what fixes the shapes of its weights, where published weights may do so

    @classmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        return cls.modalities

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        problems: list[str] = []
        for modality in ("text", "image"):
            if options.get(f"{modality}_encoder") is not None:
                problems += encoder_problems(f"{modality}_encoder", options[f"{modality}_encoder"], modality, setting)
        image, text = setting.kinds.get("image"), setting.kinds.get("text")
        if options.get("image_encoder") is None and image not in (None, "features"):
            problems.append(f"image_encoder: must be given, since the values of 'image' are {image} and no features.")
        if text not in (None, "tokens"):
            problems.append(f"the values of 'text' must be tokens, and the processor makes {text}.")
        return problems

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        encoders = {name: m.rebuild_spec(options[name]) for name, m in self.named_children() if isinstance(m, Encoder)}
        sizes = {} if self.sizes is None else asdict(self.sizes)
        return {**options, **sizes, **encoders, **self.without_weights}


def regions_of(image: ModalityInputs, encoder: Encoder | None, feature_size: int) -> tuple[Tensor, Tensor]:
    """An image's regions [B, L, F], which may be anything where the mask is False, and the mask [B, L]."""
    if encoder is not None:
        encoded: Encoded = encode_once(encoder, image, encoder)
        return encoded.tokens, encoded.mask
    if image.values.ndim != 3 or image.values.shape[-1] != feature_size:
        problem = f"image must be features [B, L, {feature_size}], got {list(image.values.shape)}"
        raise ValueError(f"{problem}; set feature_size, or give pixels an image_encoder")
    return image.values, image.mask
