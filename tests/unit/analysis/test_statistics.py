"""Means, spreads and paired bootstrap intervals over seeds."""

import itertools
import math
import statistics as standard

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from msd_framework.analysis.statistics import Difference, holm, paired_difference, sign_flip, summarise

values = st.lists(st.floats(-1, 1).map(lambda x: round(x, 6)), min_size=2, max_size=12)


@given(values)
def test_mean_and_deviation_are_those_of_the_standard_library(found):
    summary = summarise(found)
    assert summary.mean == pytest.approx(standard.mean(found), abs=1e-12)
    assert summary.sd == pytest.approx(standard.stdev(found), abs=1e-9)  # both in float64; squares of 1e-6 cost digits
    assert summary.num_values == len(found)


def test_one_value_has_no_deviation():
    assert math.isnan(summarise([0.5]).sd)


def test_no_value_has_no_mean():
    with pytest.raises(ValueError, match="wanted at least one value, got none"):
        summarise([])


def test_interval_is_that_of_all_resamples_where_they_can_be_listed():
    d = np.array([0.1, 0.4, -0.2, 0.3, 0.7])
    means = [np.mean(drawn) for drawn in itertools.product(d, repeat=len(d))]  # 3,125 equally likely ones
    low, high = np.quantile(means, [0.025, 0.975])
    found = paired_difference(d, np.zeros(5), num_resamples=400_000)
    # neighbours among the listed means are 0.02 apart, so a quantile that is off by chance is off by one such step
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.021)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_interval_is_scipys_percentile_bootstrap(level):
    method, baseline = np.random.default_rng(3).normal([[0.3], [0.0]], 1.0, (2, 10))
    theirs = stats.bootstrap(
        (method - baseline,), np.mean, n_resamples=100_000, confidence_level=level, method="percentile", rng=1
    ).confidence_interval
    ours = paired_difference(method, baseline, level=level, num_resamples=100_000)
    error = 0.01 * (method - baseline).std()  # a 2.5 % quantile of 1e5 draws has a deviation of about 0.003 of theirs
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=error)


def test_interval_of_many_pairs_is_the_normal_one():
    d = np.random.default_rng(5).normal(0.2, 1.0, 2000)
    half = 1.959964 * d.std() / math.sqrt(len(d))
    found = paired_difference(d, np.zeros(2000), num_resamples=20_000)
    assert (found.low, found.high) == pytest.approx((d.mean() - half, d.mean() + half), abs=0.05 * half)


def test_what_all_seeds_share_does_not_widen_the_interval():
    luck = np.random.default_rng(0).normal(0, 100, 8)
    found = paired_difference(luck + np.tile([1, 2], 4), luck)
    assert 1 <= found.low < found.high <= 2


@given(values)
def test_exchanging_method_and_baseline_turns_the_sign(found):
    forth = paired_difference(found, [0.0] * len(found), num_resamples=200)
    back = paired_difference([0.0] * len(found), found, num_resamples=200)
    assert (back.mean, back.low, back.high) == pytest.approx((-forth.mean, -forth.high, -forth.low), abs=1e-12)
    assert (back.wins, back.losses) == (forth.losses, forth.wins)


def test_wins_are_counted_towards_what_is_better():
    smaller = paired_difference([1.0, 5.0, 3.0], [2.0, 2.0, 3.0], larger_is_better=False)
    assert (smaller.wins, smaller.losses, smaller.num_pairs) == (1, 1, 3)


def test_the_same_values_give_the_same_interval():
    assert paired_difference([1.0, 2.0, 4.0], [0.0, 1.0, 1.5]) == paired_difference([1.0, 2.0, 4.0], [0.0, 1.0, 1.5])


@pytest.mark.parametrize(("method", "baseline"), [([], []), ([1.0], [1.0, 2.0])])
def test_values_without_a_partner_are_refused(method, baseline):
    with pytest.raises(ValueError, match=f"wanted as many values .* got {len(method)} and {len(baseline)}"):
        paired_difference(method, baseline)


@pytest.mark.parametrize(
    ("low", "high", "num_pairs", "larger_is_better", "verdict"),
    [
        (0.1, 0.2, 10, True, "better"),
        (-0.2, -0.1, 10, True, "worse"),
        (0.1, 0.2, 10, False, "worse"),
        (-0.2, -0.1, 10, False, "better"),
        (-0.1, 0.2, 10, True, "no difference shown"),
        (0.0, 0.2, 10, True, "no difference shown"),
        (math.nan, math.nan, 10, True, "no difference shown"),
        (0.1, 0.2, 6, True, "better"),
        (0.1, 0.2, 5, True, "5 seeds are too few to tell"),
        (0.1, 0.1, 1, True, "1 seed is too few to tell"),
    ],
)
def test_verdict_says_what_the_interval_shows(low, high, num_pairs, larger_is_better, verdict):
    assert Difference((low + high) / 2, low, high, 0, 0, num_pairs, larger_is_better).verdict == verdict


def share_of_signs(d):
    """How many of all 2^n ways to choose the signs give a sum at least as large, as a share."""
    signs = np.array(list(itertools.product([-1, 1], repeat=len(d))))
    return (np.abs(signs @ d) >= abs(d.sum()) - 1e-9).mean()


@pytest.mark.parametrize("num_pairs", [2, 6, 10, 13])
def test_sign_flip_is_the_share_of_all_ways_to_choose_the_signs(num_pairs):
    d = np.random.default_rng(num_pairs).normal(0.5, 1, num_pairs)
    assert sign_flip(d) == share_of_signs(d)


def test_sign_flip_of_many_pairs_is_near_the_exact_one():
    d = np.random.default_rng(0).normal(0.4, 1, 16)
    assert sign_flip(d) == pytest.approx(share_of_signs(d), abs=0.015)  # 3 standard deviations of a share of 10,000 draws
    assert sign_flip(d) == sign_flip(d)


def test_no_difference_and_a_single_one_show_nothing():
    assert sign_flip([0.0, 0.0, 0.0]) == sign_flip([0.3]) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_step_down_rule(p_values):
    """Rejecting at a level what is at most it is rejecting one after another, the smallest first, until one is too large."""
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected, left = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
        while left and p_values[left[0]] * len(left) <= level:
            rejected.add(left.pop(0))
        assert {i for i, p in enumerate(corrected) if p <= level} == rejected
