"""Some examples of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from msd_framework.data.base import Example, MultimodalDataset
from msd_framework.structures import DatasetInfo


class Subset(MultimodalDataset):
    """Some of the examples of another data set.

    Args:
        whole: the examples.
        places: which of them.
    """

    def __init__(self, whole: MultimodalDataset, places: Sequence[int] | npt.NDArray[np.integer[Any]]):
        self.whole, self.places = whole, places

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        raise NotImplementedError("some examples of a data set that describes itself")

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        raise NotImplementedError("some examples of a data set that checks itself")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Example:
        return self.whole[int(self.places[index])]
