"""A classifier of each modality of its own, whose logits are averaged."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from msd_framework.models.base import MODELS, Encoder, ModelOfEncoders, summary_and_features
from msd_framework.models.features import Features, prefixed, within
from msd_framework.models.layers.distinct import encode_once
from msd_framework.models.layers.heads import hidden_layers
from msd_framework.ranges import not_negative, positive
from msd_framework.structures import Feature, FeatureKind, Inputs, ModalityInputs, ModelOutput


@MODELS.register("logit_fusion")
class LogitFusion(ModelOfEncoders):
    r"""Unimodal models under one name: shown one modality, it is the model of that one.

    .. math:: z = \frac{1}{|S|} \sum_{m \in S} W_m\, \mathrm{ReLU}(P_m\, \mathrm{encoder}_m(x_m) + c_m) + b_m

    with :math:`S` the modalities that the example has any content of; an example without content has logits 0. The layer
    `projections.<modality>` has the channels that a teacher may be told to keep. MMF's `late_fusion` is this model with two hidden
    layers and batch norms, which in training take one view at a time.

    Args:
        hidden_size: channels of each modality's projection.
        dropout: the share of channels that is dropped after each hidden layer.
        num_layers: hidden layers of each modality's projection; with none, a classifier reads its encoder's summary.
        batch_norm: whether each has a batch norm, as in MMF's weights.
    """

    separable: ClassVar[bool] = True

    def __init__(
        self,
        encoders: dict[str, Encoder],
        num_classes: int,
        hidden_size: int = 64,
        dropout: float = 0.1,
        num_layers: int = 1,
        batch_norm: bool = False,
    ):
        super().__init__(encoders, num_classes)
        positive(hidden_size=hidden_size)
        not_negative(num_layers=num_layers)
        self.encoders = nn.ModuleDict(dict(sorted(encoders.items())))
        self.projections, self.dropout, self.classifiers = nn.ModuleDict(), nn.Dropout(dropout), nn.ModuleDict()
        for m in self.modalities:
            layers = hidden_layers(encoders[m].width, hidden_size, num_layers, dropout, batch_norm)
            # the last dropout is the model's own, so that `projected` is what comes before it
            self.projections[m] = nn.Sequential(*layers[:-1])
        for m in self.modalities:
            self.classifiers[m] = nn.Linear(hidden_size if num_layers else encoders[m].width, num_classes)

    def forward(self, inputs: Inputs) -> ModelOutput:
        return self._classified(inputs, ())[0]

    @property
    def feature_kinds(self) -> dict[str, FeatureKind]:
        return self.encoder_feature_kinds()

    def forward_features(self, views: Sequence[Inputs], wanted: Sequence[Collection[str]]) -> tuple[ModelOutput, list[Features]]:
        outputs, features = zip(*map(self._classified, views, wanted))
        return ModelOutput(torch.stack([output.logits for output in outputs])), list(features)

    def _classified(self, inputs: Inputs, wanted: Collection[str]) -> tuple[ModelOutput, Features]:
        own = self.own(inputs)
        features: Features = {}
        hidden: dict[str, Tensor] = {}
        for m, x in own.items():
            hidden[m], of_modality = encode_once(self.encoders[m], x, partial(self._hidden, m, within(m, wanted)))
            features |= prefixed(m, of_modality)
        logits = torch.stack([self.classifiers[m](self.dropout(x)) for m, x in hidden.items()])  # [S, B, C]
        present = torch.stack([x.present for x in own.values()])[..., None].to(logits.dtype)  # [S, B, 1]
        return ModelOutput((present * logits).sum(0) / present.sum(0).clamp(min=1)), features

    def _hidden(self, modality: str, wanted: Collection[str], inputs: ModalityInputs) -> tuple[Tensor, Features]:
        pooled, features = summary_and_features(self.encoders[modality], inputs, wanted)
        hidden = self.projections[modality](pooled)
        if "projected" in wanted:
            features = {**features, "projected": Feature(hidden)}
        return hidden, features
