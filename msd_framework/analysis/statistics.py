"""What a few seeds can tell: means with their spread, and differences between runs that share a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Seeds below which nothing is called shown: of five differences, all have one sign by chance in 1 of 16 studies.
FEWEST_PAIRS = 6
NUM_DRAWN = 10_000


@dataclass(frozen=True)
class Summary:
    """The values of one metric over seeds."""

    mean: float
    sd: float  # with n - 1; not a number for a single value
    num_values: int


@dataclass(frozen=True)
class Difference:
    """How much a method differs from a baseline over seeds that both were run with."""

    mean: float  # method minus baseline
    low: float  # of the interval of the mean
    high: float
    wins: int  # seeds on which the method is better
    losses: int
    num_pairs: int  # all seeds, those without a difference included
    larger_is_better: bool = True
    p: float = float("nan")  # how often coins for signs give a mean at least as large

    @property
    def verdict(self) -> str:
        """What may be said of it: better, worse, no difference shown, or that there are too few seeds to tell."""
        if self.num_pairs < FEWEST_PAIRS:
            return f"{self.num_pairs} seed{'s are' if self.num_pairs > 1 else ' is'} too few to tell"
        if self.low > 0 or self.high < 0:
            return "better" if (self.low > 0) == self.larger_is_better else "worse"
        return "no difference shown"


def summarise(values: Sequence[float]) -> Summary:
    """Mean and standard deviation of one value or more."""
    if len(values) == 0:
        raise ValueError("wanted at least one value, got none.")
    found = np.asarray(values, float)
    return Summary(float(found.mean()), float(found.std(ddof=1)) if len(found) > 1 else float("nan"), len(found))


def paired_difference(
    method: Sequence[float],
    baseline: Sequence[float],
    larger_is_better: bool = True,
    level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    r"""The mean difference of two runs a seed, with a bootstrap interval over seeds.

    .. math:: \bar d = \frac1n \sum_s (a_s - b_s)

    with :math:`a_s` the method and :math:`b_s` the baseline on seed s, which share their data and their teacher. The
    interval holds the middle `level` of the means of `num_resamples` resamples of the n differences with replacement:
    the percentile interval of Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3. It is
    somewhat too narrow for few seeds.

    >>> paired_difference([3.0, 4.0], [1.0, 2.0])
    Difference(mean=2.0, low=2.0, high=2.0, wins=2, losses=0, num_pairs=2, larger_is_better=True, p=0.5)
    """
    if len(method) != len(baseline) or len(method) == 0:
        raise ValueError(f"wanted as many values of the method as of the baseline, got {len(method)} and {len(baseline)}.")
    d = np.asarray(method, float) - np.asarray(baseline, float)  # [n]
    drawn = np.random.default_rng(seed).integers(len(d), size=(num_resamples, len(d)))
    low, high = np.quantile(d[drawn].mean(1), [(1 - level) / 2, (1 + level) / 2])
    up, down = int((d > 0).sum()), int((d < 0).sum())
    wins, losses = (up, down) if larger_is_better else (down, up)
    return Difference(float(d.mean()), float(low), float(high), wins, losses, len(d), larger_is_better, sign_flip(d))


def sign_flip(differences: Sequence[float] | NDArray[np.float64]) -> float:
    r"""The two-sided p-value of a mean difference, if the sign of each difference were a coin's.

    .. math:: p = 2^{-n} \, \bigl| \{ \sigma \in \{-1, 1\}^n : |\textstyle\sum_s \sigma_s d_s| \ge |\sum_s d_s| \} \bigr|

    Exact for up to 13 differences, else from 10,000 draws. Source: Fisher, The Design of Experiments, 1935, section 21.
    """
    if len(differences) < 2:
        return 1.0
    from scipy.stats import permutation_test  # takes a second, which only a report waits for

    data = (np.asarray(differences, float),)
    with np.errstate(over="ignore"):  # scipy counts the 2^n ways, more than a float holds from n = 1,024 on
        found = permutation_test(data, np.sum, permutation_type="samples", vectorized=True, n_resamples=NUM_DRAWN, rng=0)
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    r"""P-values that may be looked at together: the chance that any is at most this by chance alone is no larger.

    .. math:: \tilde p_{(i)} = \max_{j \le i} \min\bigl(1, (m - j + 1) \, p_{(j)}\bigr)

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    scaled = np.minimum(1, p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(scaled)
    return list(map(float, corrected))
