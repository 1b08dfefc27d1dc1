"""Hides a modality behind one constant value."""

from __future__ import annotations

from msd_framework.maskers.base import Masker
from msd_framework.maskers.content import replace_content
from msd_framework.registry import MASKERS
from msd_framework.structures import ModalityInputs


@MASKERS.register("constant")
class ConstantMasker(Masker):
    """Replaces the content by a number or a token, and lets the model look at it.

    Another view than `drop`: the model sees the replacement, and how long the content was.

    Args:
        feature: what every hidden number of features, pixels or a waveform becomes.
        token: the id that every hidden token becomes, such as that of [MASK]; the padding's id if null.
        pad_id: the id of the padding token.

    >>> import torch
    >>> text = ModalityInputs(torch.tensor([[5, 7, 0]]), torch.tensor([[True, True, False]]))
    >>> ConstantMasker(token=103).hide("text", text).values
    tensor([[103, 103,   0]])
    """

    def __init__(self, feature: float = 0.0, token: int | None = None, pad_id: int = 0):
        super().__init__()
        self.feature, self.token = feature, pad_id if token is None else token

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        fill = self.feature if inputs.values.is_floating_point() else self.token
        return replace_content(inputs, inputs.values.new_full((), fill))
