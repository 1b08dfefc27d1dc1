r"""The modality Venn diagram: how much of what decides the label each of two modalities shows, and how much both do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.ranges import not_negative, positive


@dataclass(frozen=True)
class Venn:
    r"""The parts of the decisive features that two modalities show.

    .. math:: \alpha = \frac{|A \setminus B|}{|A|}, \qquad \beta = \frac{|B \setminus A|}{|B|}, \qquad
              \gamma = \frac{|A \cap B|}{|A \cup B|}

    with :math:`A` the decisive features that the teacher's modality shows and :math:`B` those that the student's shows.

    Source: Xue et al., The Modality Focusing Hypothesis, ICLR 2023 (arXiv:2206.06487), section 3.

    Args:
        teacher: :math:`|A|`.
        student: :math:`|B|`.
        shared: :math:`|A \cap B|`.

    >>> venn = Venn(teacher=10, student=10, shared=4)
    >>> venn.alpha, venn.beta, venn.gamma
    (0.6, 0.6, 0.25)
    """

    teacher: float
    student: float
    shared: float

    @property
    def alpha(self) -> float:
        """The teacher's part that the student does not see; 0 if the teacher sees nothing that decides."""
        return (self.teacher - self.shared) / self.teacher if self.teacher else 0.0

    @property
    def beta(self) -> float:
        """The student's part that the teacher does not see; 0 if the student sees nothing that decides."""
        return (self.student - self.shared) / self.student if self.student else 0.0

    @property
    def gamma(self) -> float:
        """The shared part of all that decides; 0 if nothing does."""
        union = self.teacher + self.student - self.shared
        return self.shared / union if union else 0.0


def estimate_venn(
    teacher: Tensor, student: Tensor, y: Tensor, *, num_permutations: int = 20, z: float = 3.0, decay: float = 1e-2, seed: int = 0
) -> Venn:
    r"""The Venn diagram of two feature matrices of the same examples, estimated.

    1. What decides: a logistic regression is fitted to the label on one half of the examples for each modality, and each column's
       *permutation importance* is the loss that shuffling it adds on the other half (Breiman, 2001),

       .. math:: I_d = \frac{1}{M} \sum_m \ell\bigl(f(x^{(d, \pi_m)}), y\bigr) - \ell(f(x), y);

       the halves then change places. A column is decisive if the mean of what it adds, over all examples, is more than z of its
       standard errors above 0.
    2. What is shared: the decisive columns of both modalities are brought to the same coordinates by canonical correlation
       analysis (Hotelling, 1936); :math:`|A \cap B| = \sum_k \rho_k^2` over correlations :math:`\rho_k` that exceed the largest
       one of as many shuffled pairings, so that features that are mixed, or shown with noise, count as far as they agree.

    It sees what a linear classifier uses and what is linearly shared; a weak feature is missed if examples are few.

    Args:
        teacher: float [N, D].
        student: float [N, D'].
        y: classes, int64 [N].
        num_permutations: M.
        z: how sure of a column one must be.
        decay: the weight of half the squared norm in the regressions.
        seed: of the permutations and of the halves.

    Returns:
        the numbers of decisive features; that of the shared ones need not be whole.

    Raises:
        ValueError: if the matrices are not of the same N examples, or there are fewer than 8.

    >>> decisive = torch.randn(2000, 6, generator=torch.Generator().manual_seed(0))
    >>> y = (decisive.sum(1) > 0).long()
    >>> venn = estimate_venn(decisive[:, :4], decisive[:, 2:], y)  # of 6 features, 2 are seen by both
    >>> venn.teacher, venn.student, round(venn.shared, 1), round(venn.gamma, 2)
    (4, 4, 2.0, 0.33)
    """
    positive(num_permutations=num_permutations, z=z)
    not_negative(decay=decay)
    if not (teacher.ndim == student.ndim == 2 and len(teacher) == len(student) == len(y) and len(y) >= 8):
        shapes = " and ".join(str(list(x.shape)) for x in (teacher, student))
        raise ValueError(f"wanted two matrices of the same 8 or more examples, got {shapes} for {len(y)} labels.")
    generator = torch.Generator().manual_seed(seed)
    a, b = (x[:, decisive_columns(x, y, num_permutations, z, decay, generator)].double() for x in (teacher, student))
    return Venn(a.shape[1], b.shape[1], shared_dimensions(a, b, num_permutations, generator))


def decisive_columns(x: Tensor, y: Tensor, num_permutations: int, z: float, decay: float, generator: torch.Generator) -> Tensor:
    """Which columns a linear classifier needs, bool [D]; see `estimate_venn`."""
    x = x.double()
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-12)  # [N, D]
    order = torch.randperm(len(x), generator=generator)
    added = torch.empty(len(x), x.shape[1], dtype=x.dtype)
    for fitted, held_out in (order.tensor_split(2), order.tensor_split(2)[::-1]):
        weight, bias = fit_logistic(x[fitted], y[fitted], int(y.max()) + 1, decay)
        added[held_out] = added_loss(x[held_out], y[held_out], weight, bias, num_permutations, generator)
    surely: Tensor = added.mean(0) > z * added.std(0) / len(x) ** 0.5
    return surely


def fit_logistic(x: Tensor, y: Tensor, num_classes: int, decay: float) -> tuple[Tensor, Tensor]:
    """Weight [C, D] and bias [C] of a multinomial logistic regression with a quadratic penalty on the weight."""
    weight = torch.zeros(num_classes, x.shape[1], dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight.T + bias, y) + decay / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def added_loss(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, num_permutations: int, generator: torch.Generator) -> Tensor:
    """What shuffling each column adds to each example's loss, the mean over permutations, float [N, D]."""
    num_examples, num_columns = x.shape
    logits = x @ weight.T + bias  # [N, C]
    target = y.expand(num_columns, -1)
    total = torch.zeros(num_columns, num_examples, dtype=x.dtype)
    for _ in range(num_permutations):
        drawn = torch.rand(num_columns, num_examples, generator=generator).argsort(1)  # [D, N]
        change = x.T.gather(1, drawn) - x.T  # [D, N]
        shuffled = logits + change[..., None] * weight.T[:, None]  # [D, N, C]
        total += F.cross_entropy(shuffled.flatten(0, 1), target.flatten(), reduction="none").view(num_columns, -1)
    return (total / num_permutations).T - F.cross_entropy(logits, y, reduction="none")[:, None]


def shared_dimensions(a: Tensor, b: Tensor, num_permutations: int, generator: torch.Generator) -> float:
    r"""How many dimensions two matrices have in common: :math:`\sum_k \rho_k^2` over correlations that chance does not give."""
    if not a.shape[1] or not b.shape[1]:
        return 0.0
    chance = max(
        canonical_correlations(a[torch.randperm(len(a), generator=generator)], b)[0].item() for _ in range(num_permutations)
    )
    rho = canonical_correlations(a, b)
    return float(rho[rho > chance].square().sum())


def canonical_correlations(a: Tensor, b: Tensor) -> Tensor:
    """The correlations between the spaces of columns of two matrices [N, D] and [N, D'], the largest first.

    >>> x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> canonical_correlations(x, x @ torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)).round(decimals=6)
    tensor([1., 1.], dtype=torch.float64)
    """
    bases = []
    for x in (a, b):
        u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        bases.append(u[:, s > 1e-10 * s.max()])
    correlations: Tensor = torch.linalg.svdvals(bases[0].T @ bases[1]).clamp(max=1.0)
    return correlations
