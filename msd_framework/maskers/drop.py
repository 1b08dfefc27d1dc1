"""Hides a modality by taking its positions away, so that a model spends no time on them."""

from __future__ import annotations

from msd_framework.maskers.base import MASKERS, Masker
from msd_framework.maskers.content import special_only
from msd_framework.structures import ModalityInputs, ModalityKind


@MASKERS.register("drop")
class DropMasker(Masker):
    """Keeps the special tokens of a modality, and leaves it out where it has none.

    Special tokens move to positions 0, 1, ..., so that nothing tells how long the content was: a hidden text is [CLS] [SEP].
    Where examples have different numbers of them, the rest is padded and masked.

    >>> import torch
    >>> text = ModalityInputs(torch.tensor([[101, 7, 8, 102, 0]]), torch.tensor([[True, True, True, True, False]]),
    ...                       {"special": torch.tensor([[True, False, False, True, False]])})
    >>> DropMasker().hide("text", text).values
    tensor([[101, 102]])
    """

    removes = True
    keeps_repeats = True

    def leaves_out(self, modality: str, kind: ModalityKind) -> bool:
        return kind != "tokens"  # the special ones stay

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        return special_only(inputs)
