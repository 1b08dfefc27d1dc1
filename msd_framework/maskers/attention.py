"""Hides a modality by masking its positions out, at its full length."""

from __future__ import annotations

from dataclasses import replace

from msd_framework.maskers.base import MASKERS, Masker
from msd_framework.structures import ModalityInputs


@MASKERS.register("attention")
class AttentionMasker(Masker):
    """Masks the content out and leaves special tokens where they are, as published.

    Where [SEP] stands tells a model how long a hidden text was, and a model that was trained so learns to read it: what it says of
    "the image alone" is then not of the image alone. Every other masker moves [SEP] to position 1. Nothing else is told: of a
    modality without special tokens, `attention` shows as little as `drop`. It is slower, and for models that need every modality
    among their inputs; ``{type: by_modality, maskers: {text: drop}, otherwise: attention}`` hides a text's length from them too.

    >>> import torch
    >>> image = ModalityInputs(torch.ones(1, 2, 3), torch.tensor([[True, True]]))
    >>> AttentionMasker().hide("image", image).mask
    tensor([[False, False]])
    """

    keeps_repeats = True

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        return replace(inputs, mask=inputs.mask & inputs.special)
