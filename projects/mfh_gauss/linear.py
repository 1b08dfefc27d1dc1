"""Many linear classifiers at once: one for each seed and each row of a table, trained in the same matrix products.

Shapes: E classifiers, N examples, D features, C classes. Classes stand before examples: where C is 2, that is several times faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_CLASSES = 2


@dataclass(frozen=True)
class LinearClassifiers:
    r"""E classifiers :math:`z_e = W_e x_e^\top + b_e`.

    Args:
        weight: float [E, C, D].
        bias: float [E, C, 1].

    >>> two = LinearClassifiers.stack([LinearClassifiers.draw(3, torch.Generator().manual_seed(s)) for s in (0, 1)])
    >>> two(torch.ones(2, 5, 3)).shape
    torch.Size([2, 2, 5])
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def draw(cls, num_features: int, generator: torch.Generator) -> LinearClassifiers:
        """One classifier with the first weights of a `torch.nn.Linear`: W, then b, uniform within one over the root of D."""
        bound = 1 / math.sqrt(num_features)
        weight = torch.empty(1, NUM_CLASSES, num_features).uniform_(-bound, bound, generator=generator)
        return cls(weight, torch.empty(1, NUM_CLASSES, 1).uniform_(-bound, bound, generator=generator))

    @classmethod
    def stack(cls, models: Sequence[LinearClassifiers]) -> LinearClassifiers:
        """All of them as one; weights for missing features are zeros, as the features must be."""
        widest = max(m.weight.shape[-1] for m in models)
        weights = [torch.nn.functional.pad(m.weight, (0, widest - m.weight.shape[-1])) for m in models]
        return cls(torch.cat(weights), torch.cat([m.bias for m in models]))

    def copy(self) -> LinearClassifiers:
        return LinearClassifiers(self.weight.clone(), self.bias.clone())

    def __call__(self, x: Tensor) -> Tensor:
        """Logits [E, C, N] of inputs [E, N, D]."""
        return torch.baddbmm(self.bias, self.weight, x.mT)

    def accuracy(self, x: Tensor, y: Tensor) -> Tensor:
        """The per cent of right answers, float64 [E], with y int64 [E, N]."""
        return 100 * (self(x).argmax(1) == y).double().mean(1)

    def gradient(self, x: Tensor, loss: Tensor) -> LinearClassifiers:
        """That of the weights, from the loss's gradient in the logits [E, C, N]."""
        return LinearClassifiers(loss @ x, loss.sum(2, keepdim=True))

    def add(self, other: LinearClassifiers, scale: float) -> None:
        """Adds scaled weights, in place."""
        self.weight.add_(other.weight, alpha=scale)
        self.bias.add_(other.bias, alpha=scale)


def fit(
    models: LinearClassifiers,
    x: Tensor,
    y: Tensor,
    taught: Tensor | None = None,
    weight: float = 1.0,
    lr: float = 0.1,
    num_epochs: int = 1000,
) -> LinearClassifiers:
    r"""Trains by gradient descent on all examples: on labels, and on a teacher's answers where there are any.

    .. math:: L = \mathrm{CE}(y, p) + w\, \mathrm{KL}(q \,\|\, p), \qquad
              \frac{\partial L}{\partial z} = \frac{1}{N} \bigl[(1 + w)\, p - (y + w q)\bigr]

    with p the classifier's probabilities, q the teacher's, y one-hot.

    Args:
        models: where it starts.
        x: float [E, N, D].
        y: int64 [E, N].
        taught: the teacher's logits, float [E, C, N].
        weight: w.
        lr: the step size.
        num_epochs: steps.

    Returns:
        the trained models.
    """
    models = models.copy()
    targets, mass = one_hot(y), 1.0  # [E, C, N]
    if taught is not None:
        targets, mass = targets + weight * taught.softmax(1), 1.0 + weight
    for _ in range(num_epochs):
        p = models(x).softmax(1)
        models.add(models.gradient(x, (mass * p - targets) / x.shape[1]), -lr)
    return models


def fit_jointly(
    models: Sequence[LinearClassifiers],
    inputs: Sequence[Tensor],
    y: Tensor,
    lr: float = 0.01,
    momentum: float = 0.9,
    num_epochs: int = 1000,
) -> list[LinearClassifiers]:
    r"""Trains two classifiers, of a modality each, that shall also agree: step 1 of Algorithm 1.

    .. math:: L = \mathrm{CE}(y, p_1) + \mathrm{CE}(y, p_2) + \frac{1}{NC} \lVert z_1 - z_2 \rVert^2

    Args:
        models: both, where they start.
        inputs: both modalities, float [E, N, D].
        y: int64 [E, N].
        lr: the step size.
        momentum: of stochastic gradient descent, as torch has it.
        num_epochs: steps.

    Returns:
        the trained models.
    """
    models = [m.copy() for m in models]
    pace = [LinearClassifiers(torch.zeros_like(m.weight), torch.zeros_like(m.bias)) for m in models]
    targets, num_examples = one_hot(y), y.shape[1]
    for _ in range(num_epochs):
        z = [m(x) for m, x in zip(models, inputs)]  # [E, C, N] each
        pull = 2 * (z[0] - z[1]) / NUM_CLASSES
        losses = [z[0].softmax(1) - targets + pull, z[1].softmax(1) - targets - pull]
        for model, speed, x, loss in zip(models, pace, inputs, losses):
            speed.add(speed, momentum - 1)
            speed.add(model.gradient(x, loss / num_examples), 1)
            model.add(speed, -lr)
    return models


def one_hot(y: Tensor) -> Tensor:
    """Classes int64 [E, N] as float [E, C, N]."""
    return torch.nn.functional.one_hot(y, NUM_CLASSES).mT.to(torch.get_default_dtype())
