"""Ways to make one vector of several, one a modality."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Fusion(nn.Module, ABC):
    """Makes one vector [B, width] of M vectors [B, M, D]."""

    def __init__(self, num_modalities: int, hidden_size: int):
        super().__init__()
        self.width = hidden_size

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...


class Concat(Fusion):
    """All vectors, one after the other: width M D."""

    def __init__(self, num_modalities: int, hidden_size: int):
        super().__init__(num_modalities, num_modalities * hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Sum(Fusion):
    """The sum of the vectors."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


class Mean(Fusion):
    """The mean of the vectors."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Gated(Fusion):
    r"""A gated multimodal unit: all vectors decide together how much of each feature comes from which.

    .. math:: h = \sum_m g_m \odot \tanh(x_m), \qquad g = \mathrm{softmax}_m(W [x_1; \ldots; x_M] + b)

    With two modalities the gates are :math:`\sigma` and :math:`1 - \sigma` of one number a feature, as published.

    Source: Arevalo et al., Gated Multimodal Units for Information Fusion, ICLR workshop 2017, section 3.1.
    """

    def __init__(self, num_modalities: int, hidden_size: int):
        super().__init__(num_modalities, hidden_size)
        self.gates = nn.Linear(num_modalities * hidden_size, num_modalities * hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        gates: Tensor = self.gates(x.flatten(1)).view_as(x).softmax(1)  # [B, M, D]
        return (gates * torch.tanh(x)).sum(1)


FUSIONS: dict[str, type[Fusion]] = {"concat": Concat, "sum": Sum, "mean": Mean, "gated": Gated}
