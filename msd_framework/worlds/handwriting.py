"""Real handwriting for the cards: scikit-learn's 1,797 scanned digits, split so that no scan is in two banks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Bank = Literal["train", "dev", "test"]

# how the scans are divided, by one permutation that never changes
SHARES: dict[Bank, float] = {"train": 0.60, "dev": 0.15, "test": 0.25}


@dataclass(frozen=True)
class GlyphBank:
    """The scans that one split may use, sorted by digit."""

    glyphs: NDArray[np.float32]  # [N, 8, 8], the ink of each scan, from 0 (none) to 1
    scans: NDArray[np.int64]  # [N], the index of each glyph in ``sklearn.datasets.load_digits``
    starts: NDArray[np.int64]  # [10], where the glyphs of a digit begin
    counts: NDArray[np.int64]  # [10], how many there are

    def pick(self, digits: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.float32]:
        """A scan, float32 [..., 8, 8], for each of the digits [...], at random."""
        glyphs: NDArray[np.float32] = self.glyphs[self.starts[digits] + generator.integers(self.counts[digits])]
        return glyphs


@cache
def glyph_bank(bank: Bank) -> GlyphBank:
    """The handwriting of a bank.

    >>> {bank: len(glyph_bank(bank).glyphs) for bank in SHARES}
    {'train': 1078, 'dev': 269, 'test': 450}
    """
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(digits))  # the legacy stream is the one that numpy promises to keep
    ends = np.floor(np.cumsum([0.0, *SHARES.values()]) * len(order)).astype(int)
    position = list(SHARES).index(bank)
    scans = order[ends[position] : ends[position + 1]].astype(np.int64)
    scans = scans[np.argsort(digits[scans], kind="stable")]
    counts = np.bincount(digits[scans], minlength=10).astype(np.int64)
    glyphs = (images[scans] / 16).astype(np.float32).reshape(-1, 8, 8)
    return GlyphBank(glyphs, scans, np.cumsum(counts) - counts, counts)
