"""Hides random modalities of some training examples, so that a model learns to answer from the others."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from msd_framework.maskers.content import special_first
from msd_framework.structures import Batch


def modality_dropout(batch: Batch, probability: float) -> Batch:
    """The batch with each modality hidden in a random share of its examples, or all others hidden instead.

    With two modalities that is the same. With more, every other one of these examples shows the modality alone, so that a
    model learns from all views that saliency asks for. To a model, an example looks as the masker `drop` shows it.

    Args:
        probability: the share of examples that are without a modality, or show it alone, for each of the M modalities; at most
            1 / M.
    """
    if probability == 0:
        return batch
    draw = torch.rand(len(batch), device=batch.targets.device)  # [B]
    chosen = {m: (i * probability <= draw) & (draw < (i + 1) * probability) for i, m in enumerate(batch.inputs)}  # [B]
    last = len(chosen) if len(chosen) > 2 else 0
    alone = {m: chosen[m] & ((i + 0.5) * probability <= draw) for i, m in enumerate([*chosen][:last])}  # [B]
    hidden: dict[str, Tensor] = {}
    for modality in batch.inputs:
        by_any = reduce(or_, (by for m, by in alone.items() if m != modality), chosen[modality])  # [B]
        hidden[modality] = by_any & ~alone[modality] if alone else by_any
    if batch.having:  # of an example that would be left with nothing, nothing is hidden
        left = reduce(or_, (~h & batch.having[m] if m in batch.having else ~h for m, h in hidden.items()))  # [B]
        hidden = {m: h & left for m, h in hidden.items()}
    seen = {m: replace(special_first(x, hidden[m]), distinct=None) for m, x in batch.inputs.items()}
    return batch.with_inputs(seen)
