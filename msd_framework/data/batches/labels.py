"""A training split of which only some examples keep their label."""

from __future__ import annotations

from dataclasses import replace

import torch

from msd_framework.data.base import Example, MultimodalDataset, RowKeys
from msd_framework.data.batches.plan import stream_seed
from msd_framework.data.batches.subset import OfAnother

STREAM = -(2**40)  # which stream of the run's random numbers chooses the labels; those of its epochs count from 0


class HiddenLabels(OfAnother):
    """Another data set in which a share of the examples keeps its label, rounded to whole examples.

    Which ones depends on the seed and the number of examples alone. What a small share keeps, a larger one keeps as
    well, so that runs of one seed with more and more labels can be compared.
    """

    def __init__(self, whole: MultimodalDataset, share: float, seed: int):
        super().__init__(whole)
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(stream_seed(seed, STREAM)))
        self.shown = torch.zeros(len(whole), dtype=torch.bool)
        self.shown[order[: round(share * len(whole))]] = True
        self.may_share_rows = whole.may_share_rows
        self.skipped: list[str] = getattr(whole, "skipped", [])

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
