"""Distillation losses on logits: against their papers' formulas written apart in float64, released code, and what must hold."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, kl_divergence

from msd_framework.errors import ConfigError
from msd_framework.losses.base import DistillationLoss, compare
from msd_framework.losses.decoupled import DecoupledKL
from msd_framework.losses.dist import BernoulliMultiLevel, ClassRelations, LabelRelations, MultiLevel
from msd_framework.losses.logits import (
    BernoulliJensenShannon,
    BernoulliKL,
    BernoulliReverseKL,
    BernoulliTotalVariation,
    JensenShannon,
    ReverseKL,
    SoftenedKL,
    Standardised,
    TotalVariation,
)
from msd_framework.registry import DISTILLATION_LOSSES
from msd_framework.run import run
from msd_framework.structures import DatasetInfo, ModelOutput

SPECS = {
    "dkd": {"type": "dkd", "temperature": 2.0},
    "dist": {"type": "dist", "gamma": 0.7, "temperature": 1.5},
    "bernoulli_dist": {"type": "bernoulli_dist", "gamma": 0.7, "temperature": 1.5},
    "standardised": {"type": "standardised", "loss": {"type": "kl", "temperature": 2.0}},
    "multi_level": {"type": "multi_level", "temperatures": [1.0, 3.0]},
    "bernoulli_multi_level": {"type": "bernoulli_multi_level", "temperatures": [1.0, 3.0]},
    "reverse_kl": {"type": "reverse_kl", "temperature": 2.0},
    "bernoulli_reverse_kl": {"type": "bernoulli_reverse_kl", "temperature": 2.0},
    "bernoulli_js": {"type": "bernoulli_js"},
    "tvd": {"type": "tvd"},
    "bernoulli_tvd": {"type": "bernoulli_tvd"},
    "ctkd": {"type": "ctkd"},
    "bernoulli_ctkd": {"type": "bernoulli_ctkd"},
}
MIXING = {"dist", "bernoulli_dist", "multi_level", "bernoulli_multi_level"}
BLIND_TO_A_SHIFT = ["dkd", "dist", "standardised", "multi_level", "reverse_kl", "tvd", "ctkd"]

every_loss = pytest.mark.parametrize("name", SPECS)
cases = st.tuples(st.integers(0, 10_000), st.integers(2, 6), st.integers(3, 6), st.floats(0.3, 5))
temperatures = st.floats(0.5, 6)


def logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(case: tuple[int, int, int, float]) -> tuple[Tensor, Tensor]:
    seed, batch, classes, scale = case
    return logits(batch, classes, seed=seed, scale=scale), logits(batch, classes, seed=seed + 1, scale=scale)


def value(loss: DistillationLoss, student: Tensor, teacher: Tensor, targets: Tensor | None = None) -> Tensor:
    return compare(loss, ModelOutput(student), ModelOutput(teacher), targets)


def built(name: str) -> DistillationLoss:
    return DISTILLATION_LOSSES.build(SPECS[name])


def exactly(found: Tensor, wanted: Tensor) -> None:
    """Two float64 computations of the same formula: only rounding may differ."""
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


# What holds for all of them


@every_loss
@settings(max_examples=15)
@given(case=cases)
def test_a_distance_is_one_value_an_example_zero_at_the_teacher_and_not_negative(name: str, case: tuple) -> None:
    student, teacher = pair(case)
    found = value(built(name), student, teacher)
    assert found.shape == (len(student),)
    assert (found >= -1e-9).all()
    exactly(value(built(name), teacher, teacher), torch.zeros(len(teacher), dtype=torch.float64))


@every_loss
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    loss, teacher = built(name), logits(4, 5, seed=1)
    student = logits(4, 5, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: value(loss, z, teacher), student)


@every_loss
def test_no_gradient_flows_into_the_teacher(name: str) -> None:
    student, teacher = (logits(4, 5, seed=s).requires_grad_() for s in (0, 1))
    value(built(name), student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.ne(0).any()


@every_loss
def test_following_the_gradient_brings_the_student_to_what_the_loss_asks_for(name: str) -> None:
    loss, teacher = built(name), logits(6, 4, seed=1, scale=1.0)
    student = logits(6, 4, seed=2, scale=1.0).requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.03)
    start = value(loss, student, teacher).mean().item()
    for _ in range(300):
        optimizer.zero_grad()
        value(loss, student, teacher).mean().backward()
        optimizer.step()
    assert value(loss, student, teacher).mean().item() < 0.1 * start


@pytest.mark.parametrize("name", BLIND_TO_A_SHIFT)
@settings(max_examples=10)
@given(case=cases, shift=st.floats(-20, 20))
def test_a_constant_added_to_all_logits_of_a_softmax_changes_nothing(name: str, case: tuple, shift: float) -> None:
    student, teacher = pair(case)
    exactly(value(built(name), student + shift, teacher - 2 * shift), value(built(name), student, teacher))


@pytest.mark.parametrize("name", sorted(set(SPECS) - MIXING))
def test_an_example_does_not_depend_on_its_batch(name: str) -> None:
    student, teacher = logits(4, 5), logits(4, 5, seed=1)
    alone = [value(built(name), student[i : i + 1], teacher[i : i + 1]) for i in range(4)]
    exactly(value(built(name), student, teacher), torch.cat(alone))


@every_loss
def test_the_order_of_examples_and_of_classes_does_not_matter(name: str) -> None:
    student, teacher = logits(4, 5), logits(4, 5, seed=1)
    rows, columns = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 1, 0, 3, 2])
    found = value(built(name), student[rows][:, columns], teacher[rows][:, columns])
    exactly(found, value(built(name), student, teacher)[rows])


@every_loss
def test_logits_with_a_row_for_each_position_of_a_text_are_refused(name: str) -> None:
    """A mean over positions would hold those whose target is -100: another prompt changed it from 0.531 to 0.666."""
    with pytest.raises(ValueError, match=r"takes logits \[N, C\], a row for each target, got \[2, 3, 5\]"):
        value(built(name), logits(2, 3, 5), logits(2, 3, 5, seed=1))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_compared_in_float32(name: str, dtype: torch.dtype) -> None:
    student, teacher = logits(4, 5).to(dtype), logits(4, 5, seed=1).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value(built(name), student, teacher)
    assert found.dtype == torch.float32
    assert torch.equal(found, value(built(name), student.float(), teacher.float()))


@every_loss
def test_logits_that_are_all_the_same_have_a_finite_gradient(name: str) -> None:
    student = torch.zeros(3, 4, requires_grad=True)
    value(built(name), student, torch.zeros(3, 4)).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@every_loss
def test_very_sure_logits_have_a_finite_value_and_gradient(name: str) -> None:
    student = torch.tensor([[200.0, -200.0, 0.0], [0.0, 200.0, -200.0]], requires_grad=True)
    found = value(built(name), student, -student.detach())
    found.sum().backward()
    assert found.isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", ["dkd", "dist", "bernoulli_dist", "reverse_kl", "bernoulli_reverse_kl"])
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(name: str, temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        DISTILLATION_LOSSES.build({"type": name, "temperature": temperature})


# Divergences


@settings(max_examples=25)
@given(cases, temperatures)
def test_reverse_kl_is_that_of_torch_distributions_with_the_roles_exchanged(case: tuple, temperature: float) -> None:
    student, teacher = pair(case)
    q, p = (Categorical(logits=z / temperature) for z in (student, teacher))
    exactly(value(ReverseKL(temperature), student, teacher), temperature**2 * kl_divergence(q, p))
    exactly(value(ReverseKL(temperature), student, teacher), value(SoftenedKL(temperature), teacher, student))


@settings(max_examples=25)
@given(cases, temperatures)
def test_bernoulli_reverse_kl_is_the_sum_of_that_of_torch_distributions(case: tuple, temperature: float) -> None:
    student, teacher = (z.clamp(-12, 12) for z in pair(case))  # the oracle clamps its probabilities
    q, p = (Bernoulli(logits=z / temperature) for z in (student, teacher))
    exactly(value(BernoulliReverseKL(temperature), student, teacher), temperature**2 * kl_divergence(q, p).sum(-1))
    exactly(value(BernoulliReverseKL(temperature), student, teacher), value(BernoulliKL(temperature), teacher, student))


def test_reverse_kl_lets_go_of_a_peak_that_kl_holds_on_to() -> None:
    """A teacher with two peaks; a student on one of them, and one that spreads over all four classes."""
    teacher = torch.tensor([[5.0, 5.0, 0.0, 0.0]])
    one_peak, spread = torch.tensor([[5.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 4)
    assert value(ReverseKL(), one_peak, teacher) < value(ReverseKL(), spread, teacher)
    assert value(SoftenedKL(), one_peak, teacher) > value(SoftenedKL(), spread, teacher)


@settings(max_examples=25)
@given(cases)
def test_total_variation_is_the_largest_difference_of_probability_of_any_event(case: tuple) -> None:
    student, teacher = pair(case)
    difference = student.softmax(-1) - teacher.softmax(-1)
    events = [[bool(e >> c & 1) for c in range(student.shape[1])] for e in range(2 ** student.shape[1])]
    largest = (difference @ torch.tensor(events, dtype=torch.float64).T).abs().amax(-1)
    exactly(value(TotalVariation(), student, teacher), largest)


def two_classes(z: Tensor) -> Tensor:
    """The two classes, yes and no, of each label: [B C, 2]."""
    return torch.stack([z.flatten(), torch.zeros_like(z).flatten()], -1)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (BernoulliJensenShannon(), JensenShannon()),
        (BernoulliTotalVariation(), TotalVariation()),
        (BernoulliReverseKL(2.0), ReverseKL(2.0)),
    ],
)
@settings(max_examples=25)
@given(case=cases)
def test_the_form_for_labels_is_the_sum_of_that_for_two_classes(
    labels: DistillationLoss, classes: DistillationLoss, case: tuple
) -> None:
    student, teacher = pair(case)
    by_label = value(classes, two_classes(student), two_classes(teacher)).view_as(student)
    exactly(value(labels, student, teacher), by_label.sum(-1))


# DKD


def dkd_by_hand(student: Tensor, teacher: Tensor, targets: list[int], alpha: float, beta: float, temperature: float) -> list[float]:
    """Zhao et al., equations 1 to 7, one probability at a time."""
    found = []
    for z_s, z_t, y in zip(student.tolist(), teacher.tolist(), targets):
        soft = [[math.exp(z / temperature) for z in row] for row in (z_s, z_t)]
        q, p = ([e / sum(row) for e in row] for row in soft)
        others = [c for c in range(len(p)) if c != y]
        not_p, not_q = sum(p[c] for c in others), sum(q[c] for c in others)
        tckd = p[y] * math.log(p[y] / q[y]) + not_p * math.log(not_p / not_q)
        nckd = sum(p[c] / not_p * math.log((p[c] / not_p) / (q[c] / not_q)) for c in others)
        found.append(temperature**2 * (alpha * tckd + beta * nckd))
    return found


@settings(max_examples=25)
@given(cases, temperatures, st.floats(0, 3), st.floats(0, 9))
def test_dkd_is_the_paper_s_formula(case: tuple, temperature: float, alpha: float, beta: float) -> None:
    student, teacher = pair(case)
    targets = torch.arange(len(student)) % student.shape[1]
    wanted = dkd_by_hand(student, teacher, targets.tolist(), alpha, beta, temperature)
    found = value(DecoupledKL(alpha, beta, temperature), student, teacher, targets)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-8, atol=1e-8)  # 1 - p cancels by hand


@settings(max_examples=25)
@given(cases, temperatures)
def test_kl_is_dkd_with_the_wrong_classes_weighted_by_their_probability(case: tuple, temperature: float) -> None:
    """The paper's equation 7: KD = TCKD + (1 - p_y) NCKD."""
    student, teacher = pair(case)
    targets = torch.arange(len(student)) % student.shape[1]
    tckd = value(DecoupledKL(1, 0, temperature), student, teacher, targets)
    nckd = value(DecoupledKL(0, 1, temperature), student, teacher, targets)
    wrong = 1 - (teacher / temperature).softmax(-1).gather(-1, targets[:, None])[:, 0]
    exactly(tckd + wrong * nckd, value(SoftenedKL(temperature), student, teacher))


