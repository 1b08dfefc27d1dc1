"""Classifiers on a summary of what a model saw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from torch import nn

HeadName: TypeAlias = Literal["linear", "transform"]


def linear_head(width: int, num_classes: int, layer_norm_eps: float) -> nn.Module:
    """One linear layer."""
    return nn.Linear(width, num_classes)


def transform_head(width: int, num_classes: int, layer_norm_eps: float) -> nn.Module:
    """MMF's head: BERT's transform of predictions, then a linear layer."""
    return nn.Sequential(
        nn.Linear(width, width),
        nn.GELU(),
        nn.LayerNorm(width, layer_norm_eps),
        nn.Linear(width, num_classes),
    )


HEADS: dict[HeadName, Callable[[int, int, float], nn.Module]] = {"linear": linear_head, "transform": transform_head}


def hidden_layers(width: int, hidden_size: int, num_layers: int, dropout: float, batch_norm: bool) -> list[nn.Module]:
    """The hidden layers of MMF's perceptron: each linear, a batch norm if there is to be one, ReLU and dropout."""
    layers: list[nn.Module] = []
    for i in range(num_layers):
        norm = [nn.BatchNorm1d(hidden_size)] if batch_norm else []
        layers += [nn.Linear(hidden_size if i else width, hidden_size), *norm, nn.ReLU(), nn.Dropout(dropout)]
    return layers
