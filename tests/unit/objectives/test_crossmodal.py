"""Distillation across modalities: the rank filter against SciPy, the wrong classes' divergence, and both together."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from torch import Tensor
from torch.distributions import Bernoulli, kl_divergence

from msd_framework.errors import ConfigError
from msd_framework.losses.base import compare
from msd_framework.losses.decoupled import BernoulliNonTargetKL, NonTargetKL
from msd_framework.maskers.drop import DropMasker
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.registry import DISTILLATION_LOSSES, WEIGHTINGS
from msd_framework.run import run
from msd_framework.structures import DatasetInfo, ModelOutput
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import made_batch
from msd_framework.views import View
from msd_framework.weighting.base import Evidence
from msd_framework.weighting.rank_filter import BLOCK, RankFilter, kendall
from tests.runs import tiny_model

CROSSMODAL = {"teacher": "text", "student": "image"}


def logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def evidence(student: Tensor, teacher: Tensor) -> Evidence:
    """What a weighting sees of logits [V, B, C]."""
    losses = torch.zeros(student.shape[:2])
    views = tuple(View(f"a{v}", f"b{v}") for v in range(len(student)))
    return Evidence(views, ("a",), teacher, student, losses, losses, None, torch.zeros(student.shape[1], dtype=torch.int64))


def value(loss: Any, student: Tensor, teacher: Tensor, targets: Tensor | None = None) -> Tensor:
    return compare(loss, ModelOutput(student), ModelOutput(teacher), targets)


# Rank correlation

ranks = st.integers(2, 6).flatmap(lambda size: st.tuples(*2 * [st.lists(st.integers(0, 4), min_size=size, max_size=size)]))


@settings(max_examples=60)
@given(ranks)
def test_the_rank_correlation_is_that_of_scipy_ties_included(drawn: tuple[list[int], list[int]]) -> None:
    a, b = drawn
    wanted = kendalltau(a, b).statistic if len(set(a)) > 1 and len(set(b)) > 1 else 0.0  # undefined where one is constant
    assert kendall(torch.tensor(a).double(), torch.tensor(b).double()).item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("num_classes", [BLOCK - 1, BLOCK, 2 * BLOCK + 5])
def test_many_classes_are_compared_in_blocks(num_classes: int) -> None:
    a, b = logits(2, 3, num_classes), logits(2, 3, num_classes, seed=1)
    wanted = [[kendalltau(x, y).statistic for x, y in zip(rows, others)] for rows, others in zip(a.numpy(), b.numpy())]
    torch.testing.assert_close(kendall(a, b), torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_two_classes_are_ordered_alike_or_not() -> None:
    a = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    b = torch.tensor([[5.0, 6.0], [1.0, 0.0], [0.0, 1.0]])
    assert kendall(a, b).tolist() == [1, -1, 0]


def test_half_precision_is_ranked_in_float32() -> None:
    a, b = logits(4, 50).bfloat16(), logits(4, 50, seed=1).bfloat16()
    assert kendall(a, b).dtype == torch.float32
    torch.testing.assert_close(kendall(a, b), kendall(a.float(), b.float()), rtol=0, atol=0)


@pytest.mark.parametrize("threshold", [-0.3, 0.0, 0.4])
def test_a_view_counts_where_its_ranks_agree_enough(threshold: float) -> None:
    student, teacher = logits(3, 40, 5), logits(3, 40, 5, seed=1)
    found = RankFilter(threshold)(evidence(student, teacher))
    assert found.dtype == torch.float32
    wanted = [
        [bool(kendalltau(s, t).statistic > threshold) for s, t in zip(*rows)] for rows in zip(student.numpy(), teacher.numpy())
    ]
    assert found.bool().tolist() == wanted
    assert 0 < found.mean() < 1


def test_positions_of_an_example_have_one_correlation_their_mean() -> None:
    student, teacher = logits(2, 9, 4, 5), logits(2, 9, 4, 5, seed=1)
    found = RankFilter()(evidence(student, teacher))
    assert torch.equal(found.bool(), kendall(student, teacher).mean(-1) > 0)


@pytest.mark.parametrize("threshold", [-1.5, 1.0, math.nan])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="threshold must be at least -1 and below 1, got"):
        WEIGHTINGS.build({"type": "rank_filter", "threshold": threshold})


def test_the_filter_leaves_out_the_examples_whose_teacher_saw_something_else() -> None:
    """Half of the teacher's answers are swapped among the examples; the student knows a little of the truth."""
    truth, swapped = logits(300, 6, scale=3.0), torch.arange(300) % 2 == 0
    teacher = torch.where(swapped[:, None], truth.roll(7, 0), truth)
    student = truth + logits(300, 6, seed=1, scale=2.0)
    kept = RankFilter(0.3)(evidence(student[None], teacher[None]))[0].bool()
    assert kept[~swapped].double().mean() > 0.8
    assert kept[swapped].double().mean() < 0.3


