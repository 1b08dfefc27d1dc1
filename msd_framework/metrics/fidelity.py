"""How faithful a student is to its teacher, whether or not the teacher is right."""

from __future__ import annotations

import torch
from torch import Tensor

from msd_framework.losses.defaults import default_distillation_loss
from msd_framework.structures import ModelOutput, Outcomes, Task, outcomes_of, probabilities

FIDELITY = {"agreement": True, "kl": False, "total_variation": False, "pearson": True}
"""What every student is compared with its teacher by, and whether a larger value is a better one."""


def fidelity(student: Tensor, teacher: Tensor, task: Task, outcomes: Outcomes | None = None) -> dict[str, float]:
    r"""How near a student's predictions are to its teacher's on the same N examples.

    With p and q the teacher's and the student's probabilities (softmax for one label and for soft targets that were
    trained by one, else a sigmoid for each label):

    - ``agreement``: share of examples with the same most probable class (Stanton et al., 2021, arXiv:2106.05945); for
      several labels, share of the labels on which both say yes or both say no.
    - ``kl``: mean divergence of q from p in nats, added up over labels where each has its own.
    - ``total_variation``: mean of :math:`\frac12 \sum_c |p_c - q_c|`, between 0 and 1; for labels of their own, mean of
      :math:`|p_c - q_c|` over examples and labels.
    - ``pearson``: correlation of the probabilities over the examples, averaged over classes; of two classes both have
      the same one. NaN where a class's probability is the same in every example.

    Args:
        student: logits float [N, C].
        teacher: the same.
        task: how targets are read.
        outcomes: how the logits of both are read; as is usual for the task if None.

    Raises:
        ValueError: if the two differ in shape or hold no example.

    >>> report = fidelity(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[0.0, 4.0], [3.0, 0.0]]), "single_label")
    >>> {name: round(value, 3) for name, value in report.items()}
    {'agreement': 1.0, 'kl': 0.136, 'total_variation': 0.161, 'pearson': 1.0}
    """
    if student.shape != teacher.shape or len(student) == 0:
        raise ValueError(
            f"fidelity compares logits [N, C] of the same examples, got {list(student.shape)} of the student and "
            f"{list(teacher.shape)} of the teacher."
        )
    z_s, z_t = student.double(), teacher.double()
    several = task == "multi_label"
    same = (z_s > 0) == (z_t > 0) if several else z_s.argmax(1) == z_t.argmax(1)  # [N, C] or [N]
    outcomes = outcomes_of(task, outcomes)
    q, p = probabilities(z_s, outcomes), probabilities(z_t, outcomes)
    distance = (p - q).abs()  # [N, C]
    return {
        "agreement": float(same.double().mean()),
        "kl": float(default_distillation_loss(task, outcomes)(ModelOutput(z_s), ModelOutput(z_t)).mean()),
        "total_variation": float((distance.sum(1) / 2).mean() if outcomes == "softmax" else distance.mean()),
        "pearson": float(_pearson(q, p).mean()),
    }


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    """Correlation over the first dimension, [C]."""
    x, y = x - x.mean(0), y - y.mean(0)
    return (x * y).sum(0) / torch.sqrt(x.square().sum(0) * y.square().sum(0))
