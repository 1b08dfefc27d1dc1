"""A training split of which only some examples keep their label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from msd_framework.data.base import Example, MultimodalDataset, RowKeys
from msd_framework.data.batches.plan import stream_seed
from msd_framework.structures import DatasetInfo

STREAM = -(2**40)
"""Which stream of the run's random numbers chooses the labels; those of its epochs count from 0."""


class HiddenLabels(MultimodalDataset):
    """Another data set in which a share of the examples keeps its label.

    Which ones depends on the seed and the number of examples alone. What a small share keeps, a larger one keeps as well, so that
    runs of one seed with more and more labels can be compared.

    Args:
        whole: the examples.
        share: how many keep their label, between 0 and 1, rounded to whole examples.
        seed: chooses them.

    Attributes:
        skipped: what the data set itself has left out.
    """

    def __init__(self, whole: MultimodalDataset, share: float, seed: int):
        self.whole = whole
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(stream_seed(seed, STREAM)))
        self.shown = torch.zeros(len(whole), dtype=torch.bool)
        self.shown[order[: round(share * len(whole))]] = True
        self.may_share_rows = whole.may_share_rows
        self.skipped: list[str] = getattr(whole, "skipped", [])

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        raise NotImplementedError("hides labels of a data set that describes itself")

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        raise NotImplementedError("hides labels of a data set that checks itself")

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Example:
        example = self.whole[index]
        return example if self.shown[index] else replace(example, target=None)

    @property
    def row_keys(self) -> RowKeys | None:
        return self.whole.row_keys

    @property
    def fingerprint(self) -> str:
        return self.whole.fingerprint  # a label is no part of it
