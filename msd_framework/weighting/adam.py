"""Adam on one vector, as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from msd_framework.ranges import not_negative, positive


class Adam(nn.Module):
    r"""Adam of P parameters with decoupled decay (Loshchilov & Hutter, ICLR 2019), the same as torch's AdamW.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        \theta &\leftarrow (1 - \eta \lambda) \theta - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    with :math:`\beta_1 = 0.9, \beta_2 = 0.999`, and :math:`\epsilon = 10^{-12}`, so that gradients may be very small; P is `size`.
    """

    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, size: int, lr: float = 1e-3, weight_decay: float = 0.0):
        super().__init__()
        positive(lr=lr)
        not_negative(weight_decay=weight_decay)
        self.lr, self.weight_decay = lr, weight_decay
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("square", torch.zeros(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, parameters: Tensor, gradient: Tensor) -> Tensor:
        """The parameters [P] one step on."""
        # torch's own AdamW rounds the squares otherwise (parameters differ by up to 1e-5 of their size after 50 steps in
        # float32), so runs of learned weights would no longer give the weights that they gave
        self.count += 1
        self.mean.lerp_(gradient, 0.1)
        self.square.lerp_(gradient.square(), 0.001)
        mean, square = self.mean / (1 - 0.9**self.count), self.square / (1 - 0.999**self.count)
        return (1 - self.lr * self.weight_decay) * parameters - self.lr * mean / (square.sqrt() + 1e-12)
