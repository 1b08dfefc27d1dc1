"""Losses between intermediates: torch's own, the papers' formulas written out in float64, and what they lower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence

from msd_framework.losses.features import AttentionTransfer, CosineDistance, Hint, PatientDistance, RelationTransfer
from msd_framework.maskers.drop import DropMasker
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.features import FeatureTerm
from msd_framework.registry import FEATURE_LOSSES
from msd_framework.structures import Feature, FeatureShape
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import made_batch
from tests.runs import tiny_model

BATCH = made_batch(4)
EXACT = {"atol": 1e-12, "rtol": 1e-12}  # float64: sums in another order
ALL = torch.ones(4, 5, dtype=torch.bool)
SOME = torch.arange(5) < torch.tensor([[5], [3], [1], [0]])  # the last example has none


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def states(seed: int, mask: Tensor | None = ALL, width: int = 6) -> Feature:
    return Feature(noise(4, 5, width, seed=seed) if mask is not None else noise(4, width, seed=seed), mask)


def maps(seed: int, mask: Tensor = ALL, heads: int = 3) -> Feature:
    scores = noise(4, heads, 5, 5, seed=seed).masked_fill(~mask[:, None, None, :], torch.finfo(torch.float64).min)
    pairs = mask[:, None, :, None] & mask[:, None, None, :]
    return Feature(torch.where(pairs, scores.softmax(-1), 0.0), mask)


def same(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, **EXACT)


# ---- formulas ----


@pytest.mark.parametrize("mask", [ALL, None], ids=["states", "summaries"])
def test_a_hint_is_the_mean_squared_error_of_torch(mask: Tensor | None) -> None:
    s, t = states(0, mask), states(1, mask)
    found = Hint()(s, t, BATCH)
    same(found, torch.stack([F.mse_loss(a, b) for a, b in zip(s.values, t.values)]))
    same(found.mean(), nn.MSELoss()(s.values, t.values))


@pytest.mark.parametrize("mask", [ALL, None], ids=["states", "summaries"])
def test_the_cosine_distance_is_that_of_torch(mask: Tensor | None) -> None:
    s, t = states(0, mask), states(1, mask)
    rows = [x.values.flatten(0, -2) for x in (s, t)]
    wanted = nn.CosineEmbeddingLoss()(*rows, torch.ones(len(rows[0])))
    same(CosineDistance()(s, t, BATCH).mean(), wanted)
    same(CosineDistance()(replace(s, values=7 * s.values), t, BATCH), CosineDistance()(s, t, BATCH))


def test_attention_transfer_is_the_mean_squared_error_of_maps() -> None:
    s, t = maps(0), maps(1)
    same(AttentionTransfer()(s, t, BATCH).mean(), F.mse_loss(s.values, t.values))
    wanted = sum(F.mse_loss(s.values[:, h], t.values[:, h], reduction="none").mean((1, 2)) for h in range(3)) / 3
    same(AttentionTransfer()(s, t, BATCH), wanted)


@pytest.mark.parametrize("mask", [ALL, SOME], ids=["all", "some"])
def test_minilm_compares_attention_row_by_row(mask: Tensor) -> None:
    s, t = maps(0, mask), maps(1, mask)
    wanted = torch.zeros(4, dtype=torch.float64)
    for i in range(4):
        for h in range(3):
            for row in mask[i].nonzero().flatten():
                p, q = (Categorical(probs=x.values[i, h, row, mask[i]]) for x in (t, s))
                wanted[i] += kl_divergence(p, q) / 3 / mask[i].sum()
    same(RelationTransfer()(s, t, BATCH), wanted)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.sampled_from([1, 2, 4]), st.booleans())
def test_minilm_compares_relations_of_each_head(seed: int, heads: int, whole: bool) -> None:
    mask = ALL if whole else SOME
    s, t = states(seed, mask, 8), states(seed + 1, mask, 12)  # of different widths
    wanted = torch.zeros(4, dtype=torch.float64)
    for i in range(4 if whole else 3):  # the last one has no position
        seen = [x.values[i, mask[i]].chunk(heads, -1) for x in (s, t)]
        for a, b in zip(*seen):
            q, p = (Categorical(logits=x @ x.T / x.shape[1] ** 0.5) for x in (a, b))
            wanted[i] += kl_divergence(p, q).sum() / heads / mask[i].sum().clamp(min=1)
    torch.testing.assert_close(RelationTransfer(heads)(s, t, BATCH), wanted, atol=1e-10, rtol=1e-10)


def test_patient_distillation_is_the_squared_distance_of_unit_vectors() -> None:
    s, t = states(0, None), states(1, None)
    unit = [x.values / x.values.norm(dim=1, keepdim=True) for x in (s, t)]
    same(PatientDistance()(s, t, BATCH), (unit[0] - unit[1]).square().sum(1))
    same(PatientDistance()(s, t, BATCH), 2 - 2 * F.cosine_similarity(s.values, t.values))


# ---- what all of them keep ----

LOSSES: dict[str, tuple[Callable[[], Any], Callable[..., Feature]]] = {
    "hint": (Hint, states),
    "cosine": (CosineDistance, states),
    "attention_transfer": (AttentionTransfer, maps),
    "minilm of attention": (RelationTransfer, maps),
    "minilm of states": (lambda: RelationTransfer(2), states),
    "pkd": (PatientDistance, lambda seed, mask=None: states(seed, None)),
}
every_loss = pytest.mark.parametrize(("make", "feature"), LOSSES.values(), ids=LOSSES)
positional = pytest.mark.parametrize(("make", "feature"), list(LOSSES.values())[:-1], ids=list(LOSSES)[:-1])


@positional
def test_positions_that_hold_nothing_for_one_of_both_do_not_count(make: Any, feature: Any) -> None:
    s, t = feature(0, SOME), feature(1, SOME)
    found = make()(s, t, BATCH)
    assert found[3] == 0
    shorter = [Feature(x.values[:, :3] if x.values.ndim == 3 else x.values[:, :, :3, :3], SOME[:, :3]) for x in (s, t)]
    if feature is states:  # attention of all five positions is no attention of three
        same(make()(*shorter, BATCH)[1:], found[1:])
    other = [replace(x, mask=SOME & (torch.arange(5) < 3)) for x in (s, t)]
    one_sided = make()(s, other[1], BATCH)
    same(one_sided, make()(other[0], other[1], BATCH))
    same(one_sided, make()(other[0], t, BATCH))


@positional
def test_what_stands_where_nothing_counts_changes_neither_value_nor_gradient(make: Any, feature: Any) -> None:
    s, t = feature(0, SOME), feature(1, SOME)
    hidden = ~SOME[..., None] if s.values.ndim == 3 else ~(SOME[:, None, :, None] & SOME[:, None, None, :])
    results = []
    for fill in (0.0, 3.0):
        values = s.values.masked_fill(hidden, fill).requires_grad_()
        found = make()(Feature(values, SOME), replace(t, values=t.values.masked_fill(hidden, fill)), BATCH)
        (gradient,) = torch.autograd.grad(found.sum(), values)
        results.append((found.detach(), gradient))
    torch.testing.assert_close(*results, **EXACT)
    assert results[0][1].isfinite().all()
    assert not results[0][1].masked_select(hidden).any()


@every_loss
def test_a_twin_of_the_teacher_has_nothing_to_learn(make: Any, feature: Any) -> None:
    assert make()(feature(0), feature(0), BATCH).abs().max() <= 1e-12
    assert (make()(feature(0), feature(1), BATCH) > 1e-3).all()


@every_loss
def test_no_gradient_flows_into_the_teacher(make: Any, feature: Any) -> None:
    s, t = (replace(x, values=x.values.requires_grad_()) for x in (feature(0), feature(1)))
    make()(s, t, BATCH).sum().backward()
    assert t.values.grad is None
    assert s.values.grad.abs().sum() > 0


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_are_float32_at_least_and_close_to_the_exact_ones(make: Any, feature: Any, dtype: torch.dtype) -> None:
    s, t = feature(0), feature(1)
    half = [replace(x, values=x.values.to(dtype)) for x in (s, t)]
    with torch.autocast("cpu", torch.bfloat16):
        found = make()(*half, BATCH)
    assert found.dtype == torch.float32
    exact = make()(*(replace(x, values=x.values.double()) for x in half), BATCH)
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)  # of the same halves, computed in float32


# ---- refusals ----


def test_heads_that_do_not_divide_a_width_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads must divide the teacher's 10 features, got 4"):
        RelationTransfer(4).prepare(FeatureShape("hidden", 8, 5), FeatureShape("hidden", 10, 5))
    with pytest.raises(ValueError, match="num_heads must be above 0, got 0"):
        RelationTransfer(0)


def test_attention_of_other_heads_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the student has 2 heads and the teacher 4\. Take query, key and value"):
        RelationTransfer().prepare(FeatureShape("attention", 2, 5), FeatureShape("attention", 4, 5))


# ---- what they lower ----

TERMS = {
    "hint": {"loss": "hint", "student": "fused.1.hidden"},
    "cosine": {"loss": "cosine", "student": "fused.1.hidden"},
    "attention_transfer": {"loss": "attention_transfer", "student": "fused.1.scores"},
    "minilm of attention": {"loss": "minilm", "student": "fused.1.attention"},
    "minilm of values": {"loss": {"type": "minilm", "num_heads": 2}, "student": "fused.1.value"},
    "pkd": {"loss": "pkd", "student": "fused.1.cls"},
    "hint of image tokens": {"loss": "hint", "student": "image.1.hidden"},
}


@pytest.mark.parametrize("options", TERMS.values(), ids=TERMS)
def test_a_student_that_is_trained_by_it_comes_a_third_closer_on_examples_it_has_not_seen(options: Any) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        teacher = tiny_model(1, 16)
        for parameter in teacher.parameters():
            parameter.mul_(5)  # a model that has learned something looks somewhere in particular
    loss = FEATURE_LOSSES.build(options["loss"])
    masker = DropMasker()
    terms = [FeatureTerm(**(options | {"loss": loss}))]
    objective = DistillationObjective(
        tiny_model(2), LiveTeacher(teacher, masker), masker, ["full"], distill_weight=1.0, features=terms
    )
    objective.dry_run(made_batch(4))
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    unseen = made_batch(32, seed=100)
    name = next(n for n in objective(unseen).terms if n.startswith("feature/"))
    before = objective(unseen).terms[name]
    for step in range(60):
        optimizer.zero_grad()
        objective(made_batch(16, seed=step)).loss.backward()
        optimizer.step()
    assert objective(unseen).terms[name] < 2 / 3 * before
