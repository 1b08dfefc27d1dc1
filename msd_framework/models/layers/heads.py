"""Classifiers on a summary of an example."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

# classifiers by name, each made of its width, the number of classes, and what its layer norms add to the variance
HEADS: dict[str, Callable[[int, int, float], nn.Module]] = {
    "linear": lambda width, num_classes, layer_norm_eps: nn.Linear(width, num_classes),
    # MMF's: BERT's transform of predictions, then a linear layer
    "transform": lambda width, num_classes, layer_norm_eps: nn.Sequential(
        nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, layer_norm_eps), nn.Linear(width, num_classes)
    ),
}


def hidden_layers(width: int, hidden_size: int, num_layers: int, dropout: float, batch_norm: bool) -> list[nn.Module]:
    """The hidden layers of MMF's perceptron: each linear, a batch norm if there is to be one, ReLU and dropout."""
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        norm = [nn.BatchNorm1d(hidden_size)] if batch_norm else []
        layers += [nn.Linear(width, hidden_size), *norm, nn.ReLU(), nn.Dropout(dropout)]
        width = hidden_size
    return layers
