"""Hides a random modality of some training examples, so that a model learns to answer from the others."""

from __future__ import annotations

from dataclasses import replace

import torch

from msd_framework.structures import Batch


def modality_dropout(batch: Batch, probability: float) -> Batch:
    """The batch with each modality masked out of a random share of its examples, at most one an example.

    Args:
        probability: the share of examples that lose a modality, for each of the M modalities; at most 1 / M.
    """
    if probability == 0:
        return batch
    draw = torch.rand(len(batch), device=batch.targets.device)  # [B]
    seen = {}
    for i, (modality, inputs) in enumerate(batch.inputs.items()):
        hidden = (i * probability <= draw) & (draw < (i + 1) * probability)  # [B]
        seen[modality] = replace(inputs, mask=inputs.mask & (inputs.special | ~hidden[:, None]), distinct=None)
    return batch.with_inputs(seen)
