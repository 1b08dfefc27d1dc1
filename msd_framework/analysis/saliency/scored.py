"""A split and the saliency scores of its examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from msd_framework.analysis.saliency.statistics import Floats
from msd_framework.data.base import Example, MultimodalDataset
from msd_framework.saliency.reading import Reading, decided


@dataclass(frozen=True)
class Scored:
    """A split and its saliency scores."""

    use: str  # what the run uses the split for
    dataset: MultimodalDataset
    places: NDArray[np.int64]  # where the N labelled examples stand in it
    targets: NDArray[Any]  # int64 [N] or float [N, C]
    scores: Mapping[str, Floats]  # float [N, M] by the saliency's label
    readings: Mapping[str, Reading]  # what a large score says, by label
    modalities: tuple[str, ...]  # M names

    def example(self, row: int) -> Example:
        return self.dataset[int(self.places[row])]

    def decided(self, label: str) -> dict[str, Floats]:
        """How much each modality decides each example alone, and all together, float [N] each."""
        by_kind = decided(torch.from_numpy(self.scores[label]), self.modalities, self.readings[label])
        return {name: values.numpy() for name, values in by_kind.items()}

    def classes(self, names: Sequence[str], num_classes: int) -> dict[str, NDArray[np.bool_]]:
        """Which examples are of each class, bool [N] by its name, and of any."""
        y, classes = self.targets, {"all": np.ones(len(self.targets), bool)}
        for c in range(num_classes):
            classes[names[c] if names else str(c)] = y == c if y.ndim == 1 else y[:, c] > 0.5
        return classes
