"""Hides a random part of a modality, so that views lie between the full input and one without it."""

from __future__ import annotations

from dataclasses import replace
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.maskers.base import MASKERS, Masker
from msd_framework.ranges import positive
from msd_framework.structures import Batch, ModalityInputs

SPANS = 16  # pieces of a sound, each of which is silenced or not


@MASKERS.register("partial")
class PartialMasker(Masker):
    """Hides each part of the content with a probability, and shows the others.

    A part is a token, a feature, a cell of a grid over the pixels (which is black: 0 after normalisation is the mean colour), or a
    sixteenth of a sound's own length, which is silent. Tokens and features are masked out where they stand. In training mode each
    call draws anew. In eval mode what is hidden of an example depends on its id alone. Scores of single views are best measured by
    another masker (`evaluation.masker`), since this one leaves a part of what a view hides.

    Args:
        share: the probability that a part is hidden, above 0 and at most 1.
        grid: cells along each side of an image.
    """

    random = True
    leaves_some = True

    def __init__(self, share: float = 0.5, grid: int = 4):
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}.")
        positive(grid=grid)
        self.share, self.grid = share, grid

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        draw = torch.rand(len(inputs.values), self._num_parts(inputs), device=inputs.values.device)
        return self._hide(inputs, draw >= self.share)

    def hide_in(self, batch: Batch, modality: str) -> ModalityInputs | None:
        inputs = batch.inputs[modality]
        if self.training:
            return self.hide(modality, inputs)
        draws = []
        for name in batch.ids:
            generator = np.random.default_rng([crc32(modality.encode()), crc32(name.encode())])
            draws.append(generator.random(self._num_parts(inputs), np.float32))
        return self._hide(inputs, torch.from_numpy(np.stack(draws)).to(inputs.values.device) >= self.share)

    def _num_parts(self, inputs: ModalityInputs) -> int:
        if inputs.values.ndim == 4:
            return self.grid**2
        return SPANS if _is_sound(inputs) else inputs.mask.shape[1]

    def _hide(self, inputs: ModalityInputs, kept: Tensor) -> ModalityInputs:
        """The inputs with the parts that are kept, bool [B, P]."""
        if inputs.values.ndim == 4:
            cells = kept.view(len(kept), 1, self.grid, self.grid).to(inputs.values.dtype)
            return replace(inputs, values=inputs.values * F.interpolate(cells, inputs.values.shape[2:]))
        if not _is_sound(inputs):
            return replace(inputs, mask=inputs.mask & (inputs.special | kept))
        length = inputs.mask.sum(1, keepdim=True).clamp(min=1)  # [B, 1]
        # a span is a part of the row's own samples, so that what is beside it in the batch changes nothing
        spans = (inputs.mask.cumsum(1) - 1).clamp(min=0) * SPANS // length  # [B, T]
        return replace(inputs, values=inputs.values * kept.gather(1, spans))


def _is_sound(inputs: ModalityInputs) -> bool:
    return inputs.values.ndim == 2 and inputs.values.is_floating_point()
