"""What all models share that are made of one encoder a modality."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from msd_framework.models.base import Encoder, MultimodalModel, encoder_problems
from msd_framework.models.features import Features, prefixed
from msd_framework.structures import FeatureKind, ModalityInputs, Setting


class ModelOfEncoders(MultimodalModel):
    """A model with the option ``encoders``, which a subclass registers among its modules.

    Args:
        encoders: an encoder for each modality, by its name.
        num_classes: C.
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
        problems = []
        for modality, spec in options["encoders"].items():
            problems += encoder_problems(f"encoders.{modality}", spec, modality, setting)
        return problems

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        specs = options["encoders"]
        encoders = {m: encoder.rebuild_spec(specs[m]) for m, encoder in self.encoders.items() if isinstance(encoder, Encoder)}
        return {**options, "encoders": encoders}

    def encoder_feature_kinds(self) -> dict[str, FeatureKind]:
        """Those of each encoder, and the vector that the model makes of its summary as `projected`."""
        kinds: dict[str, FeatureKind] = {}
        for modality, encoder in self.encoders.items():
            assert isinstance(encoder, Encoder)
            kinds |= prefixed(modality, {**encoder.feature_kinds, "projected": "pooled"})
        return kinds


def summary_and_features(encoder: nn.Module, inputs: ModalityInputs, wanted: Collection[str]) -> tuple[Tensor, Features]:
    """An encoder's summary [B, D] of a modality, and the intermediates that are wanted."""
    if not wanted:
        # called as a module, so that hooks on it run
        return encoder(inputs).pooled, {}
    assert isinstance(encoder, Encoder)
    encoded, features = encoder.forward_features(inputs, wanted)
    return encoded.pooled, features
