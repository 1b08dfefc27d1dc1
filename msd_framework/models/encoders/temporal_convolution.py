"""A small encoder of time series that starts from nothing: convolutions over time."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from msd_framework.models.base import ENCODERS, Encoded, Encoder
from msd_framework.models.layers.pooling import visible
from msd_framework.ranges import below_one, positive
from msd_framework.structures import ModalityInputs


@ENCODERS.register("temporal_convolution")
class TemporalConvolution(Encoder):
    r"""Layers of convolutions, each with half as many steps of time as the one before, and the largest of each feature.

    .. math:: x^{(i)} = \mathrm{dropout}(\mathrm{relu}(\mathrm{norm}(W_i * x^{(i-1)} + b_i))), \qquad h = \max_l x^{(n)}_l

    with a layer norm over the features of each step. What is hidden or padding is zeros in every layer. Steps have no positions
    but those that the kernels see: :math:`1 + (k - 1)(2^n - 1)` steps of the input in the last of n layers.

    Source: Wang, Yan and Oates, Time Series Classification from Scratch with Deep Neural Networks, IJCNN 2017, with layer norm
    in place of batch norm, with strides, and with the maximum over time in place of the mean.

    Args:
        feature_size: F, features at each step.
        hidden_size: D.
        num_layers: n.
        kernel_size: k, steps that a kernel sees; an odd number.
        dropout: the share of features that is dropped behind each layer.
    """

    kinds = frozenset({"features"})

    def __init__(
        self,
        feature_size: int,
        hidden_size: int = 128,
        num_layers: int = 3,
        kernel_size: int = 5,
        dropout: float = 0.1,
        freeze: bool = False,
    ):
        super().__init__()
        positive(feature_size=feature_size, hidden_size=hidden_size, num_layers=num_layers, kernel_size=kernel_size)
        below_one(dropout=dropout)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that it has a middle, got {kernel_size}")
        self.width = hidden_size
        sizes = [feature_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(nn.Conv1d(size, hidden_size, kernel_size, 2, kernel_size // 2) for size in sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in sizes)
        self.dropout = nn.Dropout(dropout)
        self.requires_grad_(not freeze)

    def forward(self, inputs: ModalityInputs) -> Encoded:
        tokens, mask = visible(inputs.values, inputs.mask), inputs.mask  # [B, L, F], [B, L]
        for layer, norm in zip(self.layers, self.norms):
            tokens = layer(tokens.transpose(1, 2)).transpose(1, 2)  # [B, L / 2, D]
            mask = F.pad(mask, (0, mask.shape[1] % 2)).view(len(mask), -1, 2).any(2)  # [B, L / 2]
            tokens = visible(self.dropout(F.relu(norm(tokens))), mask)
        return Encoded(tokens, mask, tokens.amax(1))  # of what is hidden there are zeros, which is what relu has at least
