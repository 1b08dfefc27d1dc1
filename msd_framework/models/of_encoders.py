"""What all models share that are made of one encoder a modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from msd_framework.models.base import Encoder, MultimodalModel, encoder_problems
from msd_framework.structures import Setting


class ModelOfEncoders(MultimodalModel):
    """A model with the option ``encoders``, an encoder by the name of each modality that it reads."""

    encoders: nn.ModuleDict

    @classmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(sorted(options["encoders"]))

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        return [text for m, spec in options["encoders"].items() for text in encoder_problems(f"encoders.{m}", spec, m, setting)]

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        specs = options["encoders"]
        return {**options, "encoders": {m: e.rebuild_spec(specs[m]) for m, e in self.encoders.items() if isinstance(e, Encoder)}}
