"""Removes or replaces the content of a modality without a trace of how much there was.

Special tokens stay and move to positions 0, 1, ..., since the position of [SEP] would give the length of a text away.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from msd_framework.structures import ModalityInputs

SOUND_LENGTH = 16_000  # samples that replace a sound where no length is given: a second of 16 kHz


def special_first(inputs: ModalityInputs, hidden: Tensor | None = None) -> ModalityInputs:
    """The modality with its content masked out and its special positions at the front, in their order.

    `hidden`, bool [B], are the examples whose content it is; all if None. The others stay as they are.

    >>> text = ModalityInputs(torch.tensor([[101, 7, 8, 102, 0]]), torch.tensor([[True, True, True, True, False]]),
    ...                       {"special": torch.tensor([[True, False, False, True, False]])})
    >>> special_first(text).values, special_first(text).mask
    (tensor([[101, 102,   7,   8,   0]]), tensor([[ True,  True, False, False, False]]))
    """
    shown = torch.zeros_like(inputs.mask[:, :1]) if hidden is None else ~hidden[:, None]  # [B, 1]
    kept = inputs.mask & (inputs.special | shown)  # [B, L]
    if "special" not in inputs.extras:
        return replace(inputs, mask=kept)
    # [B, L]; a row that is shown stays in its order, 0, 1, 2, ...
    order = (kept | shown).byte().argsort(dim=1, descending=True, stable=True)
    moved = {name: values.take_along_dim(over(order, values), 1) for name, values in inputs.extras.items()}
    if "positions" in moved:
        moved["positions"] = torch.where(shown, moved["positions"], torch.arange(kept.shape[1], device=kept.device))
    values = inputs.values.take_along_dim(over(order, inputs.values), 1)
    return replace(inputs, values=values, mask=kept.take_along_dim(order, 1), extras=moved)


def special_only(inputs: ModalityInputs) -> ModalityInputs | None:
    """The special positions of a modality, [B, S], the rest of examples that have fewer being padding; None where there is none."""
    if "special" not in inputs.extras:
        return None
    num_kept = inputs.num_special
    if num_kept is None:
        # this waits for the device, so processors count them before
        num_kept = int((inputs.mask & inputs.special).sum(1).max())
    if num_kept == 0:
        return None
    front = special_first(inputs)
    extras = {name: values[:, :num_kept] for name, values in front.extras.items() if name != "positions"}
    return ModalityInputs(front.values[:, :num_kept], front.mask[:, :num_kept], extras, num_kept, distinct=inputs.distinct)


def stand_in_shape(inputs: ModalityInputs, length: int | None) -> tuple[int, ...]:
    """The shape of what replaces any amount of content: that many positions; 1 if None, `SOUND_LENGTH` of a waveform."""
    batch, *sizes = inputs.values.shape
    if len(sizes) == 3:
        # an image of pixels is one position, whatever its size
        return (batch, *sizes)
    is_sound = len(sizes) == 1 and inputs.values.is_floating_point()
    return (batch, length or (SOUND_LENGTH if is_sound else 1), *sizes[1:])


def replace_content(inputs: ModalityInputs, stand_in: Tensor) -> ModalityInputs:
    """The modality with values of `stand_in_shape` in place of its content, after the first of its special positions.

    Extras of the new values, such as boxes and segments, are 0. An example that lacks the modality still does.

    >>> text = ModalityInputs(torch.tensor([[101, 7, 8, 102, 0]]), torch.tensor([[True, True, True, True, False]]),
    ...                       {"special": torch.tensor([[True, False, False, True, False]])})
    >>> replace_content(text, torch.tensor([[103]])).values
    tensor([[101, 103, 102]])
    """
    stand_in = stand_in.to(inputs.values.dtype)
    there = inputs.mask.any(1, keepdim=True)  # [B, 1]
    if stand_in.ndim == 4:
        return replace(inputs, values=torch.where(over(there, stand_in), stand_in, inputs.values), mask=there)
    mask = there.expand(stand_in.shape[:2])  # [B, N]
    special = special_only(inputs)
    if special is None:
        extras = {name: blank(values, stand_in.shape[1]) for name, values in inputs.extras.items() if name != "positions"}
        return ModalityInputs(stand_in, mask, extras, distinct=inputs.distinct)

    def joined(front: Tensor, between: Tensor) -> Tensor:
        return torch.cat([front[:, :1], between, front[:, 1:]], 1)  # [B, S + N, ..]

    extras = {name: joined(values, blank(values, stand_in.shape[1])) for name, values in special.extras.items()}
    return replace(special, values=joined(special.values, stand_in), mask=joined(special.mask, mask), extras=extras)


def blank(values: Tensor, length: int) -> Tensor:
    """Zeros [B, length, ..] like values [B, L, ..]."""
    return values.new_zeros(len(values), length, *values.shape[2:])


def over(positions: Tensor, values: Tensor) -> Tensor:
    """Positions [B, L] in a shape that broadcasts to values of any kind: [B, L], [B, L, 1], or [B, 1, 1, 1] for pixels."""
    return positions.view(positions.shape + (1,) * (values.ndim - 2))
