"""Some examples of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from msd_framework.data.base import Example, MultimodalDataset
from msd_framework.structures import DatasetInfo


class OfAnother(MultimodalDataset):
    """A data set that is made of another one, and that no YAML names: the other one describes and checks itself."""

    def __init__(self, whole: MultimodalDataset):
        self.whole = whole

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        raise NotImplementedError("the data set that it is made of describes itself")

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        raise NotImplementedError("the data set that it is made of checks itself")


class Subset(OfAnother):
    """Some of the examples of another data set."""

    def __init__(self, whole: MultimodalDataset, places: Sequence[int] | npt.NDArray[np.integer[Any]]):
        super().__init__(whole)
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Example:
        return self.whole[int(self.places[index])]
