"""A batch: a dict whose keys are attributes, whose mappings are batches, and whose tensors are of as many examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class SampleList(dict[str, Any]):
    def __init__(self, samples: Mapping[str, Any]):
        super().__init__()
        for key, value in samples.items():
            self[key] = SampleList(value) if isinstance(value, Mapping) else value
        if len({len(x) for x in self.values() if isinstance(x, Tensor)}) > 1:
            raise AssertionError("A tensor field to be added must have same size as existing tensor fields in SampleList.")

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"Key {key} not found in the SampleList. Valid choices are {list(self)}") from None
