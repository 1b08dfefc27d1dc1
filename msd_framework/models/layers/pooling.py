"""The mean of a sequence over the positions that hold something."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    r"""The mean of the unmasked positions, zeros where there is none.

    .. math:: \frac{\sum_l m_l x_l}{\max(1, \sum_l m_l)}

    Tokens [B, L, D] under the mask [B, L] are never read, not even if they are not numbers.
    """
    seen = visible(tokens, mask)  # [B, L, D]
    return seen.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def visible(values: Tensor, mask: Tensor) -> Tensor:
    """Features [B, L, D] or pixels [B, C, H, W] with zeros where the mask, [B, L] or [B, 1], is False.

    Neither a gradient nor the statistics of a batch norm can then pick up what was there.
    """
    shown = mask.view(mask.shape + (1,) * (values.ndim - mask.ndim))
    return torch.where(shown, values, torch.zeros((), dtype=values.dtype, device=values.device))
