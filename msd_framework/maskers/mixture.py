"""What a view shows of a modality: that of the example, of another row, or a mixture of both."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.maskers.content import over
from msd_framework.structures import Batch, ModalityInputs
from msd_framework.views import MIXED


def shown_of(batch: Batch, modality: str, row: str) -> ModalityInputs:
    """A modality of the examples, of the other rows of that name, or of mixtures with them."""
    rows = batch.row(row)
    if not row.startswith(MIXED):
        return rows.inputs[modality]
    assert rows.own_share is not None
    return mixture(batch.inputs[modality], rows.inputs[modality], rows.own_share)


def mixture(own: ModalityInputs, other: ModalityInputs, own_share: Tensor) -> ModalityInputs:
    r"""The inputs of two rows mixed, :math:`\lambda x + (1 - \lambda) x'`, for pixels, features and sounds.

    What cannot be added, a text and whatever goes with positions, is that of the row with the larger share.
    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018 (arXiv:1710.09412).

    Args:
        own_share: lambda, float [B].

    >>> dark, light = (ModalityInputs(torch.full((1, 1, 1, 2), x), torch.ones(1, 1, dtype=torch.bool)) for x in (0.0, 1.0))
    >>> mixture(dark, light, torch.tensor([0.75])).values
    tensor([[[[0.2500, 0.2500]]]])
    """
    length = max(own.mask.shape[1], other.mask.shape[1])
    own, other = _padded(own, length), _padded(other, length)
    is_own = own_share[:, None] >= 0.5  # [B, 1]

    def chosen(mine: Tensor, theirs: Tensor) -> Tensor:
        return torch.where(over(is_own, mine), mine, theirs)

    extras = {name: chosen(mine, other.extras[name]) for name, mine in own.extras.items()}
    num_special = None if own.num_special is None or other.num_special is None else max(own.num_special, other.num_special)
    if not own.values.is_floating_point():
        return ModalityInputs(chosen(own.values, other.values), chosen(own.mask, other.mask), extras, num_special)
    share = over(own_share[:, None], own.values)
    return ModalityInputs(share * own.values + (1 - share) * other.values, own.mask | other.mask, extras, num_special)


def _padded(inputs: ModalityInputs, length: int) -> ModalityInputs:
    """The same with positions of nothing up to a length; pixels have one position."""
    more = length - inputs.mask.shape[1]
    if not more:
        return inputs

    def grown(values: Tensor) -> Tensor:
        return F.pad(values, (0, 0) * (values.ndim - 2) + (0, more))

    extras = {name: grown(values) for name, values in inputs.extras.items()}
    return replace(inputs, values=grown(inputs.values), mask=grown(inputs.mask), extras=extras)
