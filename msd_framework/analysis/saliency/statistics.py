"""How well one order of examples agrees with another, with bootstrap intervals over the examples.

A resample is how often each example is drawn, so that values are sorted once for all resamples. `scipy.stats.rankdata` of the
drawn values gives the same numbers and takes 2.5 to 4 times as long (500 to 10,000 examples).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

Statistic: TypeAlias = Callable[[Floats, Floats, Floats], Floats]
"""Of N values, N values to compare them with, and how often each example is drawn [R, N]: float [R]."""

BLOCK = 100  # resamples at once, so that memory does not grow with their number


def midranks(values: Floats, drawn: Floats) -> Floats:
    """The rank of each of N values, example i being there ``drawn[r, i]`` times, float [R, N]; equal ones share one.

    >>> midranks(np.array([5.0, 7.0, 7.0]), np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0]]))
    array([[1. , 2.5, 2.5],
           [1.5, 3. , 3. ]])
    """
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.add.reduceat(drawn[:, order], starts, axis=1)  # [R, groups]
    ranks: Floats = (sizes.cumsum(1) - sizes / 2 + 0.5)[:, group]
    return ranks


def auroc(scores: Floats, positive: Floats, drawn: Floats) -> Floats:
    r"""The probability that a positive example has the larger score, ties counted half: the area under the ROC curve.

    .. math:: \frac{R_+ - n_+ (n_+ + 1) / 2}{n_+ n_-}

    with :math:`R_+` the sum of the ranks of the :math:`n_+` positive examples, 1 and not 0 (Mann and Whitney, 1947); not a number
    where all examples are of one kind.
    """
    ups = (drawn * positive).sum(1)
    downs = drawn.sum(1) - ups
    above = (drawn * positive * midranks(scores, drawn)).sum(1) - ups * (ups + 1) / 2
    with np.errstate(invalid="ignore"):
        area: Floats = above / (ups * downs)
    return area


def spearman(x: Floats, y: Floats, drawn: Floats) -> Floats:
    """Spearman's rank correlation: Pearson's of the ranks; not a number where all examples are equal in x or in y."""
    a, b = _centred(midranks(x, drawn), drawn), _centred(midranks(y, drawn), drawn)
    with np.errstate(invalid="ignore"):
        correlation: Floats = (drawn * a * b).sum(1) / np.sqrt((drawn * a * a).sum(1) * (drawn * b * b).sum(1))
    return correlation


def with_interval(
    statistic: Statistic, x: Floats, y: Floats, num_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """A statistic of N values and N others, and its percentile bootstrap interval over examples; 0 resamples give none."""
    value = float(statistic(x, y, np.ones((1, len(x))))[0])
    chance, found = np.random.default_rng(seed), []
    for first in range(0, num_resamples, BLOCK):
        draws = chance.multinomial(len(x), np.full(len(x), 1 / len(x)), min(BLOCK, num_resamples - first))
        found.append(statistic(x, y, draws.astype(np.float64)))
    values = np.concatenate(found) if found else np.empty(0)
    values = values[~np.isnan(values)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) if len(values) else (np.nan, np.nan)
    return {"value": value, "low": float(low), "high": float(high)}


def _centred(values: Floats, drawn: Floats) -> Floats:
    centred: Floats = values - ((drawn * values).sum(1) / drawn.sum(1))[:, None]
    return centred
