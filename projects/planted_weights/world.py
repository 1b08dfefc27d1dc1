"""A task of two modalities in which the teacher is wrong where one can know it: on one of its views, or on some examples of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from msd_framework.maskers.base import Views
from msd_framework.structures import Batch, ModalityInputs, ModelOutput
from msd_framework.teachers.base import Teacher
from msd_framework.views import FULL

MODALITIES = ("left", "right")
SIZE = 10
"""Features of each modality."""

Fault: TypeAlias = Literal["noise", "corrupted"]
"""What is wrong with what the teacher says of one modality alone: all of it is noise, or for some examples it is the opposite."""


class Answers(Teacher):
    """A teacher whose answers to each view of each example are written down.

    Args:
        logits: by the view's name, [N, 2].
    """

    def __init__(self, logits: dict[str, Tensor]):
        self.modalities, self.num_classes, self.logits = MODALITIES, 2, logits

    def predict(self, batch: Batch, views: Sequence[str], shown: Views | None = None) -> ModelOutput:
        rows = [int(name) for name in batch.ids]
        return ModelOutput(torch.stack([self.logits[view][rows] for view in views]))


@dataclass(frozen=True)
class World:
    r"""Examples with two modalities that count alike, and a teacher of them.

    .. math:: y = [s_l + s_r > 0], \quad s_m = a_m \cdot x_m, \quad x_m \sim \mathcal{N}(0, I)

    The teacher's log-odds of the full view are :math:`4 (s_l + s_r)`, and of a modality alone :math:`4 s_m`.

    Args:
        examples: N of them; an example's id is its row.
        teacher: knows s.
        wrong: the modality alone on which the teacher is wrong.
        corrupted: bool [N], the examples on which it is.
        directions: a by modality, of length 1.
        seed: what all of it was made from.
    """

    examples: Batch
    teacher: Answers
    wrong: str
    corrupted: Tensor
    directions: Mapping[str, Tensor]
    seed: int

    @classmethod
    def make(cls, seed: int, fault: Fault, num_examples: int, share: float) -> World:
        """A world; every other seed, another modality is the one on which the teacher is wrong."""
        g = torch.Generator().manual_seed(seed)
        x = {m: torch.randn(num_examples, SIZE, generator=g) for m in MODALITIES}
        a = {m: F.normalize(torch.randn(SIZE, generator=g), dim=0) for m in MODALITIES}
        score = {m: x[m] @ a[m] for m in MODALITIES}  # [N]
        wrong = MODALITIES[seed % 2]
        corrupted = torch.rand(num_examples, generator=g) < share
        told = dict(score)
        if fault == "noise":
            corrupted = torch.ones_like(corrupted)
            told[wrong] = torch.randn(num_examples, generator=g)
        else:
            told[wrong] = torch.where(corrupted, -score[wrong], score[wrong])
        logits = {FULL: _logits(sum(score.values(), torch.zeros(()))), **{m: _logits(s) for m, s in told.items()}}
        return cls(_examples(x, a), Answers(logits), wrong, corrupted, a, seed)

    def fresh(self, num_examples: int) -> Batch:
        """Examples that nobody has trained on, the same ones each time."""
        g = torch.Generator().manual_seed(self.seed + 10_000)
        return _examples({m: torch.randn(num_examples, SIZE, generator=g) for m in MODALITIES}, self.directions)


def _examples(x: Mapping[str, Tensor], a: Mapping[str, Tensor]) -> Batch:
    """Values [N, SIZE] of each modality with their labels."""
    score = sum((x[m] @ a[m] for m in MODALITIES), torch.zeros(()))  # [N]
    inputs = {m: ModalityInputs(v[:, None], torch.ones(len(v), 1, dtype=torch.bool)) for m, v in x.items()}
    return Batch(inputs, (score > 0).long(), tuple(map(str, range(len(score)))))


def _logits(score: Tensor) -> Tensor:
    return torch.stack([-2 * score, 2 * score], -1)  # [N, 2]
