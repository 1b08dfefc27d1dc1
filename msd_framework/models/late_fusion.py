"""Late fusion: one encoder a modality, their summaries fused and classified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from msd_framework.models.base import Encoder, MultimodalModel, encoder_problems
from msd_framework.models.distinct import encode_once, mixes_examples
from msd_framework.models.fusion import FUSIONS
from msd_framework.ranges import positive
from msd_framework.registry import MODELS
from msd_framework.structures import Inputs, ModalityInputs, ModelOutput, Setting

Made: TypeAlias = dict[tuple[str, int], Tensor]
"""Vectors [B, D] by modality and the inputs they were made of, so that views which show the same share them."""


@MODELS.register("late_fusion")
class LateFusion(MultimodalModel):
    r"""One encoder a modality; what an example lacks is a learned vector.

    .. math::
        x_m &= \begin{cases} W_m\, \mathrm{encoder}_m(\mathrm{input}_m) + b_m & \text{if the example has } m \\
                             \mathrm{missing}_m & \text{else} \end{cases} \\
        z &= \mathrm{classifier}(\mathrm{fusion}(x_1, \ldots, x_M))

    An example has a modality if it has a position of it that is neither masked nor special, so all ways of hiding one
    give the same logits. Of a modality that is left out of the inputs, the encoder does not run and gets no gradient:
    under DDP one view of a step must show it, as the full view does. All else always has one, be it zero.

    What several views show alike is encoded once for all of them, dropout inside the encoder included; by an encoder whose batch
    norm learns, once a view.

    Args:
        encoders: an encoder for each modality, by its name.
        num_classes: C.
        fusion: how the modalities' vectors become one: concat, sum, mean or gated.
        hidden_size: features of each modality's vector, and inside the classifier.
        dropout: the share of features that is dropped before either layer of the classifier.

    Raises:
        ValueError: if there is no encoder, or a size that is not positive.

    >>> from msd_framework.models.region_features import RegionFeatures
    >>> model = LateFusion({"image": RegionFeatures(feature_size=6), "sound": RegionFeatures(feature_size=4)}, num_classes=3)
    >>> image = ModalityInputs(torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.bool))
    >>> model({"image": image}).logits.shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        encoders: dict[str, Encoder],
        num_classes: int,
        fusion: Literal["concat", "sum", "mean", "gated"] = "concat",
        hidden_size: int = 256,
        dropout: float = 0.1,
    ):
        super().__init__()
        if not encoders:
            raise ValueError("encoders must name at least one modality, got none")
        positive(hidden_size=hidden_size)
        self.modalities = tuple(sorted(encoders))
        self.num_classes = num_classes
        self.encoders = nn.ModuleDict({m: encoders[m] for m in self.modalities})
        self.projections = nn.ModuleDict({m: nn.Linear(encoders[m].width, hidden_size) for m in self.modalities})
        self.missing = nn.ParameterDict({m: nn.Parameter(0.02 * torch.randn(hidden_size)) for m in self.modalities})
        self.fusion = FUSIONS[fusion](len(encoders), hidden_size)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(self.fusion.width, hidden_size),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, num_classes),
        )

    @classmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(sorted(options["encoders"]))

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        return [text for m, spec in options["encoders"].items() for text in encoder_problems(f"encoders.{m}", spec, m, setting)]

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        specs = options["encoders"]
        return {**options, "encoders": {m: e.rebuild_spec(specs[m]) for m, e in self.encoders.items() if isinstance(e, Encoder)}}

    def forward(self, inputs: Inputs) -> ModelOutput:
        return ModelOutput(self.forward_views([inputs]).logits[0])  # [B, C]

    def forward_views(self, views: Sequence[Inputs]) -> ModelOutput:
        return ModelOutput(self.classify(self.summarise_views(views)))  # [V, B, C]

    @property
    def summary_size(self) -> int:
        return self.fusion.width

    def summarise_views(self, views: Sequence[Inputs]) -> Tensor:
        made: Made = {}
        return torch.stack([self._summary(self.own(inputs), made) for inputs in views])  # [V, B, D]

    def classify(self, summary: Tensor) -> Tensor:
        logits: Tensor = self.classifier(summary)
        return logits

    def _summary(self, inputs: Inputs, made: Made) -> Tensor:
        size = len(next(iter(inputs.values())).mask)
        vectors = torch.stack([self._vector(m, inputs.get(m), size, made) for m in self.modalities], 1)  # [B, M, D]
        fused: Tensor = self.fusion(vectors)
        return fused

    def _vector(self, modality: str, inputs: ModalityInputs | None, size: int, made: Made) -> Tensor:
        missing: Tensor = self.missing[modality].expand(size, -1)  # [B, D]
        if inputs is None:
            return missing
        encoder, key = self.encoders[modality], (modality, id(inputs))
        if key not in made or mixes_examples(encoder):
            made[key] = self.projections[modality](encode_once(encoder, inputs, lambda x: encoder(x).pooled))  # [B, D]
        return torch.where(inputs.present[:, None], made[key], missing)
