r"""The modality Venn diagram: how much of what decides the label each of two modalities shows, and how much both do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.ranges import positive

SMALLEST = 1e-6  # the share of the largest spread below which a dimension is rounding noise


@dataclass(frozen=True)
class Venn:
    r"""The parts of the decisive features that two modalities show.

    .. math:: \alpha = \frac{|A \setminus B|}{|A|}, \qquad \beta = \frac{|B \setminus A|}{|B|}, \qquad
              \gamma = \frac{|A \cap B|}{|A \cup B|}

    with :math:`A` the decisive features that the teacher's modality shows and :math:`B` those that the student's shows; 0 where
    a denominator is.

    Source: Xue et al., The Modality Focusing Hypothesis, ICLR 2023 (arXiv:2206.06487), section 3.

    >>> venn = Venn(teacher=10, student=10, shared=4)
    >>> venn.alpha, venn.beta, venn.gamma
    (0.6, 0.6, 0.25)
    """

    teacher: float  # |A|, a number of features, or what they explain of the label
    student: float  # |B|
    shared: float  # of both

    @property
    def alpha(self) -> float:
        """The teacher's part that the student does not see."""
        return (self.teacher - self.shared) / self.teacher if self.teacher else 0.0

    @property
    def beta(self) -> float:
        """The student's part that the teacher does not see."""
        return (self.student - self.shared) / self.student if self.student else 0.0

    @property
    def gamma(self) -> float:
        """The shared part of all that decides."""
        union = self.teacher + self.student - self.shared
        return self.shared / union if union else 0.0


def estimate_venn(teacher: Tensor, student: Tensor, y: Tensor, *, num_permutations: int = 20, seed: int = 0) -> Venn:
    r"""The Venn diagram of two feature matrices of the same examples, estimated.

    Each part is what it explains of the label, by linear regressions on the teacher's features, the student's, and both:

    .. math:: |A| = R^2_A, \qquad |B| = R^2_B, \qquad |A \cap B| = R^2_A + R^2_B - R^2_{AB}

    (commonality analysis: Mood, American Educational Research Journal 1971), as shares of the label's variance, each
    :math:`R^2` adjusted for the dimensions (Ezekiel, 1930). Columns that are rotated, scaled or there twice change nothing. A
    modality that explains no more than it does of labels shuffled `num_permutations` times explains nothing.

    It sees what a linear classifier uses. With N examples gamma is off by about :math:`1.3 / \sqrt N`. The matrices are float
    [N, D] and [N, D'], y is classes, int64 [N].
    """
    positive(num_permutations=num_permutations)
    if not (teacher.ndim == student.ndim == 2 and len(teacher) == len(student) == len(y) and len(y) >= 8):
        shapes = f"{list(teacher.shape)} and {list(student.shape)}"
        raise ValueError(f"wanted two matrices of the same 8 or more examples, got {shapes} for {len(y)} labels.")
    generator = torch.Generator().manual_seed(seed)
    shuffles = [torch.randperm(len(y), generator=generator) for _ in range(num_permutations)]
    targets = F.one_hot(y).double()
    parts = []
    for x in (teacher, student, torch.cat([teacher, student], 1)):
        basis = basis_of(x)
        share = explained(basis, targets)
        chance = max(explained(basis, targets[order]) for order in shuffles)
        parts.append(share if share > chance else 0.0)
    a, b, both = parts
    return Venn(a, b, min(max(a + b - both, 0.0), a, b))


def basis_of(x: Tensor) -> Tensor:
    """Orthonormal columns that span what the columns of a matrix [N, D] differ in between examples, float64 [N, D']."""
    x = x.double() - x.double().mean(0)
    spread = x.square().mean(0).sqrt()
    u, s, _ = torch.linalg.svd(x[:, spread > 0] / spread[spread > 0], full_matrices=False)
    basis: Tensor = u[:, s > SMALLEST * s.max()] if len(s) else u
    return basis


def explained(basis: Tensor, targets: Tensor) -> float:
    r"""What a linear regression on D dimensions explains, :math:`1 - (1 - R^2) \frac{N - 1}{N - D - 1}`.

    The basis is orthonormal columns without a mean, float64 [N, D], the targets are float64 [N, C].
    """
    (n, d), y = basis.shape, targets - targets.mean(0)
    if n <= d + 1:
        raise ValueError(f"wanted more examples than the features have dimensions, got {n} examples and {d} dimensions.")
    share = (basis.T @ y).square().sum() / y.square().sum().clamp(min=SMALLEST)
    return float(1 - (1 - share) * (n - 1) / (n - d - 1))
