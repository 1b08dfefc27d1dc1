"""A linear student: what it says of two modalities is the sum of what it says of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from msd_framework.models.base import MultimodalModel
from msd_framework.structures import Inputs, ModelOutput


class LinearStudent(MultimodalModel):
    r"""Logits :math:`z = \sum_m W_m x_m` over the modalities that are shown.

    Args:
        modalities: their names.
        size: features of each.
    """

    def __init__(self, modalities: tuple[str, ...], size: int):
        super().__init__()
        self.modalities, self.num_classes = modalities, 2
        self.matrices = nn.ModuleDict({m: nn.Linear(size, 2, bias=False) for m in modalities})

    @classmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(options["modalities"])

    def forward(self, inputs: Inputs) -> ModelOutput:
        logits: list[Tensor] = [self.matrices[m](x.values[:, 0]) for m, x in self.own(inputs).items()]
        return ModelOutput(torch.stack(logits).sum(0))  # [B, 2]
