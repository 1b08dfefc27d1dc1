"""Weights of classes that are not equally frequent."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from msd_framework.errors import did_you_mean
from msd_framework.losses.base import TaskLoss

# A number for each class in their order, a number by a class's name (1 for the others), or weights from their frequency.
ClassWeights: TypeAlias = list[float] | dict[str | int, float] | Literal["balanced"]


class WeighedTaskLoss(TaskLoss):
    """A task loss in which classes count as their weights say, float [C]: NaN until `balance` is called, None if all count 1."""

    weights: Tensor | None

    def __init__(self, weights: Tensor | None):
        super().__init__()
        # weights that stand in the YAML are no part of a checkpoint
        self.register_buffer("weights", weights, persistent=weights is not None and bool(weights.isnan().any()))

    @property
    def needs_counts(self) -> bool:
        """Whether `balance` must be called before the first step."""
        return self.weights is not None and bool(self.weights.isnan().any())

    @abstractmethod
    def balance(self, counts: Tensor, num_examples: int) -> None:
        """Takes the weights from the classes' frequency: training examples, or their sum of scores, of each class, float [C]."""


def as_weights(option: str, given: ClassWeights | None, num_classes: int | None, names: Sequence[str]) -> Tensor | None:
    """A weight for each class, float [C], NaN where they will come from the training examples; None if all are 1."""
    if given is None:
        return None
    if given == "balanced":
        return torch.full((num_classes or 1,), math.nan)
    weights = _by_name(option, given, num_classes, names) if isinstance(given, Mapping) else list(map(float, given))
    for i, weight in enumerate(weights):
        if not 0 <= weight < math.inf:
            name = names[i] if names else i
            raise ValueError(f"{option}: that of class {name} must be a finite number of 0 or more, got {weight}.")
    if num_classes is not None and len(weights) != num_classes:
        raise ValueError(f"{option}: wanted a number for each of {num_classes} classes, got {len(weights)}.")
    if not any(weights):
        raise ValueError(f"{option}: wanted a number above 0 for at least one class, got {weights}.")
    return torch.tensor(weights)


def balanced_labels(counts: Tensor, num_examples: int) -> Tensor:
    r"""Weights under which all classes of one label an example count the same, 1 in the mean over examples.

    .. math:: w_c = \frac{N}{C n_c}

    with n_c of N examples in class c, of C classes that have any (scikit-learn's `class_weight="balanced"`); 1 for the others.

    >>> balanced_labels(torch.tensor([9.0, 3.0, 0.0]), 12)
    tensor([0.6667, 2.0000, 1.0000])
    """
    return torch.where(counts > 0, num_examples / ((counts > 0).sum() * counts.clamp(min=1)), 1.0)


def balanced_answers(counts: Tensor, num_examples: int) -> Tensor:
    r"""Weights of a yes under which yes and no of a label count the same: :math:`(N - n_c) / n_c`; 1 where one never occurs."""
    return torch.where((counts > 0) & (counts < num_examples), (num_examples - counts) / counts.clamp(min=1e-9), 1.0)


def _by_name(option: str, given: Mapping[str | int, float], num_classes: int | None, names: Sequence[str]) -> list[float]:
    known = list(names) or list(map(str, range(num_classes or 0)))
    weights = dict.fromkeys(known, 1.0)
    for name, weight in given.items():
        if str(name) not in weights:
            shown = ", ".join(known[:20]) + ", ..." * (len(known) > 20)
            raise ValueError(f"{option}: {str(name)!r} is none of the classes {shown}.{did_you_mean(str(name), known)}")
        weights[str(name)] = float(weight)
    return list(weights.values())
