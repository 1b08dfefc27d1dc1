"""Unimodal models: one encoder and a linear classifier."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from msd_framework.models.base import MODELS, Encoder, MultimodalModel, encoder_problems, summary_and_features
from msd_framework.models.features import SUMMARY, Features, prefixed, within
from msd_framework.models.layers.distinct import encode_once
from msd_framework.structures import Feature, FeatureKind, Inputs, ModelOutput, Setting


class UnimodalModel(MultimodalModel):
    r"""A classifier that looks at one modality and ignores the others: :math:`z = W\, \mathrm{encoder}(x) + b`.

    Args:
        encoder: makes a summary of the modality.
        num_classes: C.
        dropout: the share of the summary's features that is dropped.
    """

    modality: ClassVar[str]

    def __init__(self, encoder: Encoder, num_classes: int, dropout: float = 0.1):
        super().__init__()
        self.modalities, self.num_classes = (self.modality,), num_classes
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.width, num_classes)

    @classmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        return (cls.modality,)

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        return encoder_problems("encoder", options["encoder"], cls.modality, setting)

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {**options, "encoder": self.encoder.rebuild_spec(options["encoder"])}

    def forward(self, inputs: Inputs) -> ModelOutput:
        return self._classified(inputs, ())[0]

    @property
    def feature_kinds(self) -> dict[str, FeatureKind]:
        return prefixed(self.modality, self.encoder.feature_kinds) | {SUMMARY: "pooled"}

    def forward_features(self, views: Sequence[Inputs], wanted: Sequence[Collection[str]]) -> tuple[ModelOutput, list[Features]]:
        outputs, features = zip(*map(self._classified, views, wanted))
        return ModelOutput(torch.stack([output.logits for output in outputs])), list(features)

    def _classified(self, inputs: Inputs, wanted: Collection[str]) -> tuple[ModelOutput, Features]:
        own, of_encoder = self.own(inputs)[self.modality], within(self.modality, wanted)
        pooled, encoded = encode_once(self.encoder, own, lambda x: summary_and_features(self.encoder, x, of_encoder))
        features = prefixed(self.modality, encoded)
        if SUMMARY in wanted:
            features[SUMMARY] = Feature(pooled)
        return ModelOutput(self.classifier(self.dropout(pooled))), features  # [B, C]


@MODELS.register("unimodal_text")
class UnimodalText(UnimodalModel):
    """A classifier of the text alone."""

    modality = "text"


@MODELS.register("unimodal_image")
class UnimodalImage(UnimodalModel):
    """A classifier of the image alone."""

    modality = "image"


@MODELS.register("unimodal_audio")
class UnimodalAudio(UnimodalModel):
    """A classifier of the sound alone."""

    modality = "audio"
