"""What a hidden modality looks like at full width, built row by row: the independent form that maskers are compared with."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from msd_framework.structures import ModalityInputs


def hidden_at_full_width(x: ModalityInputs, rows: list[int] | None = None) -> ModalityInputs:
    """Special positions first, all else behind them and masked, in some rows or in all of them."""
    values, mask, extras = x.values.clone(), x.mask.clone(), {name: e.clone() for name, e in x.extras.items()}
    for row in range(len(mask)) if rows is None else rows:
        if x.values.ndim == 4:  # an image of pixels is one position
            mask[row] = False
            continue
        kept = [i for i in range(mask.shape[1]) if bool(x.mask[row, i] & x.special[row, i])]
        order = [*kept, *(i for i in range(mask.shape[1]) if i not in kept)]

        def moved(t: Tensor, row: int = row, order: list[int] = order) -> Tensor:
            return t[row, order]

        values[row] = moved(x.values)
        mask[row] = torch.arange(mask.shape[1]) < len(kept)
        for name in extras:
            extras[name][row] = moved(x.extras[name])
    return replace(x, values=values, mask=mask, extras=extras)
