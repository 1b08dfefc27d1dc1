"""Rank statistics against scikit-learn and scipy; what scores say of examples; weights with smoothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import roc_auc_score

from msd_framework.analysis.saliency.report import mean_and_share
from msd_framework.analysis.saliency.statistics import auroc, midranks, spearman, with_interval
from msd_framework.errors import ConfigError
from msd_framework.registry import SALIENCIES, WEIGHTINGS
from msd_framework.saliency.reading import decided
from msd_framework.structures import ModelOutput
from msd_framework.weighting.normalise import normaliser, ratio
from msd_framework.worlds.handwriting import glyph_bank
from msd_framework.worlds.hateful_memes import HatefulMemesLayout, draw_memes
from msd_framework.worlds.layout import Recipe

counts = st.lists(st.integers(0, 3), min_size=12, max_size=12).filter(lambda drawn: sum(drawn[:6]) > 0 and sum(drawn[6:]) > 0)


def resample(drawn: list[int], *columns: np.ndarray) -> list[np.ndarray]:
    """The examples, each as often as it is drawn: what a resample is."""
    return [np.repeat(column, drawn) for column in columns]


@settings(max_examples=30)
@given(drawn=counts, seed=st.integers(0, 1000))
def test_statistics_of_a_resample_are_those_of_the_examples_it_holds(drawn: list[int], seed: int) -> None:
    chance = np.random.default_rng(seed)
    x, y = chance.integers(0, 6, 12).astype(float), chance.standard_normal(12)  # x has ties
    positive = np.repeat([0.0, 1.0], 6)
    weights = np.array([drawn], float)
    few_x, few_y, few_positive = resample(drawn, x, y, positive)
    assert auroc(x, positive, weights)[0] == pytest.approx(roc_auc_score(few_positive, few_x), abs=1e-12)
    there = np.array(drawn) > 0
    np.testing.assert_allclose(np.repeat(midranks(x, weights)[0], drawn), rankdata(few_x))
    if len(np.unique(x[there])) > 1 and len(np.unique(y[there])) > 1:
        assert spearman(x, y, weights)[0] == pytest.approx(spearmanr(few_x, few_y).statistic, abs=1e-12)


def test_an_interval_holds_the_middle_of_the_resamples_and_is_the_same_again() -> None:
    chance = np.random.default_rng(0)
    y = np.repeat([0.0, 1.0], 200)
    found = with_interval(auroc, y + chance.standard_normal(400), y, num_resamples=300)
    assert found["low"] < found["value"] < found["high"]
    assert 0.05 < found["high"] - found["low"] < 0.2  # the standard error of an AUROC of 0.76 with 200 of each is 0.024
    assert with_interval(auroc, y, y, num_resamples=150) == with_interval(auroc, y, y, num_resamples=150)


def test_where_one_kind_alone_is_there_nothing_can_be_told() -> None:
    assert np.isnan(with_interval(auroc, np.arange(3.0), np.ones(3))["value"])


@pytest.mark.parametrize(("name", "reading"), [("drop", "needed"), ("gap", "needed"), ("keep", "enough"), ("loss", "enough")])
def test_a_perfect_reader_tells_what_decides_every_example(name: str, reading: str) -> None:
    """The exact posteriors of the made world in the teacher's place, so that nothing but the score can be wrong."""
    mix = HatefulMemesLayout.mix
    memes = draw_memes(Recipe(range(2000), glyph_bank("train"), mix, 0.0, 0.0, np.random.default_rng(0)))
    p = memes.posteriors(mix)
    seen = {v: ModelOutput(torch.tensor(np.stack([1 - q, q], -1)).clamp(1e-9).log()) for v, q in p.items()}
    saliency = SALIENCIES.build(name)
    scores = saliency(seen, torch.tensor(memes.labels), ("image", "text"))
    found = decided(scores, ("image", "text"), saliency.reading)
    truth = np.array(memes.decided_by)
    assert saliency.reading == reading
    for kind in ("image", "text", "both"):
        assert roc_auc_score(truth == kind, found[kind]) > 0.9


