"""Region features: an image that comes as vectors, each turned by a small perceptron."""

from __future__ import annotations

from torch import nn

from msd_framework.models.base import ENCODERS, Encoded, Encoder
from msd_framework.models.layers.pooling import masked_mean, visible
from msd_framework.ranges import positive
from msd_framework.structures import ModalityInputs


@ENCODERS.register("features")
class RegionFeatures(Encoder):
    """A two-layer perceptron on each feature vector, and the mean over them.

    Args:
        feature_size: F, features a region.
        hidden_size: D.
        dropout: the share of features that is dropped inside the perceptron.
    """

    kinds = frozenset({"features"})

    def __init__(self, feature_size: int, hidden_size: int = 256, dropout: float = 0.1, freeze: bool = False):
        super().__init__()
        positive(feature_size=feature_size, hidden_size=hidden_size)
        self.width = hidden_size
        self.perceptron = nn.Sequential(
            nn.Linear(feature_size, hidden_size), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden_size, hidden_size)
        )
        self.requires_grad_(not freeze)

    def forward(self, inputs: ModalityInputs) -> Encoded:
        tokens = self.perceptron(visible(inputs.values, inputs.mask))  # [B, L, D]
        return Encoded(tokens, inputs.mask, masked_mean(tokens, inputs.mask))
