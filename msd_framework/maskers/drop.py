"""Hides a modality by removing its positions, so that a model spends no time on them."""

from __future__ import annotations

from msd_framework.maskers.base import MASKERS, Masker
from msd_framework.maskers.content import special_only
from msd_framework.structures import ModalityInputs, ModalityKind


@MASKERS.register("drop")
class DropMasker(Masker):
    """Removes the content and keeps special tokens: a hidden text is [CLS] [SEP]. A modality that has none is left out.

    Where examples have different numbers of special tokens, the rest is padded and masked.
    """

    removes = True
    keeps_repeats = True

    def leaves_out(self, modality: str, kind: ModalityKind) -> bool:
        return kind != "tokens"  # the special ones stay

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        return special_only(inputs)
