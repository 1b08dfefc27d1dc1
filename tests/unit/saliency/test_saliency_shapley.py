"""Shapley values: against the mean over all orders of arrival, by brute force in float64."""

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msd_framework.errors import ConfigError
from msd_framework.registry import SALIENCIES
from msd_framework.saliency.shapley import ShapleySaliency
from msd_framework.structures import ModelOutput
from msd_framework.views import visible_modalities

NAMES = ("a", "b", "c", "d", "e")
TARGETS = torch.tensor([0, 1, 2, 2])


def outputs(saliency: ShapleySaliency, modalities: tuple[str, ...], seed: int) -> dict[str, ModelOutput]:
    generator = torch.Generator().manual_seed(seed)
    return {v: ModelOutput(2 * torch.randn(4, 3, generator=generator, dtype=torch.float64)) for v in saliency.views(modalities)}


def by_permutations(worth: dict[frozenset[str], Tensor], modalities: tuple[str, ...]) -> Tensor:
    """What each modality adds when it arrives, averaged over all orders of arrival: the definition."""
    orders = list(permutations(modalities))
    totals = {m: torch.zeros(4, dtype=torch.float64) for m in modalities}
    for order in orders:
        there: frozenset[str] = frozenset()
        for m in order:
            totals[m] += worth[there | {m}] - worth[there]
            there |= {m}
    return torch.stack([totals[m] / len(orders) for m in modalities], -1)


def worths(seen: dict[str, ModelOutput], modalities: tuple[str, ...], prior: Tensor, value: str) -> dict[frozenset[str], Tensor]:
    said = {frozenset(visible_modalities(v, modalities)): o.logits for v, o in seen.items()} | {frozenset(): prior.expand(4, 3)}
    full = seen["full"].logits.log_softmax(-1)

    def worth(logits: Tensor) -> Tensor:
        if value == "loss":
            return -F.cross_entropy(logits, TARGETS, reduction="none")
        return -(full.exp() * (full - logits.log_softmax(-1))).sum(-1)

    return {shown: worth(logits) for shown, logits in said.items()}


@pytest.mark.parametrize("value", ["prediction", "loss"])
@pytest.mark.parametrize("count", [2, 3, 4, 5])
@settings(max_examples=5)
@given(seed=st.integers(0, 10_000))
def test_scores_are_the_mean_over_all_orders_and_add_up_to_the_full_effect(count: int, value: str, seed: int) -> None:
    modalities = NAMES[:count]
    prior = [2 / 7, 2 / 7, 3 / 7]
    saliency = ShapleySaliency(value, prior)  # type: ignore[arg-type]
    seen = outputs(saliency, modalities, seed)
    worth = worths(seen, modalities, torch.tensor(prior, dtype=torch.float64).log(), value)
    scores = saliency(seen, TARGETS, modalities)
    torch.testing.assert_close(scores, by_permutations(worth, modalities), rtol=1e-10, atol=1e-12)  # float64 rounding
    effect = worth[frozenset(modalities)] - worth[frozenset()]
    torch.testing.assert_close(scores.sum(-1), effect, rtol=1e-10, atol=1e-12)


def test_a_modality_that_changes_nothing_has_none() -> None:
    saliency = ShapleySaliency()
    modalities = ("audio", "image", "text")
    drawn = outputs(saliency, modalities, 0)
    of = {frozenset(visible_modalities(v, modalities)) - {"audio"}: o for v, o in drawn.items()}
    of[frozenset()] = ModelOutput(torch.zeros(4, 3, dtype=torch.float64))
    seen = {v: of[frozenset(visible_modalities(v, modalities)) - {"audio"}] for v in drawn}
    assert saliency(seen, TARGETS, modalities)[:, 0].abs().max() < 1e-12


def test_two_modalities_are_the_mean_of_what_both_views_say() -> None:
    saliency, drop, keep = ShapleySaliency(), SALIENCIES.build("drop"), SALIENCIES.build("keep")
    seen, modalities = outputs(saliency, ("image", "text"), 1), ("image", "text")
    full = seen["full"]
    to_nothing = drop.distance(ModelOutput(torch.zeros_like(full.logits)), full)
    wanted = (drop(seen, TARGETS, modalities) + keep(seen, TARGETS, modalities) + to_nothing[:, None]) / 2
    torch.testing.assert_close(saliency(seen, TARGETS, modalities), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("count", "views"), [(2, 3), (3, 7), (5, 31)])
def test_every_subset_is_a_view_that_has_one_name(count: int, views: int) -> None:
    names = ShapleySaliency().views(NAMES[:count])
    assert len({visible_modalities(v, NAMES[:count]) for v in names}) == len(names) == views
    assert names[0] == "full"


def test_more_modalities_than_can_be_looked_at_are_refused() -> None:
    with pytest.raises(ValueError, match="every subset of the modalities, which is for 5 at most, got 6"):
        ShapleySaliency().views((*NAMES, "f"))


def test_the_prior_of_labels_is_a_probability_each() -> None:
    saliency = ShapleySaliency(prior=[0.3, 0.8], task="multi_label")
    assert saliency.prior is not None
    torch.testing.assert_close(saliency.prior.sigmoid(), torch.tensor([0.3, 0.8], dtype=torch.float64))


@pytest.mark.parametrize(
    ("prior", "text"),
    [
        ([0.5, 0.3, 0.2], "wanted a probability for each of 2 classes, got 3"),
        ([1.0, 0.0], "wanted probabilities above 0 and below 1, got 1, 0"),
        ([0.5, 0.3], "wanted probabilities that add up to 1, got 0.8"),
    ],
)
def test_a_prior_that_is_none_is_refused(prior: list[float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ShapleySaliency(prior=prior, num_classes=2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"value": "loss", "distance": "mse"}, "distance is not looked at by value: loss"),
        ({"task_loss": "cross_entropy"}, "task_loss is not looked at by value: prediction"),
        ({"distance": "bernoulli_kl"}, "BernoulliKL is for multi_label, soft_target, and the task is single_label"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        SALIENCIES.build({"type": "shapley", **options}, facts={"num_classes": 2, "task": "single_label"})
