"""Hides random modalities of some training examples, so that a model learns to answer from the others."""

from __future__ import annotations

from dataclasses import replace

import torch

from msd_framework.maskers.content import special_first
from msd_framework.structures import Batch


def modality_dropout(batch: Batch, probability: float) -> Batch:
    """The batch with each modality hidden in a random share of its examples, or all others hidden instead.

    With two modalities that is the same. With more, every other one of these examples shows the modality alone, so that a
    model learns from all views that saliency asks for. To a model, an example looks as the masker `drop` shows it. The
    probability is that of each of the M modalities, at most 1 / M.
    """
    if probability == 0:
        return batch
    draw = torch.rand(len(batch), device=batch.targets.device)  # [B], in [0, 1)
    hidden = {m: torch.zeros_like(draw, dtype=torch.bool) for m in batch.inputs}  # [B] each
    for i, modality in enumerate(batch.inputs):
        # draws from i p to (i + 1) p choose this modality
        chosen = (i * probability <= draw) & (draw < (i + 1) * probability)
        alone = chosen & ((i + 0.5) * probability <= draw) if len(hidden) > 2 else torch.zeros_like(chosen)
        for other in hidden:
            hidden[other] = hidden[other] | (chosen & ~alone if other == modality else alone)
    if batch.having:
        # an example that would be left with nothing keeps all it has
        left = torch.zeros_like(draw, dtype=torch.bool)
        for modality, rows in hidden.items():
            left = left | (~rows & batch.having[modality] if modality in batch.having else ~rows)
        hidden = {m: rows & left for m, rows in hidden.items()}
    inputs = {m: replace(special_first(x, hidden[m]), distinct=None) for m, x in batch.inputs.items()}
    return batch.with_inputs(inputs)
