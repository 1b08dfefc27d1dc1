"""Saliencies: against their formula with torch's distributions, on two and on three modalities."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, kl_divergence

from msd_framework.errors import ConfigError
from msd_framework.registry import SALIENCIES
from msd_framework.structures import ModelOutput
from msd_framework.views import visible_modalities, without

TWO, THREE = ("image", "text"), ("audio", "image", "text")
SALIENCY_NAMES = ["drop", "keep", "loss", "gap"]


def predictions(views: tuple[str, ...], seed: int = 0, batch: int = 5, classes: int = 3) -> dict[str, ModelOutput]:
    generator = torch.Generator().manual_seed(seed)
    return {v: ModelOutput(torch.randn(batch, classes, generator=generator, dtype=torch.float64)) for v in views}


def divergence(full: ModelOutput, other: ModelOutput) -> Tensor:
    return kl_divergence(Categorical(logits=full.logits), Categorical(logits=other.logits))


def error(output: ModelOutput, y: Tensor) -> Tensor:
    return F.cross_entropy(output.logits, y, reduction="none")


ORACLES = {
    "drop": lambda seen, y, only, hidden: divergence(seen["full"], seen[hidden]),
    "keep": lambda seen, y, only, hidden: -divergence(seen["full"], seen[only]),
    "loss": lambda seen, y, only, hidden: -error(seen[only], y),
    "gap": lambda seen, y, only, hidden: error(seen[hidden], y) - error(seen["full"], y),
}


@pytest.mark.parametrize("name", SALIENCY_NAMES)
@pytest.mark.parametrize(
    "views_of",
    [{"image": ("image", "text"), "text": ("text", "image")}, {m: (m, f"~{m}") for m in THREE}],
    ids=["two", "three"],
)
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_scores_follow_their_formula(name: str, views_of: dict[str, tuple[str, str]], seed: int) -> None:
    saliency, modalities = SALIENCIES.build(name), tuple(views_of)
    seen = predictions(saliency.views(modalities), seed)
    y = torch.tensor([0, 1, 2, 2, 0])
    wanted = torch.stack([ORACLES[name](seen, y, only, hidden) for only, hidden in views_of.values()], -1)
    torch.testing.assert_close(saliency(seen, y, modalities), wanted, rtol=1e-10, atol=1e-12)  # float64 rounding


@pytest.mark.parametrize("name", SALIENCY_NAMES)
@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_a_saliency_asks_for_each_view_once(name: str, modalities: tuple[str, ...]) -> None:
    views = SALIENCIES.build(name).views(modalities)
    shown = [visible_modalities(v, modalities) for v in views]
    assert len(set(shown)) == len(views)


@pytest.mark.parametrize(
    ("name", "two", "three"),
    [
        ("drop", {"full", "image", "text"}, {"full", "~audio", "~image", "~text"}),
        ("keep", {"full", "image", "text"}, {"full", *THREE}),
        ("loss", {"image", "text"}, set(THREE)),
        ("gap", {"full", "image", "text"}, {"full", "~audio", "~image", "~text"}),
    ],
)
def test_views_that_are_asked_for(name: str, two: set[str], three: set[str]) -> None:
    assert set(SALIENCIES.build(name).views(TWO)) == two
    assert set(SALIENCIES.build(name).views(THREE)) == three


def test_with_two_modalities_drop_and_keep_rank_through_opposite_views() -> None:
    seen = predictions(("full", "image", "text"))
    drop, keep = (SALIENCIES.build(name)(seen, torch.zeros(5), TWO) for name in ("drop", "keep"))
    torch.testing.assert_close(drop, -keep.flip(-1), rtol=0, atol=0)


@pytest.mark.parametrize(("needed", "enough"), [("drop", "keep"), ("gap", "loss")])
@pytest.mark.parametrize("seed", range(3))
def test_of_two_modalities_what_is_needed_and_what_is_enough_rank_them_alike(needed: str, enough: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(3, 20_000, 3, dtype=torch.float64, generator=generator)
    seen, y = dict(zip(("full", *TWO), map(ModelOutput, logits))), torch.randint(3, (20_000,), generator=generator)
    image_first = [SALIENCIES.build(name)(seen, y, TWO).diff()[:, 0] < 0 for name in (needed, enough)]
    assert torch.equal(*image_first)
    assert 0.4 < image_first[0].double().mean() < 0.6  # either may come first


def test_an_unchanged_prediction_has_no_drop() -> None:
    seen = dict.fromkeys(("full", "image", "text"), predictions(("full",))["full"])
    assert SALIENCIES.build("drop")(seen, torch.zeros(5), TWO).abs().max() < 1e-12


@pytest.mark.parametrize("task", ["multi_label", "soft_target"])
def test_the_task_chooses_the_distance(task: str) -> None:
    seen = predictions(("full", "image", "text"))
    p, q = Bernoulli(logits=seen["full"].logits), Bernoulli(logits=seen["text"].logits)
    found = SALIENCIES.build("drop", facts={"task": task})(seen, torch.zeros(5, 3), TWO)
    torch.testing.assert_close(found[:, 0], kl_divergence(p, q).sum(-1), rtol=1e-10, atol=1e-12)


def test_the_task_chooses_the_loss() -> None:
    seen, y = predictions(("image", "text")), torch.rand(5, 3, dtype=torch.float64)
    found = SALIENCIES.build("loss", facts={"task": "multi_label"})(seen, y, TWO)
    wanted = -F.binary_cross_entropy_with_logits(seen["image"].logits, y, reduction="none").sum(-1)
    torch.testing.assert_close(found[:, 0], wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "option"), [("drop", "distance"), ("keep", "distance")])
def test_a_distance_can_be_chosen(name: str, option: str) -> None:
    seen = predictions(("full", "image", "text"))
    found = SALIENCIES.build({"type": name, option: {"type": "mse"}})(seen, torch.zeros(5), TWO)
    image = (seen["full"].logits - seen["image"].logits).square().mean(-1)
    wanted = {"drop": image, "keep": -image}[name]
    torch.testing.assert_close(found[:, {"drop": 1, "keep": 0}[name]], wanted)


@pytest.mark.parametrize("name", ["loss", "gap"])
def test_a_task_loss_can_be_chosen(name: str) -> None:
    saliency = SALIENCIES.build({"type": name, "task_loss": {"type": "cross_entropy", "label_smoothing": 0.5}})
    assert saliency.task_loss.label_smoothing == 0.5


@pytest.mark.parametrize("name", ["drop", "keep"])
def test_a_distance_for_another_task_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="SoftenedKL is for single_label, soft_target, and the task is multi_label"):
        SALIENCIES.build({"type": name, "distance": "kl"}, facts={"task": "multi_label"})


@pytest.mark.parametrize("name", ["loss", "gap"])
def test_a_task_loss_for_another_task_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="CrossEntropy is for single_label, and the task is multi_label"):
        SALIENCIES.build({"type": name, "task_loss": "cross_entropy"}, facts={"task": "multi_label"})


@pytest.mark.parametrize("name", ["drop", "gap"])
def test_a_single_modality_cannot_be_left_out(name: str) -> None:
    with pytest.raises(ValueError, match="no view is without 'image', which is the only modality"):
        SALIENCIES.build(name).views(["image"])


def test_without_names_the_only_other_modality() -> None:
    assert [without(m, TWO) for m in TWO] == ["text", "image"]
    assert [without(m, THREE) for m in THREE] == ["~audio", "~image", "~text"]


@pytest.mark.parametrize("name", SALIENCY_NAMES)
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_scores_are_never_negative_where_it_says_so(name: str, seed: int) -> None:
    saliency = SALIENCIES.build(name)
    scores = saliency(predictions(saliency.views(TWO), seed), torch.tensor([0, 1, 2, 2, 0]), TWO)
    assert not saliency.non_negative or (scores >= -1e-12).all()
    assert saliency.non_negative == (name == "drop")
