"""Turns a student's intermediate into the shape of its teacher's: wider, with more heads, with more positions."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msd_framework.losses.base import FeatureLoss
from msd_framework.structures import Feature, FeatureShape

Choice: TypeAlias = Literal["auto", "linear", "none"]  # a linear map where widths differ and the loss minds, always, or never


class Widen(nn.Module):
    """A linear map of features [.., D] to [.., D']: the regressor of FitNets (arXiv:1412.6550, section 2.2), W_h of TinyBERT."""

    def __init__(self, student: int, teacher: int):
        super().__init__()
        self.map = nn.Linear(student, teacher)

    def forward(self, values: Tensor) -> Tensor:
        return self.map(values)  # type: ignore[no-any-return]


class MixHeads(nn.Module):
    r"""Each of the teacher's heads as a mean of the student's, :math:`A'_g = \sum_h \mathrm{softmax}_h(w_{gh}) A_h`.

    The weights are learned, from equal ones on; what were probabilities remain so.
    """

    def __init__(self, student: int, teacher: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(teacher, student))

    def forward(self, values: Tensor) -> Tensor:
        """Attention [B, H, L, L] to [B, G, L, L]."""
        return torch.einsum("gh,bhlk->bglk", self.weight.softmax(-1).to(values.dtype), values)


class Adaptor(nn.Module):
    """Makes a student's intermediate comparable with its teacher's, as far as a loss needs that.

    Positions are averaged or repeated until there are as many as the teacher's: square numbers of them as a grid, others as a line.
    """

    def __init__(self, loss: FeatureLoss, student: FeatureShape, teacher: FeatureShape, choice: Choice = "auto"):
        super().__init__()
        maps = student.kind in ("attention", "scores")
        if loss.same_positions and maps and student.num_positions != teacher.num_positions:
            raise ValueError(
                f"maps of {student.num_positions} positions cannot be compared with maps of {teacher.num_positions}. "
                f"Take hidden states."
            )
        differ = loss.same_width and student.width != teacher.width
        if choice == "none" and differ:
            widths = f"{student.width} {'heads' if maps else 'features'} beside {teacher.width}"
            raise ValueError(f"adaptor=none leaves {widths}, which the loss cannot compare.")
        wanted = choice == "linear" or (choice == "auto" and differ)
        self.inner = (MixHeads if maps else Widen)(student.width, teacher.width) if wanted else None
        width = teacher.width if wanted else student.width
        self.shape = FeatureShape(student.kind, width, student.num_positions, student.num_examples)
        self.resamples = loss.same_positions and student.kind == "hidden"

    def forward(self, feature: Feature, num_positions: int) -> Feature:
        """The student's intermediate as the loss takes it; the teacher's has that many positions."""
        if self.resamples and feature.values.shape[1] != num_positions:
            feature = resampled(feature, num_positions)
        return feature if self.inner is None else Feature(self.inner(feature.values), feature.mask)


def resampled(states: Feature, num_positions: int) -> Feature:
    """Another number of positions, each the mean of those that it covers, of which hidden ones do not count.

    A square number of positions that becomes another one is taken for a grid, row after row.

    >>> line = Feature(torch.tensor([[[1.0], [3.0], [0.0]]]), torch.tensor([[True, True, False]]))
    >>> resampled(line, 2).values.flatten(), resampled(line, 2).mask
    (tensor([2., 3.]), tensor([[True, True]]))
    """
    values, mask = states.values, states.mask  # [B, L, D], [B, L]
    assert mask is not None
    sides = math.isqrt(values.shape[1]), math.isqrt(num_positions)
    square = sides[0] ** 2 == values.shape[1] and sides[1] ** 2 == num_positions
    height, after = (sides[0], (sides[1], sides[1])) if square else (1, (1, num_positions))
    weight = mask[:, None].to(values.dtype)  # [B, 1, L]
    shown = values.transpose(1, 2) * weight  # [B, D, L]
    share = F.adaptive_avg_pool2d(weight.reshape(*weight.shape[:2], height, -1), after).flatten(2)  # [B, 1, L']
    pooled = F.adaptive_avg_pool2d(shown.reshape(*shown.shape[:2], height, -1), after).flatten(2)  # [B, D, L']
    pooled = pooled / share.clamp(min=torch.finfo(values.dtype).eps)
    return Feature(pooled.transpose(1, 2), share[:, 0] > 0)
