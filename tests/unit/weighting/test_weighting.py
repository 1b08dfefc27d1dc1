"""Weightings: against their formulas written in numpy, with the claims that hold for any scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msd_framework.errors import ConfigError
from msd_framework.registry import WEIGHTINGS
from msd_framework.saliency.prediction import DropSaliency
from msd_framework.schedules import Progress
from msd_framework.structures import DatasetInfo, ModelOutput, Setting
from msd_framework.views import View
from msd_framework.weighting.base import Evidence, WeightingStrategy
from msd_framework.weighting.fixed import FixedWeights
from msd_framework.weighting.saliency import view_saliency

MODALITIES = ("audio", "image", "text")
SINGLE = ("full", "audio", "image", "text")
MIXED = ("image", "full", "~image", {"teacher": "audio+text", "student": "image"})
SEEN = {  # which modalities the teacher sees in each view, written out
    "full": (0, 1, 2),
    "audio": (0,),
    "image": (1,),
    "text": (2,),
    "~image": (0, 2),
    "audio+text>image": (0, 2),
}
BATCH = 5

some_views = st.sampled_from([SINGLE, MIXED])
seeds = st.integers(0, 10_000)


def evidence(views: tuple, seed: int = 0, saliency: Tensor | None = None, teacher_losses: Tensor | None = None) -> Evidence:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(views), BATCH)
    drawn = torch.rand(BATCH, len(MODALITIES), generator=generator, dtype=torch.float64)
    return Evidence(
        views=tuple(View.parse(v) for v in views),
        modalities=MODALITIES,
        teacher=torch.randn(*shape, 3, generator=generator),
        student=torch.randn(*shape, 3, generator=generator),
        losses=torch.rand(shape, generator=generator),
        teacher_losses=torch.rand(shape, generator=generator) * 4 if teacher_losses is None else teacher_losses,
        saliency=drawn if saliency is None else saliency,
        targets=torch.zeros(BATCH, dtype=torch.int64),
    )


def full_at(views: tuple) -> int:
    return views.index("full")


def others(weights: Tensor, views: tuple) -> Tensor:
    return torch.stack([w for w, v in zip(weights, views) if v != "full"])


def fitted(spec: object, scores: Tensor) -> WeightingStrategy:
    strategy = WEIGHTINGS.build(spec)
    if strategy.needs_fit:
        strategy.fit(iter(scores.split(2)))
    return strategy


# Stated weights


def test_uniform_weights_are_one_each() -> None:
    assert WEIGHTINGS.build("uniform")(evidence(MIXED)).tolist() == [1, 1, 1, 1]


def test_a_modality_scale_leaves_the_full_view_alone() -> None:
    strategy = WEIGHTINGS.build({"type": "uniform", "modality_scale": 0.25})
    assert strategy(evidence(MIXED)).tolist() == [0.25, 1, 0.25, 0.25]


def test_fixed_weights_are_looked_up_by_the_name_of_the_view() -> None:
    strategy = WEIGHTINGS.build({"type": "fixed", "weights": {"full": 2, "audio+text>image": 0.5, "~image": 0}})
    assert strategy(evidence(MIXED)).tolist() == [1, 2, 0, 0.5]


def test_fixed_weights_that_are_not_stated_are_one() -> None:
    assert WEIGHTINGS.build("fixed")(evidence(SINGLE)).tolist() == [1, 1, 1, 1]


def check(options: dict, views: tuple) -> list[str]:
    kinds = {"audio": "waveform", "image": "pixels", "text": "tokens"}
    setting = Setting(DatasetInfo(kinds, 3, "single_label"), MODALITIES, MODALITIES, kinds)
    return WEIGHTINGS.get("fixed").check(options, setting, tuple(View.parse(v) for v in views))


def test_fixed_weights_of_no_view_are_told_with_the_nearest_name() -> None:
    wanted = "weights: 'imagee' is not one of the views full, audio, image, text. Did you mean 'image'?"
    assert check({"weights": {"imagee": 1.0, "text": 2.0}}, SINGLE) == [wanted]


@pytest.mark.parametrize("options", [{}, {"weights": None}, {"weights": {"~image": 1.0, "audio+text>image": 0.0}}])
def test_fixed_weights_of_views_are_fine(options: dict) -> None:
    assert check(options, MIXED) == []


# Any scheme


SCHEMES = [
    "uniform",
    "fixed",
    "instance",
    "population",
    "teacher_loss",
    {"type": "instance", "saliency": "keep", "normalise": "softmax"},
    {"type": "population", "saliency": "gap", "normalise": "softmax", "temperature": 0.3},
]


@pytest.mark.parametrize("spec", SCHEMES)
@settings(max_examples=15)
@given(views=some_views, seed=seeds, scale=st.sampled_from([0.0, 1e-9, 1.0, 1e4]))
def test_weights_are_not_negative_and_average_to_one(spec: object, views: tuple, seed: int, scale: float) -> None:
    given_evidence = evidence(views, seed)
    scores = given_evidence.saliency * scale
    weights = fitted(spec, scores)(evidence(views, seed, saliency=scores))
    assert weights.shape in [(len(views),), (len(views), BATCH)]
    assert (weights >= 0).all()
    mean = others(weights, views).double().mean(0)
    torch.testing.assert_close(mean, torch.ones_like(mean), rtol=0, atol=1e-6)  # float32 rounding of the weights
    assert (weights[full_at(views)] == 1).all()


@pytest.mark.parametrize("spec", ["instance", "population", "teacher_loss"])
def test_the_full_view_keeps_its_own_weight(spec: str) -> None:
    given_evidence = evidence(MIXED)
    two, one = (
        fitted({"type": spec, "full_weight": w}, given_evidence.saliency)(given_evidence)[full_at(MIXED)] for w in (2.0, 1.0)
    )
    assert (two == 2).all()
    assert (one == 1).all()


@pytest.mark.parametrize("spec", SCHEMES)
def test_with_the_full_view_alone_every_scheme_is_plain_distillation(spec: object) -> None:
    given_evidence = evidence(("full",))
    assert (fitted(spec, given_evidence.saliency)(given_evidence) == 1).all()


# Saliency weights


@settings(max_examples=25)
@given(some_views, seeds)
def test_a_view_is_as_salient_as_what_the_teacher_sees_in_it(views: tuple, seed: int) -> None:
    given_evidence = evidence(views, seed)
    found = view_saliency(given_evidence.saliency, MODALITIES, given_evidence.views)
    s = given_evidence.saliency.numpy()
    wanted = np.stack([sum(s[:, m] for m in SEEN[View.parse(v).name]) for v in views])
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@settings(max_examples=25)
@given(some_views, seeds)
def test_instance_weights_are_in_proportion_to_the_saliency_of_the_views(views: tuple, seed: int) -> None:
    given_evidence = evidence(views, seed)
    s = given_evidence.saliency.numpy()
    shown = [SEEN[View.parse(v).name] for v in views if v != "full"]
    scores = np.stack([sum(s[:, m] for m in seen) for seen in shown])
    wanted = len(shown) * scores / scores.sum(0)
    found = others(WEIGHTINGS.build("instance")(given_evidence), views)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)  # 1e-12 is added to each score, and sums are of order 1


@settings(max_examples=25)
@given(some_views, seeds, st.floats(0.1, 10))
def test_softmax_weights_are_in_proportion_to_the_exponential(views: tuple, seed: int, temperature: float) -> None:
    given_evidence = evidence(views, seed)
    s = given_evidence.saliency.numpy()
    shown = [SEEN[View.parse(v).name] for v in views if v != "full"]
    scores = np.exp(np.stack([sum(s[:, m] for m in seen) for seen in shown]) / temperature)
    strategy = WEIGHTINGS.build({"type": "instance", "normalise": "softmax", "temperature": temperature})
    np.testing.assert_allclose(others(strategy(given_evidence), views), len(shown) * scores / scores.sum(0), rtol=1e-10)


@pytest.mark.parametrize("spec", ["instance", "population"])
def test_scores_that_are_all_zero_weigh_equally(spec: str) -> None:
    scores = torch.zeros(BATCH, 3)
    assert (fitted(spec, scores)(evidence(SINGLE, saliency=scores)) == 1).all()


def test_an_instance_with_one_salient_modality_gives_it_all_the_weight() -> None:
    scores = torch.tensor([[0.0, 0.5, 0.0]]).expand(BATCH, 3)
    weights = WEIGHTINGS.build("instance")(evidence(SINGLE, saliency=scores))
    torch.testing.assert_close(weights[:, 0], torch.tensor([1.0, 0.0, 3.0, 0.0]), atol=1e-4, rtol=0)  # 0 counts as rounding noise


@pytest.mark.parametrize("spec", ["instance", "population"])
def test_scores_that_are_rounding_noise_weigh_equally(spec: str) -> None:
    scores = torch.tensor([3e-8, 0.0, 1e-12]).expand(BATCH, 3)  # 3 / 1e-4 / 1e-4 as a ratio
    assert (fitted(spec, scores)(evidence(SINGLE, saliency=scores)) == 1).all()


def after(num_updates: int, scores: Tensor, **options: float) -> WeightingStrategy:
    """Weights by instance once some updates were made on examples with these scores."""
    strategy = WEIGHTINGS.build({"type": "instance", **options})
    for update in range(num_updates):
        strategy.begin_update(Progress(update, 10))
        strategy(evidence(SINGLE, saliency=scores))
        strategy.end_update(lambda value: value)
    return strategy


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_scores_far_below_those_of_the_data_set_weigh_equally(scale: float) -> None:
    common = scale * torch.rand(BATCH, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small = scale * torch.tensor([3e-4, 1e-5, 0.0], dtype=torch.float64).expand(BATCH, 3)
    assert (after(3, common)(evidence(SINGLE, saliency=small)) == 1).all()
    assert others(after(3, common, floor=0.0)(evidence(SINGLE, saliency=small)), SINGLE)[0, 0] > 2.8


def test_the_scale_of_a_data_set_is_the_mean_score_over_updates_and_is_saved() -> None:
    first, second = (torch.full((BATCH, 3), value, dtype=torch.float64) for value in (1.0, 4.0))
    strategy = after(1, first)
    strategy.begin_update(Progress(1, 10))
    strategy(evidence(SINGLE, saliency=second))
    strategy.end_update(lambda value: value + 1)  # another process saw more
    assert strategy.state_dict()["scale"].tolist() == [3.0, 2.0]
    fresh = WEIGHTINGS.build("instance")
    fresh.load_state_dict(strategy.state_dict())
    assert torch.equal(fresh.scale, strategy.scale)


def test_in_eval_mode_the_scale_stays_as_it_is() -> None:
    strategy = WEIGHTINGS.build("instance").eval()
    strategy(evidence(SINGLE))
    strategy.end_update(lambda value: value)
    assert strategy.scale.tolist() == [0.0, 0.0]


def test_divergences_of_equal_predictions_in_low_precision_weigh_equally() -> None:
    z = 8 * torch.randn(BATCH, 10, generator=torch.Generator().manual_seed(0))
    full, image, text = (ModelOutput(x.bfloat16()) for x in (z, z * 1.001, z * 0.999))
    scores = DropSaliency()({"full": full, "image": image, "text": text}, torch.zeros(BATCH), ["image", "text"])
    assert scores.max() > 1e-6  # more than float32 makes
    both = ("full", "image", "text")
    seen = replace(evidence(both, saliency=scores), modalities=("image", "text"), teacher=torch.zeros(3, BATCH, 10).bfloat16())
    assert (WEIGHTINGS.build("instance")(seen) == 1).all()


def test_scores_that_are_negative_by_rounding_count_as_zero() -> None:
    scores = torch.tensor([[-1e-8, 0.5, 0.0]]).expand(BATCH, 3)
    weights = WEIGHTINGS.build("instance")(evidence(SINGLE, saliency=scores))
    assert (weights >= 0).all()


@settings(max_examples=25)
@given(some_views, seeds)
def test_population_weights_are_in_proportion_to_the_mean_saliency(views: tuple, seed: int) -> None:
    scores = torch.rand(7, 3, generator=torch.Generator().manual_seed(seed))
    mean = scores.double().numpy().mean(0)  # batches of 2, 2, 2 and 1: an example counts once, not a batch
    shown = [SEEN[View.parse(v).name] for v in views if v != "full"]
    totals = np.array([mean[list(seen)].sum() for seen in shown])
    found = fitted("population", scores)(evidence(views, saliency=scores[:BATCH]))
    assert found.shape == (len(views),)
    np.testing.assert_allclose(others(found, views), len(shown) * totals / totals.sum(), rtol=1e-5)  # kept in float32


def test_the_mean_saliency_is_saved_and_restored() -> None:
    scores = torch.rand(7, 3)
    saved = torch.nn.ModuleDict({"weighting": fitted("population", scores)}).state_dict()
    assert list(saved) == ["weighting.mean_saliency"]
    fresh = torch.nn.ModuleDict({"weighting": WEIGHTINGS.build("population")})
    fresh.load_state_dict(saved)
    given_evidence = evidence(SINGLE)
    assert torch.equal(fresh["weighting"](given_evidence), fitted("population", scores)(given_evidence))


def test_an_old_state_without_a_mean_leaves_it_as_it_was() -> None:
    strategy = fitted("population", torch.ones(2, 3))
    strategy.load_state_dict({}, strict=False)
    assert strategy.mean_saliency.tolist() == [1, 1, 1]


def test_population_weights_that_were_not_fitted_are_refused() -> None:
    with pytest.raises(RuntimeError, match="the mean saliency is not known: fit the population weights"):
        WEIGHTINGS.build("population")(evidence(SINGLE))


def test_population_weights_need_training_examples() -> None:
    with pytest.raises(ValueError, match="population weights were given no training example"):
        WEIGHTINGS.build("population").fit([])


@pytest.mark.parametrize("spec", ["instance", "population"])
def test_the_saliency_is_drop_for_the_task_unless_stated(spec: str) -> None:
    strategy = WEIGHTINGS.build(spec, facts={"task": "multi_label"})
    assert isinstance(strategy.saliency, DropSaliency)
    assert type(strategy.saliency.distance).__name__ == "BernoulliKL"


@pytest.mark.parametrize("spec", ["uniform", "fixed", "teacher_loss"])
def test_schemes_without_saliency_ask_for_none(spec: str) -> None:
    assert WEIGHTINGS.build(spec).saliency is None


@pytest.mark.parametrize("spec", ["instance", "population"])
@pytest.mark.parametrize("saliency", ["keep", "loss", "gap"])
def test_a_ratio_of_scores_that_can_be_negative_is_refused(spec: str, saliency: str) -> None:
    with pytest.raises(ConfigError, match="can be negative, which no ratio can use; take normalise: softmax"):
        WEIGHTINGS.build({"type": spec, "saliency": saliency})
    assert WEIGHTINGS.build({"type": spec, "saliency": saliency, "normalise": "softmax"}).saliency is not None


# The teacher's loss


@settings(max_examples=25)
@given(some_views, seeds, st.floats(0.1, 10))
def test_teacher_loss_weights_follow_their_formula(views: tuple, seed: int, temperature: float) -> None:
    given_evidence = evidence(views, seed)
    losses = others(given_evidence.teacher_losses, views).double().numpy()
    wanted = len(losses) * np.exp(-losses / temperature) / np.exp(-losses / temperature).sum(0)
    found = WEIGHTINGS.build({"type": "teacher_loss", "temperature": temperature})(given_evidence)
    # float32: an exponent of up to 40 is right to 40 times 6e-8
    np.testing.assert_allclose(others(found, views), wanted, rtol=2e-5)


def test_a_view_on_which_the_teacher_is_right_counts_more() -> None:
    losses = torch.tensor([9.0, 0.1, 2.0, 4.0])[:, None].expand(4, BATCH)
    weights = WEIGHTINGS.build("teacher_loss")(evidence(SINGLE, teacher_losses=losses))
    assert (weights[1] > weights[2]).all()
    assert (weights[2] > weights[3]).all()


# Refusals


def test_a_weight_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="the weight of 'text' must be at least 0, got nan"):
        FixedWeights({"text": float("nan")})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "uniform", "modality_scale": -1.0}, "modality_scale must be at least 0, got -1.0"),
        ({"type": "fixed", "weights": {"text": -0.5}}, "the weight of 'text' must be at least 0, got -0.5"),
        ({"type": "instance", "full_weight": -1.0}, "full_weight must be at least 0, got -1.0"),
        ({"type": "instance", "floor": 1.0}, "floor must be 0 or more and below 1, got 1.0"),
        ({"type": "population", "full_weight": -1.0}, "full_weight must be at least 0, got -1.0"),
        ({"type": "teacher_loss", "full_weight": -1.0}, "full_weight must be at least 0, got -1.0"),
        ({"type": "teacher_loss", "temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"type": "instance", "normalise": "softmax", "temperature": -1.0}, "temperature must be above 0, got -1.0"),
        ({"type": "instance", "normalise": "sofmax"}, "Did you mean 'softmax'"),
    ],
)
def test_options_out_of_range_are_refused(spec: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WEIGHTINGS.build(spec)