# The wrong classes


cases = st.tuples(st.integers(0, 1000), st.integers(1, 4), st.integers(3, 6), st.floats(0.5, 6))


@settings(max_examples=25)
@given(cases)
def test_non_target_kl_is_the_divergence_of_the_softmaxes_without_the_right_class(case: tuple) -> None:
    seed, batch, num_classes, temperature = case
    student, teacher = logits(batch, num_classes, seed=seed), logits(batch, num_classes, seed=seed + 1)
    targets = torch.randint(num_classes, (batch,), generator=torch.Generator().manual_seed(seed))
    wrong = ~F.one_hot(targets, num_classes).bool()
    p, q = (z[wrong].view(batch, -1).div(temperature).softmax(1) for z in (teacher, student))
    wanted = temperature**2 * F.kl_div(q.log(), p, reduction="none").sum(1)
    torch.testing.assert_close(value(NonTargetKL(temperature), student, teacher, targets), wanted, rtol=1e-9, atol=1e-10)


def test_how_sure_a_student_is_of_the_right_class_is_left_to_it() -> None:
    student, teacher, targets = logits(3, 4), logits(3, 4, seed=1), torch.tensor([2, 0, 3])
    surer = student + 5 * F.one_hot(targets, 4)
    loss = NonTargetKL()
    torch.testing.assert_close(value(loss, surer, teacher, targets), value(loss, student, teacher, targets))


@settings(max_examples=25)
@given(cases)
def test_the_labels_that_an_example_has_are_left_out_of_the_bernoulli_form(case: tuple) -> None:
    seed, batch, num_classes, temperature = case
    student, teacher = logits(batch, num_classes, seed=seed), logits(batch, num_classes, seed=seed + 1)
    targets = torch.randint(2, (batch, num_classes), generator=torch.Generator().manual_seed(seed)).double()
    p, q = (Bernoulli(logits=z / temperature) for z in (teacher, student))
    wanted = temperature**2 * (kl_divergence(p, q) * (1 - targets)).sum(1)
    torch.testing.assert_close(value(BernoulliNonTargetKL(temperature), student, teacher, targets), wanted, rtol=1e-8, atol=1e-9)


def test_labels_that_nobody_knows_are_the_teacher_s() -> None:
    student, teacher = logits(3, 4), logits(3, 4, seed=1)
    likely = (teacher > 0).double()
    unknown = likely.clone()
    unknown[1] = math.nan
    loss = BernoulliNonTargetKL()
    wanted = value(loss, student, teacher, likely)
    assert torch.equal(value(loss, student, teacher), wanted)
    assert torch.equal(value(loss, student, teacher, unknown), wanted)
    single = NonTargetKL()
    assert torch.equal(value(single, student, teacher), value(single, student, teacher, teacher.argmax(1)))


@pytest.mark.parametrize("name", ["non_target_kl", "bernoulli_non_target_kl"])
def test_the_gradient_is_that_of_finite_differences_and_flows_into_the_student_alone(name: str) -> None:
    targets = torch.tensor([2, 0, 1])
    targets = targets if name == "non_target_kl" else F.one_hot(targets, 4).double()
    loss = DISTILLATION_LOSSES.build({"type": name, "temperature": 2.0})
    student, teacher = (logits(3, 4, seed=s).requires_grad_() for s in (0, 1))
    assert torch.autograd.gradcheck(lambda z: value(loss, z, teacher.detach(), targets), student)
    value(loss, student, teacher, targets).sum().backward()
    assert teacher.grad is None
    assert value(loss, logits(3, 4).bfloat16(), logits(3, 4, seed=1).bfloat16(), targets).dtype == torch.float32


