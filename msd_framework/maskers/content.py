"""Puts something else in the place of what a modality shows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from msd_framework.structures import ModalityInputs


def replace_content(inputs: ModalityInputs, fill: Tensor) -> ModalityInputs:
    """The modality with other values at its content: unmasked positions that are not special.

    How many positions there are stays visible. Extras of real numbers, such as boxes, say where the content was and
    become 0 with it.

    Args:
        inputs: the modality.
        fill: what its values become, in a shape that broadcasts to theirs.

    >>> text = ModalityInputs(torch.tensor([[101, 7, 8, 102, 0]]), torch.tensor([[True, True, True, True, False]]),
    ...                       {"special": torch.tensor([[True, False, False, True, False]])})
    >>> replace_content(text, torch.tensor(103)).values
    tensor([[101, 103, 103, 102,   0]])
    """
    content = inputs.mask & ~inputs.special  # [B, L]
    values = torch.where(over(content, inputs.values), fill.to(inputs.values.dtype), inputs.values)
    extras = {k: x.masked_fill(over(content, x), 0) if x.is_floating_point() else x for k, x in inputs.extras.items()}
    return replace(inputs, values=values, extras=extras)


def over(positions: Tensor, values: Tensor) -> Tensor:
    """Positions [B, L] in a shape that broadcasts to values of any kind: [B, L], [B, L, 1], or [B, 1, 1, 1] for pixels."""
    return positions.view(positions.shape + (1,) * (values.ndim - 2))
