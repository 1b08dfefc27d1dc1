"""Gaussian modalities that share some of what decides the label: the data of Xue et al. (2023, arXiv:2206.06487).

Standard normal features decide the label by the side of a hyperplane that they lie on. Each modality shows some of them in the
columns of the same numbers, and noise in its other columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = NDArray[np.float64]
Random: TypeAlias = np.random.RandomState | np.random.Generator


@dataclass(frozen=True)
class Sample:
    """N examples of each of E worlds.

    Args:
        teacher: the modality that the teacher sees, float32 [E, N, D].
        student: the modality that the student sees, float32 [E, N, D'].
        y: the labels, int64 [E, N].
    """

    teacher: Tensor
    student: Tensor
    y: Tensor

    @classmethod
    def stack(cls, samples: Iterable[Sample]) -> Sample:
        teacher, student, y = zip(*((s.teacher, s.student, s.y) for s in samples))
        return cls(torch.cat(teacher), torch.cat(student), torch.cat(y))


@dataclass(frozen=True)
class Modality:
    """What one modality shows.

    Args:
        decisive: the decisive features that it shows.
        size: its columns; those that show no decisive feature are noise.
    """

    decisive: range
    size: int

    def show(self, features: Array, noise: Array) -> Tensor:
        """Float32 [1, N, D]."""
        shown = noise.copy()
        shown[:, self.decisive] = features[:, self.decisive]
        return torch.from_numpy(shown).float()[None]


@dataclass(frozen=True)
class World:
    """Two modalities and what decides the label.

    Args:
        num_decisive: features that decide the label.
        teacher: the modality that the teacher sees.
        student: the modality that the student sees.
        student_first: whether the student's noise is drawn before the teacher's.

    >>> world = World(20, Modality(range(5, 15), 25), Modality(range(10), 50))
    >>> round(world.gamma, 2), world.alpha
    (0.33, 0.5)
    """

    num_decisive: int
    teacher: Modality
    student: Modality
    student_first: bool = True

    @property
    def gamma(self) -> float:
        r""":math:`|A \cap B| / |A \cup B|`, with A and B the decisive features that teacher and student see."""
        a, b = set(self.teacher.decisive), set(self.student.decisive)
        return len(a & b) / len(a | b)

    @property
    def alpha(self) -> float:
        r""":math:`|A \setminus B| / |A|`."""
        a, b = set(self.teacher.decisive), set(self.student.decisive)
        return len(a - b) / len(a)

    def sample(self, random: Random, hyperplane: Array, num_examples: int) -> Sample:
        """Draws the decisive features, and then the noise of both modalities."""
        features = random.standard_normal((num_examples, self.num_decisive))
        y = features @ hyperplane[: self.num_decisive] > 0
        order = (self.student, self.teacher) if self.student_first else (self.teacher, self.student)
        shown = [m.show(features, random.standard_normal((num_examples, m.size))) for m in order]
        student, teacher = shown if self.student_first else reversed(shown)
        return Sample(teacher, student, torch.from_numpy(y).long()[None])