def test_with_two_modalities_needed_and_enough_say_the_same_of_an_example() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = {v: ModelOutput(torch.randn(9, 3, generator=generator)) for v in ("full", "image", "text")}
    told = []
    for name in ("drop", "keep"):
        saliency = SALIENCIES.build(name)
        told.append(decided(saliency(seen, torch.zeros(9), ("image", "text")), ("image", "text"), saliency.reading))
    for kind in ("image", "text", "both"):
        torch.testing.assert_close(told[0][kind], told[1][kind])


@pytest.mark.parametrize("reading", ["needed", "enough", "share"])
def test_three_modalities_have_a_kind_each_and_one_for_all(reading: str) -> None:
    found = decided(torch.tensor([[3.0, 1.0, 2.0]]), ("audio", "image", "text"), reading)  # type: ignore[arg-type]
    wanted = {
        "needed": {"audio": -2.0, "image": -3.0, "text": -3.0, "all": 1.0},
        "enough": {"audio": 3.0, "image": 1.0, "text": 2.0, "all": -3.0},
        "share": {"audio": 1.0, "image": -2.0, "text": -1.0, "all": 1.0},
    }
    assert {name: float(value) for name, value in found.items()} == wanted[reading]


@pytest.mark.parametrize("distance", ["kl", "tvd", "mse"])
@pytest.mark.parametrize("name", ["drop", "keep", "shapley"])
def test_every_distance_goes_with_every_score_that_has_one(name: str, distance: str) -> None:
    generator = torch.Generator().manual_seed(0)
    saliency = SALIENCIES.build({"type": name, "distance": distance})
    seen = {v: ModelOutput(torch.randn(4, 3, generator=generator)) for v in ("full", "image", "text")}
    assert saliency(seen, torch.zeros(4, dtype=torch.long), ("image", "text")).isfinite().all()


def test_tvd_is_half_the_l1_distance_of_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = {v: ModelOutput(torch.randn(4, 3, generator=generator, dtype=torch.float64)) for v in ("full", "image", "text")}
    found = SALIENCIES.build({"type": "drop", "distance": "tvd"})(seen, torch.zeros(4), ("image", "text"))
    wanted = (seen["full"].logits.softmax(-1) - seen["text"].logits.softmax(-1)).abs().sum(-1)
    torch.testing.assert_close(2 * found[:, 0], wanted)


# Weights


@settings(max_examples=20)
@given(
    seed=st.integers(0, 1000), smoothing=st.floats(0, 1), temperature=st.floats(0.3, 5), name=st.sampled_from(["ratio", "softmax"])
)
def test_smoothed_weights_have_mean_1_and_lie_nearer_to_it(seed: int, smoothing: float, temperature: float, name: str) -> None:
    scores = torch.rand(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    plain = normaliser(name, temperature)(scores)  # type: ignore[arg-type]
    smooth = normaliser(name, temperature, smoothing)(scores)  # type: ignore[arg-type]
    torch.testing.assert_close(smooth.mean(0), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(smooth - 1, (1 - smoothing) * (plain - 1))


def test_a_ratios_temperature_is_a_power_and_what_is_added_evens_out_small_scores() -> None:
    scores = torch.tensor([1.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(ratio(scores, temperature=2.0), torch.tensor([2 / 3, 4 / 3], dtype=torch.float64))
    small, large = (ratio(k * scores, added=1.0) for k in (0.01, 100.0))
    assert (small[1] - small[0]) < 0.05 < 1 < (large[1] - large[0])


@pytest.mark.parametrize("weighting", ["instance", "population"])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"smoothing": 1.5}, "smoothing must lie between 0 and 1, got 1.5"),
        ({"added": -1.0}, "added must be at least 0, got -1.0"),
        ({"added": 1.0, "normalise": "softmax"}, "added changes nothing of a softmax; take smoothing"),
    ],
)
def test_smoothing_out_of_range_is_refused(weighting: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        WEIGHTINGS.build({"type": weighting, **options})


def test_a_class_without_examples_has_no_mean() -> None:
    assert mean_and_share({"n": 4, "mean": 0.25, "most_salient": 0.5}) == "0.250 (50 %)"
    assert mean_and_share({"n": 0}) == "-"
