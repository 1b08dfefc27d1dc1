"""Hides a modality by taking its positions away, so that a model spends no time on them."""

from __future__ import annotations

from torch import Tensor

from msd_framework.maskers.base import Masker
from msd_framework.maskers.content import over
from msd_framework.registry import MASKERS
from msd_framework.structures import ModalityInputs


@MASKERS.register("drop")
class DropMasker(Masker):
    """Keeps the special positions of a modality, and leaves it out where it has none.

    Special positions keep their position ids (extra ``positions``), so a model answers exactly as if the content were
    masked out. Where examples have different numbers of special positions, the rest is padded and masked.

    >>> import torch
    >>> text = ModalityInputs(torch.tensor([[101, 7, 8, 102, 0]]), torch.tensor([[True, True, True, True, False]]),
    ...                       {"special": torch.tensor([[True, False, False, True, False]])})
    >>> hidden = DropMasker().hide("text", text)
    >>> hidden.values, hidden.extras["positions"]
    (tensor([[101, 102]]), tensor([[0, 3]]))
    """

    removes = True
    keeps_repeats = True

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        if "special" not in inputs.extras:
            return None
        kept = inputs.mask & inputs.special  # [B, L]
        num_kept = inputs.num_special
        if num_kept is None:  # counting them waits for the device, so processors do it while they are not there yet
            num_kept = int(kept.sum(1).max())
        if num_kept == 0:
            return None
        order = kept.byte().argsort(dim=1, descending=True, stable=True)[:, :num_kept]  # [B, S], kept positions first

        def gather(values: Tensor) -> Tensor:
            return values.take_along_dim(over(order, values), 1)  # [B, S, ..]

        extras = {name: gather(values) for name, values in inputs.extras.items()}
        num_positions = inputs.num_positions if "positions" in extras else inputs.mask.shape[1]
        extras = {"positions": order, **extras}
        return ModalityInputs(gather(inputs.values), gather(kept), extras, num_kept, num_positions, inputs.distinct)
