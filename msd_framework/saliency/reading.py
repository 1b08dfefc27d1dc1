"""Reads scores of an example: one modality decides it, or all do together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import Tensor

Reading: TypeAlias = Literal["needed", "enough", "share"]
"""What a large score means: the answer needs the modality, it is enough for it, or its share in it is large."""


def together(modalities: Sequence[str]) -> str:
    """The name for examples that no modality decides alone; synthetic data sets use it too."""
    return "both" if len(modalities) == 2 else "all"


def decided(scores: Tensor, modalities: Sequence[str], reading: Reading) -> dict[str, Tensor]:
    r"""How much each modality decides an example alone, and how much all decide it together.

    .. math::
        \text{needed:} \quad & a_m = -\max_{o \ne m} S_o & t &= \min_m S_m \\
        \text{enough:} \quad & a_m = S_m                 & t &= -\max_m S_m \\
        \text{share:}  \quad & a_m = S_m - \max_{o \ne m} S_o & t &= \min_m S_m

    Of scores float [B, M], of two modalities or more; returns float [B] by modality, and by what all `together` are called.

    >>> import torch
    >>> {name: x.tolist() for name, x in decided(torch.tensor([[3.0, 0.0]]), ["image", "text"], "needed").items()}
    {'image': [-0.0], 'text': [-3.0], 'both': [0.0]}
    """
    decides = {}
    for i, modality in enumerate(modalities):
        rivals = [o for o in range(len(modalities)) if o != i]
        own, rival = scores[..., i], scores[..., rivals].amax(-1)  # [B]
        if reading == "needed":
            decides[modality] = -rival
        else:
            decides[modality] = own if reading == "enough" else own - rival
    decides[together(modalities)] = -scores.amax(-1) if reading == "enough" else scores.amin(-1)
    return decides
