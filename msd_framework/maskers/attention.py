"""Hides a modality by masking its positions out, at its full length."""

from __future__ import annotations

from dataclasses import replace

from msd_framework.maskers.base import MASKERS, Masker
from msd_framework.structures import ModalityInputs


@MASKERS.register("attention")
class AttentionMasker(Masker):
    """Masks the content out and leaves special tokens where they are, as published.

    The position of [SEP] tells a model how long a hidden text was; every other masker moves [SEP] to position 1. A modality
    without special tokens is hidden as well as by `drop`. It is slower, and for models that need every modality among their inputs;
    ``{type: by_modality, maskers: {text: drop}, otherwise: attention}`` hides a text's length from them too.
    """

    keeps_repeats = True

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        return replace(inputs, mask=inputs.mask & inputs.special)
