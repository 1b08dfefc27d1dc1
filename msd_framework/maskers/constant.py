"""Hides a modality behind one constant value."""

from __future__ import annotations

from msd_framework.maskers.base import MASKERS, Masker
from msd_framework.maskers.content import replace_content, stand_in_shape
from msd_framework.ranges import not_negative, positive
from msd_framework.structures import ModalityInputs


@MASKERS.register("constant")
class ConstantMasker(Masker):
    """Replaces the content by a number or a token, which the model sees; it is as long for every example.

    Args:
        feature: what every hidden number of features, pixels or a waveform becomes.
        token: the id that every hidden token becomes, such as that of [MASK]; the padding's id if null.
        pad_id: the id of the padding token.
        vocab_size: how many tokens there are, if that is known.
        length: how many positions stand in for the content; 1 if null, 16,000 for a waveform. Pixels keep their size.
    """

    keeps_repeats = True

    def __init__(
        self,
        feature: float = 0.0,
        token: int | None = None,
        pad_id: int = 0,
        vocab_size: int | None = None,
        length: int | None = None,
    ):
        super().__init__()
        not_negative(token=token)
        positive(length=length)
        if token is not None and vocab_size is not None and token >= vocab_size:
            raise ValueError(f"token must be one of the {vocab_size} that there are, counted from 0, got {token}.")
        self.feature, self.token, self.length = feature, pad_id if token is None else token, length

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        fill = self.feature if inputs.values.is_floating_point() else self.token
        return replace_content(inputs, inputs.values.new_full(stand_in_shape(inputs, self.length), fill))
