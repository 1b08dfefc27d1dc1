"""Late fusion: one encoder a modality, their summaries fused and classified."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from functools import partial
from typing import ClassVar, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from msd_framework.models.base import MODELS, Encoder, ModelOfEncoders, SummaryModel, summary_and_features
from msd_framework.models.features import FUSED, SUMMARY, Features, hidden_feature, prefixed, within
from msd_framework.models.layers.distinct import OncePerInput, encode_once, mixes_examples
from msd_framework.ranges import positive
from msd_framework.structures import Feature, FeatureKind, Inputs, ModalityInputs, ModelOutput

VECTORS = f"{FUSED}.projected"  # each modality's vector as a position of its own

# the vectors [B, D] and intermediates of each modality, which views that show the same share
Once: TypeAlias = dict[str, OncePerInput[tuple[Tensor, Features]]]


class Fusion(nn.Module, ABC):
    """Makes one vector [B, width] of M vectors [B, M, D]."""

    def __init__(self, num_modalities: int, hidden_size: int):
        super().__init__()
        self.width = hidden_size

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...


class Concat(Fusion):
    def __init__(self, num_modalities: int, hidden_size: int):
        super().__init__(num_modalities, num_modalities * hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Sum(Fusion):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


class Mean(Fusion):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Gated(Fusion):
    r"""A gated multimodal unit: all vectors decide together how much of each feature comes from which.

    .. math:: h = \sum_m g_m \odot \tanh(x_m), \qquad g = \mathrm{softmax}_m(W [x_1; \ldots; x_M] + b)

    Source: Arevalo et al., Gated Multimodal Units for Information Fusion, ICLR workshop 2017, section 3.1.
    """

    def __init__(self, num_modalities: int, hidden_size: int):
        super().__init__(num_modalities, hidden_size)
        self.gates = nn.Linear(num_modalities * hidden_size, num_modalities * hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        gates: Tensor = self.gates(x.flatten(1)).view_as(x).softmax(1)  # [B, M, D]
        return (gates * torch.tanh(x)).sum(1)


FUSIONS: dict[str, type[Fusion]] = {"concat": Concat, "sum": Sum, "mean": Mean, "gated": Gated}


@MODELS.register("late_fusion")
class LateFusion(ModelOfEncoders, SummaryModel):
    r"""One encoder a modality; what an example lacks is a learned vector.

    .. math::
        x_m &= \begin{cases} W_m\, \mathrm{encoder}_m(\mathrm{input}_m) + b_m & \text{if the example has } m \\
                             \mathrm{missing}_m & \text{else} \end{cases} \\
        z &= \mathrm{classifier}(\mathrm{fusion}(x_1, \ldots, x_M))

    An example has a modality if it has a position of it that is neither masked nor special. Of a modality that is left out of the
    inputs, the encoder does not run and gets no gradient; all else always has one, be it zero. What several views show alike is
    encoded once for all of them, dropout inside the encoder included; by an encoder whose batch norm learns, once a view.

    Args:
        fusion: how the modalities' vectors become one: concat, sum, mean or gated.
        hidden_size: features of each modality's vector, and inside the classifier.
        dropout: the share of features that is dropped before either layer of the classifier.
    """

    separable: ClassVar[bool] = True

    def __init__(
        self,
        encoders: dict[str, Encoder],
        num_classes: int,
        fusion: Literal["concat", "sum", "mean", "gated"] = "concat",
        hidden_size: int = 256,
        dropout: float = 0.1,
    ):
        super().__init__(encoders, num_classes)
        positive(hidden_size=hidden_size)
        self.encoders = nn.ModuleDict(dict(sorted(encoders.items())))
        self.projections = nn.ModuleDict({m: nn.Linear(encoders[m].width, hidden_size) for m in self.modalities})
        self.missing = nn.ParameterDict({m: nn.Parameter(0.02 * torch.randn(hidden_size)) for m in self.modalities})
        self.fusion = FUSIONS[fusion](len(encoders), hidden_size)
        self.summary_size = self.fusion.width
        expand, last = nn.Linear(self.summary_size, hidden_size), nn.Linear(hidden_size, num_classes)
        self.classifier = nn.Sequential(nn.Dropout(dropout), expand, nn.GELU(), nn.Dropout(dropout), last)

    @property
    def feature_kinds(self) -> dict[str, FeatureKind]:
        return {SUMMARY: "pooled", VECTORS: "hidden", **self.encoder_feature_kinds()}

    def forward_features(self, views: Sequence[Inputs], wanted: Sequence[Collection[str]]) -> tuple[ModelOutput, list[Features]]:
        # views that show the same share all that is made of it, so each gets what any of them wants
        of_any = frozenset[str]().union(*wanted)
        once = self._once(of_any)
        summaries, features = [], []
        for inputs, names in zip(views, wanted):
            summary, of_view = self._summary(self.own(inputs), once, of_any)
            summaries.append(summary)
            features.append({name: of_view[name] for name in names})
        return ModelOutput(self.classify(torch.stack(summaries))), features

    def summarise_views(self, views: Sequence[Inputs]) -> Tensor:
        once = self._once(())
        return torch.stack([self._summary(self.own(inputs), once)[0] for inputs in views])  # [V, B, D]

    def classify(self, summary: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(summary))

    def _once(self, wanted: Collection[str]) -> Once:
        once = {}
        for m in self.modalities:
            once[m] = OncePerInput(partial(self._projected, m, within(m, wanted)), mixes_examples(self.encoders[m]))
        return once

    def _projected(self, modality: str, wanted: Collection[str], inputs: ModalityInputs) -> tuple[Tensor, Features]:
        encoder = self.encoders[modality]
        pooled, features = encode_once(encoder, inputs, lambda x: summary_and_features(encoder, x, wanted))
        return self.projections[modality](pooled), features  # [B, D]

    def _summary(self, inputs: Inputs, once: Once, wanted: Collection[str] = ()) -> tuple[Tensor, Features]:
        size = len(next(iter(inputs.values())).mask)
        features: Features = {}
        vectors = []
        for m in self.modalities:
            vector = self.missing[m].expand(size, -1)  # [B, D]
            if m in inputs:
                own, encoded = once[m](inputs[m])
                vector = torch.where(inputs[m].present[:, None], own, vector)
                features |= prefixed(m, encoded)
            vectors.append(vector)
        stacked = torch.stack(vectors, 1)  # [B, M, D]
        fused: Tensor = self.fusion(stacked)  # [B, D]
        if wanted:
            absent = torch.zeros_like(next(iter(inputs.values())).present)  # [B]
            present = [inputs[m].present if m in inputs else absent for m in self.modalities]
            for m, vector in zip(self.modalities, vectors):
                features[f"{m}.projected"] = Feature(vector)
            features[SUMMARY], features[VECTORS] = Feature(fused), hidden_feature(stacked, torch.stack(present, 1))
        return fused, features