@pytest.mark.parametrize("name", ["non_target_kl", "bernoulli_non_target_kl"])
def test_following_the_gradient_teaches_the_wrong_classes_and_not_the_right_one(name: str) -> None:
    single = name == "non_target_kl"
    classes = torch.tensor([2, 0, 1, 3, 4, 2])
    targets = classes if single else F.one_hot(classes, 5).double()
    right = F.one_hot(classes, 5).bool()
    loss, teacher = DISTILLATION_LOSSES.build(name), logits(6, 5, seed=1)
    student = logits(6, 5, seed=2).requires_grad_()
    before = student.detach().clone()
    optimizer = torch.optim.Adam([student], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        value(loss, student, teacher, targets).mean().backward()
        optimizer.step()
    read = (lambda z: z[~right].view(6, 4).softmax(1)) if single else (lambda z: z[~right].sigmoid())
    off = [(read(z) - read(teacher)).abs().mean() for z in (before, student.detach())]
    assert off[1] < 0.1 * off[0]
    torch.testing.assert_close(student.detach()[right], before[right], rtol=0, atol=1e-6)  # its gradient is 0 but for rounding


@pytest.mark.parametrize(("num_classes", "said"), [(2, 1), (3, 0)])
def test_two_classes_have_no_divergence_among_the_wrong_ones(num_classes: int, said: int) -> None:
    found = NonTargetKL.check(DatasetInfo({"text": "tokens"}, num_classes, "single_label"))
    assert len(found) == said
    assert all("needs three classes or more, got 2" in text for text in found)


@pytest.mark.parametrize("loss", [NonTargetKL, BernoulliNonTargetKL])
def test_a_temperature_that_is_not_positive_is_refused(loss: type) -> None:
    with pytest.raises(ValueError, match=r"temperature must be above 0, got 0\.0"):
        loss(0.0)


# Both together


def test_the_loss_of_a_crossmodal_pair_is_that_of_the_examples_that_pass_the_filter() -> None:
    batch, masker = made_batch(12), DropMasker()
    student, taught = tiny_model(2), tiny_model(1, 16)
    with torch.no_grad():
        for matrix in (p for m in (student, taught) for p in m.parameters() if p.ndim >= 2):
            matrix.mul_(30)  # so that the two sometimes disagree
    teacher = LiveTeacher(taught, masker)
    built = DistillationObjective(
        student, teacher, masker, [CROSSMODAL], distill_weight=0.7, distill_loss=NonTargetKL(), weighting=RankFilter(0.5)
    )
    output = built(batch)
    seen, told = (m(masker.view(batch, v).inputs).logits for m, v in ((student, "image"), (taught, "text")))
    passed = torch.tensor([bool(kendalltau(a, b).statistic > 0.5) for a, b in zip(seen.detach().numpy(), told.detach().numpy())])
    assert 0 < passed.sum() < len(batch)
    wanted = (value(NonTargetKL(), seen, told, batch.targets) * passed).sum() / len(batch)
    task = F.cross_entropy(student(batch.inputs).logits, batch.targets)
    torch.testing.assert_close(output.loss, 0.3 * task + 0.7 * wanted, rtol=1e-9, atol=1e-10)
    assert output.terms["weight/text>image"].item() == pytest.approx(passed.double().mean().item())


CHECKED = [
    ("non_target_kl", r"objective\.distill_loss: needs three classes or more, got 2"),
    ("bernoulli_non_target_kl", r"objective\.distill_loss: bernoulli_non_target_kl is for multi_label targets"),
]


@pytest.mark.parametrize(("loss", "said"), CHECKED)
def test_a_loss_that_does_not_fit_is_told_before_anything_is_loaded(
    loss: str, said: str, tiny_config, tiny_teacher, tmp_path
) -> None:
    words = [f"objective={{type: distillation, views: [full], distill_loss: {loss}}}", f"teacher.checkpoint={tiny_teacher}"]
    with pytest.raises(ConfigError, match=said):
        run(tiny_config, [*words, "run_type=check", f"env.save_dir={tmp_path / 'run'}"])


def test_the_filter_is_one_line_of_a_configuration(tiny_config, tiny_teacher, tmp_path) -> None:
    words = [
        "objective={type: distillation, views: [{teacher: text, student: image}], weighting: {type: rank_filter, threshold: 0.1}}"
    ]
    assert run(tiny_config, [*words, f"teacher.checkpoint={tiny_teacher}", f"env.save_dir={tmp_path / 'run'}"])
