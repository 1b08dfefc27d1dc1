"""Dropout that a CPU draws quickly."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 2**16  # how finely a CPU draws: the share that is dropped is a multiple of 1 / STEPS


class Dropout(nn.Module):
    r"""Drops a share of the features in training.

    .. math:: y_i = \frac{b_i x_i}{1 - p}, \qquad b_i \sim \mathrm{Bernoulli}(1 - p)

    On a CPU, p is the multiple of 1/65536 that is nearest to the one given. Elsewhere this is torch's dropout.

    Source: Srivastava et al., Dropout, JMLR 2014.
    """

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout must lie between 0 and 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        dropped = round(STEPS * self.p)
        if not self.training or not dropped:
            return x
        if x.device.type != "cpu" or dropped == STEPS:
            return F.dropout(x, self.p)
        # torch's dropout draws 64 random bits a feature on a CPU, which takes a tenth of a distillation step; here one such
        # draw serves four features. An int16 is below the threshold for `dropped` of its STEPS values, -STEPS / 2 and up.
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        # written as numbers of x's type at once: a bool mask would be converted in a pass of its own
        kept = torch.ge(bits, dropped - STEPS // 2, out=torch.empty_like(x, requires_grad=False))
        return x * kept * (STEPS / (STEPS - dropped))

    def extra_repr(self) -> str:
        return f"p={self.p}"
