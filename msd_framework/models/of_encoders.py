"""What all models share that are made of one encoder a modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from msd_framework.models.base import Encoder, MultimodalModel, encoder_problems
from msd_framework.models.features import prefixed
from msd_framework.structures import FeatureKind, Setting


class ModelOfEncoders(MultimodalModel):
    """A model with the option ``encoders``, an encoder by the name of each modality that it reads.

    Args:
        encoders: them, which a subclass registers among its modules.
        num_classes: C.

    Raises:
        ValueError: if there is none.
    """

    encoders: nn.ModuleDict

    def __init__(self, encoders: Mapping[str, Encoder], num_classes: int):
        super().__init__()
        if not encoders:
            raise ValueError("encoders must name at least one modality, got none")
        self.modalities, self.num_classes = tuple(sorted(encoders)), num_classes

    @classmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(sorted(options["encoders"]))

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        return [text for m, spec in options["encoders"].items() for text in encoder_problems(f"encoders.{m}", spec, m, setting)]

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        specs = options["encoders"]
        return {**options, "encoders": {m: e.rebuild_spec(specs[m]) for m, e in self.encoders.items() if isinstance(e, Encoder)}}

    def encoder_feature_kinds(self) -> dict[str, FeatureKind]:
        """The intermediates of each encoder, and the vector that the model makes of its summary as `projected`."""
        found: dict[str, FeatureKind] = {}
        for modality, encoder in self.encoders.items():
            assert isinstance(encoder, Encoder)
            found |= prefixed(modality, {**encoder.feature_kinds, "projected": "pooled"})
        return found
