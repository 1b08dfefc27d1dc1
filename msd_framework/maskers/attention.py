"""Hides a modality by masking its positions out, at its full length."""

from __future__ import annotations

from dataclasses import replace

from msd_framework.maskers.base import Masker
from msd_framework.registry import MASKERS
from msd_framework.structures import ModalityInputs


@MASKERS.register("attention")
class AttentionMasker(Masker):
    """Masks the content out; values stay, and no model looks at them.

    The same to a model as `drop`, and slower; for models that need every modality among their inputs.

    >>> import torch
    >>> image = ModalityInputs(torch.ones(1, 2, 3), torch.tensor([[True, True]]))
    >>> AttentionMasker().hide("image", image).mask
    tensor([[False, False]])
    """

    keeps_repeats = True

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        return replace(inputs, mask=inputs.mask & inputs.special)