def test_dkd_of_two_classes_is_alpha_times_kl() -> None:
    student, teacher = logits(4, 2), logits(4, 2, seed=1)
    found = value(DecoupledKL(alpha=3, beta=8, temperature=2), student, teacher, torch.tensor([0, 1, 1, 0]))
    exactly(found, 3 * value(SoftenedKL(2), student, teacher))


def test_an_unknown_target_is_the_teacher_s_likeliest_class() -> None:
    student, teacher = logits(3, 5), logits(3, 5, seed=1)
    likeliest = teacher.argmax(-1)
    other = (likeliest[2] + 1) % 5
    wanted = value(DecoupledKL(), student, teacher, torch.stack([*likeliest[:2], other]))
    exactly(value(DecoupledKL(), student, teacher, torch.stack([torch.tensor(-100), torch.tensor(-100), other])), wanted)
    exactly(value(DecoupledKL(), student, teacher), value(DecoupledKL(), student, teacher, likeliest))
    assert not torch.allclose(wanted[2], value(DecoupledKL(), student, teacher)[2])


@pytest.mark.parametrize("option", ["alpha", "beta"])
def test_a_negative_weight_of_dkd_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be 0 or more, got -1"):
        DecoupledKL(**{option: -1})


# DIST


def pearson(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


@pytest.mark.parametrize(("loss", "read"), [(ClassRelations, lambda z: z.softmax(-1)), (LabelRelations, torch.sigmoid)])
@settings(max_examples=15)
@given(case=cases, temperature=temperatures, beta=st.floats(0, 2), gamma=st.floats(0, 2))
def test_the_mean_of_dist_is_the_paper_s_loss(loss, read, case: tuple, temperature: float, beta: float, gamma: float) -> None:
    student, teacher = pair(case)
    q, p = read(student / temperature), read(teacher / temperature)
    inter = sum(1 - pearson(a, b) for a, b in zip(p, q)) / len(p)
    intra = sum(1 - pearson(a, b) for a, b in zip(p.T, q.T)) / p.shape[1]
    found = value(loss(beta, gamma, temperature), student, teacher).mean().item()
    assert found == pytest.approx(temperature**2 * (beta * inter + gamma * intra), rel=1e-7, abs=1e-7)


def test_dist_within_examples_is_one_minus_the_correlation_of_each() -> None:
    student, teacher = logits(4, 5), logits(4, 5, seed=1)
    wanted = [1 - pearson(a, b) for a, b in zip(student.softmax(-1), teacher.softmax(-1))]
    exactly(value(ClassRelations(gamma=0), student, teacher), torch.tensor(wanted, dtype=torch.float64))


def test_dist_is_that_of_torchdistill() -> None:
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    theirs = mid_level.DISTLoss(".", "output", ".", "output", beta=1.3, gamma=0.6, tau=2.0)
    student, teacher = logits(6, 5), logits(6, 5, seed=1)
    wanted = theirs({".": {"output": student}}, {".": {"output": teacher}})
    exactly(value(ClassRelations(1.3, 0.6, 2.0), student, teacher).mean(), wanted)


def test_dist_does_not_ask_for_the_teacher_s_sureness() -> None:
    """A student whose probabilities are half way to those of chance is as good as its teacher."""
    p = logits(5, 4).softmax(-1)
    q = (p + 0.25) / 2
    torch.testing.assert_close(value(ClassRelations(), q.log(), p.log()), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-9)
    assert (value(SoftenedKL(), q.log(), p.log()) > 0.01).all()


def test_a_batch_of_one_has_no_relations_between_examples() -> None:
    student, teacher = logits(1, 4), logits(1, 4, seed=1)
    exactly(value(ClassRelations(beta=0), student, teacher), torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("option", ["beta", "gamma"])
@pytest.mark.parametrize("loss", [ClassRelations, LabelRelations])
def test_a_negative_weight_of_dist_is_refused(loss, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be 0 or more, got -1"):
        loss(**{option: -1})


# Standardised logits


def z_score(z: Tensor) -> Tensor:
    """Sun et al., algorithm 1."""
    mean = z.mean(-1, keepdim=True)
    return (z - mean) / ((z - mean) ** 2).mean(-1, keepdim=True).sqrt()


@settings(max_examples=25)
@given(cases, temperatures)
def test_the_inner_loss_sees_z_scores(case: tuple, temperature: float) -> None:
    student, teacher = pair(case)
    found = value(Standardised(SoftenedKL(temperature)), student, teacher)
    wanted = value(SoftenedKL(temperature), z_score(student), z_score(teacher))
    # 1e-7 is added to the standard deviation, which Hypothesis can make as small as 0.01.
    torch.testing.assert_close(found, wanted, rtol=2e-4, atol=1e-6)


@settings(max_examples=25)
@given(cases, st.floats(0.5, 50), st.floats(-30, 30))
def test_neither_size_nor_level_of_standardised_logits_counts(case: tuple, scale: float, shift: float) -> None:
    student, teacher = pair(case)
    found = value(Standardised(SoftenedKL()), scale * student + shift, teacher)
    torch.testing.assert_close(found, value(Standardised(SoftenedKL()), student, teacher), rtol=2e-4, atol=1e-6)


def test_standardised_kl_is_that_of_torchdistill_at_its_temperature() -> None:
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher = logits(6, 5), logits(6, 5, seed=1)
    theirs = mid_level.LogitStdKDLoss(".", "output", ".", "output", temperature=2.0, alpha=0.5)  # beta only counts with targets
    wanted = theirs({".": {"output": student}}, {".": {"output": teacher}})  # the mean divergence, without the square of T
    temperature = 2.0 * math.sqrt(5 / 4)  # it divides by C - 1
    found = value(Standardised(SoftenedKL(temperature)), student, teacher).mean() / temperature**2
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)  # both add 1e-7 to the standard deviation


def test_the_targets_reach_a_loss_that_is_wrapped() -> None:
    student, teacher, targets = logits(3, 5), logits(3, 5, seed=1), torch.tensor([4, 0, 2])
    found = value(Standardised(DecoupledKL()), student, teacher, targets)
    torch.testing.assert_close(found, value(DecoupledKL(), z_score(student), z_score(teacher), targets), rtol=1e-5, atol=1e-6)


def test_features_are_left_alone_by_the_standardisation() -> None:
    class Features(DistillationLoss):
        def forward(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
            return student.features["fused"] - teacher.features["fused"]

    one, two = (ModelOutput(torch.zeros(2, 3), {"fused": torch.full((2,), x)}) for x in (3.0, 1.0))
    assert Standardised(Features())(one, two).tolist() == [2, 2]


def test_a_loss_that_reads_a_sigmoid_cannot_be_standardised() -> None:
    with pytest.raises(ConfigError, match=r"loss: BernoulliKL reads the level of each logit, which is gone"):
        DISTILLATION_LOSSES.build({"type": "standardised", "loss": "bernoulli_kl"})


@pytest.mark.parametrize(("num_classes", "said"), [(2, 1), (3, 0)])
def test_two_classes_cannot_be_standardised(num_classes: int, said: int) -> None:
    found = Standardised.check(DatasetInfo({"text": "tokens"}, num_classes, "single_label"))
    assert len(found) == said
    assert all("needs three classes or more, got 2" in text for text in found)


# Multi-level


def multi_level_by_hand(p: Tensor, q: Tensor, divergence: Tensor, temperature: float, weights: tuple[float, float, float]) -> float:
    """Jin et al., section 3, with loops in the place of Gram matrices."""
    batch, classes = p.shape
    examples = sum((p[i] @ p[j] - q[i] @ q[j]) ** 2 for i in range(batch) for j in range(batch)) / batch
    relations = sum((p[:, c] @ p[:, d] - q[:, c] @ q[:, d]) ** 2 for c in range(classes) for d in range(classes)) / classes
    return float(weights[0] * temperature**2 * divergence.mean() + weights[1] * examples + weights[2] * relations)


@settings(max_examples=10)
@given(cases, st.lists(st.floats(0.5, 6), min_size=1, max_size=3), st.tuples(*3 * [st.floats(0, 2)]))
def test_the_mean_of_multi_level_is_the_released_code_s_loss(case: tuple, ts: list[float], weights: tuple) -> None:
    student, teacher = pair(case)
    wanted = 0.0
    for t in ts:
        p, q = (teacher / t).softmax(-1), (student / t).softmax(-1)
        wanted += multi_level_by_hand(p, q, F.kl_div(q.log(), p, reduction="none").sum(-1), t, weights)
    assert value(MultiLevel(ts, *weights), student, teacher).mean().item() == pytest.approx(wanted, rel=1e-8, abs=1e-9)


@settings(max_examples=10)
@given(cases, temperatures, st.tuples(*3 * [st.floats(0, 2)]))
def test_the_multi_level_loss_for_labels_reads_sigmoids(case: tuple, t: float, weights: tuple) -> None:
    student, teacher = (z.clamp(-6, 6) for z in pair(case))
    p, q = (teacher / t).sigmoid(), (student / t).sigmoid()
    divergence = kl_divergence(Bernoulli(p), Bernoulli(q)).sum(-1)
    wanted = multi_level_by_hand(p, q, divergence, t, weights)
    assert value(BernoulliMultiLevel([t], *weights), student, teacher).mean().item() == pytest.approx(wanted, rel=1e-8, abs=1e-9)


def test_the_published_temperatures_are_the_default() -> None:
    student, teacher = logits(3, 4), logits(3, 4, seed=1)
    exactly(value(MultiLevel(), student, teacher), value(MultiLevel([2, 3, 4, 5, 6]), student, teacher))


@pytest.mark.parametrize("loss", [MultiLevel, BernoulliMultiLevel])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperatures": []}, "temperatures must name at least one, got none"),
        ({"temperatures": [2.0, 0.0]}, r"temperatures\[1\] must be above 0, got 0.0"),
        ({"instance_weight": -1.0}, "instance_weight must be 0 or more"),
        ({"batch_weight": -1.0}, "batch_weight must be 0 or more"),
        ({"class_weight": -1.0}, "class_weight must be 0 or more"),
    ],
)
def test_options_of_multi_level_out_of_range_are_refused(loss, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        loss(**options)


# Tasks


@pytest.mark.parametrize("task", ["single_label", "multi_label", "soft_target"])
def test_a_loss_says_which_tasks_it_is_for(task: str) -> None:
    sigmoid = {name for name in SPECS if name.startswith("bernoulli_")}
    wanted = {"single_label": set(SPECS) - sigmoid, "multi_label": sigmoid, "soft_target": set(SPECS) - {"dkd"}}
    assert {name for name in SPECS if task in DISTILLATION_LOSSES.get(name).tasks} == wanted[task]


CHECKED = [
    ("bernoulli_tvd", r"objective\.distill_loss: bernoulli_tvd is for multi_label or soft_target targets, and .* single_label"),
    ("{type: standardised, loss: bernoulli_kl}", r"objective\.distill_loss: loss: BernoulliKL reads the level of each logit"),
    ("{type: standardised, loss: kl}", r"objective\.distill_loss: needs three classes or more, got 2: two standardised logits"),
    ("{type: kl, temperature: {start: 4}}", r"objective\.distill_loss: temperature: needs a start and an end"),
    ("{type: kl, temperature: hot}", r"objective\.distill_loss\.temperature: wanted float .*got 'hot'"),
]


@pytest.mark.parametrize(("loss", "said"), CHECKED)
def test_a_loss_that_does_not_fit_is_told_before_anything_is_loaded(
    loss: str, said: str, tiny_config, tiny_teacher, tmp_path
) -> None:
    words = [
        "objective={type: distillation, views: [full]}",
        f"objective.distill_loss={loss}",
        f"teacher.checkpoint={tiny_teacher}",
    ]
    with pytest.raises(ConfigError, match=said):
        run(tiny_config, [*words, "run_type=check", f"env.save_dir={tmp_path / 'run'}"])


FITTING = ["{type: dkd, temperature: {start: 4, end: 1, shape: cosine}}", "dist", "multi_level", "reverse_kl", "tvd", "ctkd"]


@pytest.mark.parametrize("loss", FITTING)
def test_a_loss_that_fits_is_one_line_of_a_configuration(loss: str, tiny_config, tiny_teacher, tmp_path) -> None:
    words = [
        "objective={type: distillation, views: [full, text], distill_weight: {start: 0.2, end: 0.8}}",
        f"objective.distill_loss={loss}",
    ]
    report = run(tiny_config, [*words, f"teacher.checkpoint={tiny_teacher}", f"env.save_dir={tmp_path / 'run'}"])
    assert report
