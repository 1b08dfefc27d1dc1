"""How faithful a student is to its teacher, whether or not the teacher is right."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from msd_framework.losses.defaults import default_distillation_loss
from msd_framework.structures import ModelOutput, Outcomes, Task, outcomes_of, probabilities

# the metrics of a student beside its teacher, and whether a larger value is better
FIDELITY = {"agreement": True, "kl": False, "total_variation": False, "pearson": True}
ROUNDING = 1e-28  # the largest mean square by which a probability differs from its mean that is rounding alone


@dataclass(frozen=True)
class Comparison:
    """Two predictions of N examples, compared; that of two batches or processes is the sum of theirs."""

    num_examples: int
    sums: Tensor  # of the agreement, the divergence and the total variation over examples, float64 [3]
    means: Tensor  # of the student's and the teacher's probabilities, float64 [2, C]
    products: Tensor  # sums of deviations: student squared, teacher squared, both, float64 [3, C]

    def __add__(self, other: Comparison) -> Comparison:
        """Of both together, exactly (Chan et al., Updating Formulae and a Pairwise Algorithm, 1979)."""
        total = self.num_examples + other.num_examples
        x, y = shift = other.means - self.means  # [2, C]
        apart = torch.stack([x * x, y * y, x * y]) * (self.num_examples * other.num_examples / total)
        means = self.means + shift * (other.num_examples / total)
        return Comparison(total, self.sums + other.sums, means, self.products + other.products + apart)

    def report(self) -> dict[str, float]:
        """The metrics of `compare`, by name."""
        agreement, kl, distance = (self.sums / self.num_examples).tolist()
        x, y, both = self.products
        varies = torch.minimum(x, y) > ROUNDING * self.num_examples
        pearson = torch.where(varies, both / torch.sqrt(x * y), math.nan).mean()
        return {"agreement": agreement, "kl": kl, "total_variation": distance, "pearson": float(pearson)}


def compare(student: Tensor, teacher: Tensor, task: Task, outcomes: Outcomes | None = None) -> Comparison:
    r"""How near a student's predictions are to its teacher's on the same B examples, by their logits, float [B, C].

    With p and q the teacher's and the student's probabilities (softmax for one label and for soft targets that were
    trained by one, else a sigmoid for each label):

    - ``agreement``: share of examples with the same most probable class (Stanton et al., 2021, arXiv:2106.05945); for
      several labels, share of the labels on which both say yes or both say no.
    - ``kl``: mean divergence of q from p in nats, added up over labels where each has its own.
    - ``total_variation``: mean of :math:`\frac12 \sum_c |p_c - q_c|`, between 0 and 1; for labels of their own, mean of
      :math:`|p_c - q_c|` over examples and labels.
    - ``pearson``: correlation of the probabilities over the examples, averaged over classes; of two classes both have
      the same one. NaN where a class's probability is the same in every example.

    >>> student, teacher = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[0.0, 4.0], [3.0, 0.0]])
    >>> {name: round(value, 3) for name, value in compare(student, teacher, "single_label").report().items()}
    {'agreement': 1.0, 'kl': 0.136, 'total_variation': 0.161, 'pearson': 1.0}
    """
    if student.ndim != 2 or student.shape != teacher.shape or len(student) == 0:
        shapes = f"{list(student.shape)} of the student and {list(teacher.shape)} of the teacher"
        raise ValueError(f"fidelity compares logits [N, C] of the same examples, got {shapes}.")
    z_s, z_t = student.double(), teacher.double()
    several = task == "multi_label"
    same = ((z_s > 0) == (z_t > 0)).double().mean(1) if several else (z_s.argmax(1) == z_t.argmax(1)).double()  # [B]
    outcomes = outcomes_of(task, outcomes)
    q, p = probabilities(z_s, outcomes), probabilities(z_t, outcomes)  # [B, C] each
    apart = (p - q).abs().sum(1) / 2 if outcomes == "softmax" else (p - q).abs().mean(1)  # [B]
    kl = default_distillation_loss(task, outcomes)(ModelOutput(z_s), ModelOutput(z_t))  # [B]
    means = torch.stack([q.mean(0), p.mean(0)])
    x, y = q - means[0], p - means[1]
    products = torch.stack([x.square().sum(0), y.square().sum(0), (x * y).sum(0)])
    return Comparison(len(q), torch.stack([same.sum(), kl.sum(), apart.sum()]), means, products)
