"""Losses: against torch's own, against torch.distributions in float64, and against a distillation loss written by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, kl_divergence

from msd_framework.losses import default_distillation_loss, default_task_loss
from msd_framework.losses.base import DistillationLoss, TaskLoss
from msd_framework.losses.logits import BernoulliKL, JensenShannon, LogitMSE, SoftenedKL
from msd_framework.losses.task import BinaryCrossEntropy, CrossEntropy, SoftCrossEntropy
from msd_framework.registry import DISTILLATION_LOSSES, TASK_LOSSES
from msd_framework.structures import ModelOutput

DISTILLATIONS = ["kl", "bernoulli_kl", "mse", "js"]

logits_pairs = st.tuples(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 6), st.floats(0.1, 20))


def output(*shape: int, seed: int = 0, scale: float = 3.0, dtype: torch.dtype = torch.float64) -> ModelOutput:
    return ModelOutput(scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype))


def pair(seed: int, batch: int, classes: int, scale: float) -> tuple[ModelOutput, ModelOutput]:
    return output(batch, classes, seed=seed, scale=scale), output(batch, classes, seed=seed + 1, scale=scale)


def exactly(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Two float64 computations of the same formula: only rounding may differ."""
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


# Task losses


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_torch(label_smoothing: float) -> None:
    z, y = output(5, 4), torch.tensor([0, 3, 1, 2, 2])
    wanted = F.cross_entropy(z.logits, y, reduction="none", label_smoothing=label_smoothing)
    exactly(CrossEntropy(label_smoothing)(z, y), wanted)


def test_smoothed_cross_entropy_is_the_cross_entropy_with_smoothed_targets() -> None:
    z, y = output(3, 4), torch.tensor([0, 3, 1])
    smoothed = 0.8 * F.one_hot(y, 4).double() + 0.2 / 4
    exactly(CrossEntropy(0.2)(z, y), -(smoothed * z.logits.log_softmax(-1)).sum(-1))


def test_an_ignored_target_has_no_loss_and_no_gradient() -> None:
    z = torch.randn(2, 3, requires_grad=True)
    loss = CrossEntropy()(ModelOutput(z), torch.tensor([-100, 1]))
    loss.sum().backward()
    assert loss[0] == 0
    assert z.grad is not None
    assert z.grad[0].eq(0).all()
    assert z.grad[1].ne(0).all()


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0, math.nan])
def test_a_label_smoothing_out_of_range_is_refused(label_smoothing: float) -> None:
    with pytest.raises(ValueError, match="label_smoothing must be 0 or more and below 1"):
        CrossEntropy(label_smoothing)


@pytest.mark.parametrize("target_type", [torch.float32, torch.int64])
def test_binary_cross_entropy_is_the_log_probability_of_independent_labels(target_type: torch.dtype) -> None:
    z, y = output(4, 5), torch.randint(2, (4, 5)).to(target_type)
    wanted = -Bernoulli(logits=z.logits).log_prob(y.double())
    exactly(BinaryCrossEntropy()(z, y), wanted.sum(-1))
    exactly(BinaryCrossEntropy("mean")(z, y), wanted.mean(-1))


def test_binary_cross_entropy_of_a_batch_is_torch_mean_times_the_classes() -> None:
    z, y = output(4, 5), torch.rand(4, 5, dtype=torch.float64)
    exactly(BinaryCrossEntropy()(z, y).mean(), 5 * F.binary_cross_entropy_with_logits(z.logits, y))


def test_soft_cross_entropy_is_that_of_torch_for_targets_that_are_probabilities() -> None:
    z, y = output(4, 5), torch.rand(4, 5, dtype=torch.float64).softmax(-1)
    exactly(SoftCrossEntropy()(z, y), F.cross_entropy(z.logits, y, reduction="none"))


def test_soft_cross_entropy_is_linear_in_the_scores() -> None:
    z, y = output(4, 5), torch.rand(4, 5, dtype=torch.float64)
    exactly(SoftCrossEntropy()(z, 3 * y), 3 * SoftCrossEntropy()(z, y))


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy", "soft_cross_entropy"])
def test_a_task_loss_of_a_row_for_each_position_of_a_text_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"takes logits \[N, C\], a row for each target, got \[2, 3, 4\]"):
        TASK_LOSSES.build(name)(output(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64))


# Distillation losses


@settings(max_examples=50)
@given(logits_pairs, st.floats(0.5, 8))
def test_kl_is_that_of_torch_distributions_times_the_squared_temperature(drawn: tuple, temperature: float) -> None:
    student, teacher = pair(*drawn)
    p, q = (Categorical(logits=o.logits / temperature) for o in (teacher, student))
    exactly(SoftenedKL(temperature)(student, teacher), temperature**2 * kl_divergence(p, q))


def test_kl_is_the_distillation_loss_written_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 0.0, -1.0]]).double(), torch.tensor([[0.0, 2.0, 0.0]]).double()
    soft = [[math.exp(z / 2) for z in row] for row in (teacher[0].tolist(), student[0].tolist())]
    p, q = ([e / sum(row) for e in row] for row in soft)
    wanted = 2**2 * sum(a * math.log(a / b) for a, b in zip(p, q))
    assert SoftenedKL(2.0)(ModelOutput(student), ModelOutput(teacher)).item() == pytest.approx(wanted, rel=1e-12)


def test_kl_batchmean_of_torch_is_the_mean_of_ours() -> None:
    student, teacher = pair(3, 4, 5, 2.0)
    wanted = F.kl_div(student.logits.log_softmax(-1), teacher.logits.softmax(-1), reduction="batchmean")
    exactly(SoftenedKL()(student, teacher).mean(), wanted)


@settings(max_examples=50)
@given(logits_pairs, st.floats(0.5, 8))
def test_bernoulli_kl_is_the_sum_over_labels_of_that_of_torch_distributions(drawn: tuple, temperature: float) -> None:
    student, teacher = pair(*drawn)
    # The oracle clamps its probabilities, so it is asked where they are not extreme.
    student, teacher = (ModelOutput(o.logits.clamp(-12, 12)) for o in (student, teacher))
    p, q = (Bernoulli(logits=o.logits / temperature) for o in (teacher, student))
    exactly(BernoulliKL(temperature)(student, teacher), temperature**2 * kl_divergence(p, q).sum(-1))


def test_one_label_bernoulli_kl_is_the_kl_of_two_classes() -> None:
    student, teacher = output(4, 1), output(4, 1, seed=1)
    two = [ModelOutput(torch.cat([torch.zeros_like(o.logits), o.logits], 1)) for o in (student, teacher)]
    exactly(BernoulliKL()(student, teacher), SoftenedKL()(*two))


def test_mse_is_the_mean_over_classes() -> None:
    student, teacher = pair(0, 4, 5, 2.0)
    exactly(LogitMSE()(student, teacher), F.mse_loss(student.logits, teacher.logits, reduction="none").mean(-1))


@settings(max_examples=50)
@given(logits_pairs)
def test_jensen_shannon_is_symmetric_bounded_and_that_of_torch_distributions(drawn: tuple) -> None:
    student, teacher = pair(*drawn)
    found = JensenShannon()(student, teacher)
    p, q = (Categorical(logits=o.logits) for o in (teacher, student))
    m = Categorical(probs=(p.probs + q.probs) / 2)
    # The oracle clamps probabilities at the float64 epsilon, which moves the divergence by less than 1e-13.
    exactly(found, (kl_divergence(p, m) + kl_divergence(q, m)) / 2 / math.log(2))
    exactly(found, JensenShannon()(teacher, student))
    assert ((found >= -1e-12) & (found <= 1 + 1e-12)).all()


@pytest.mark.parametrize("name", DISTILLATIONS)
@settings(max_examples=25)
@given(drawn=logits_pairs)
def test_a_distance_is_zero_at_the_teacher_and_not_negative_elsewhere(name: str, drawn: tuple) -> None:
    loss = DISTILLATION_LOSSES.build(name)
    student, teacher = pair(*drawn)
    exactly(loss(teacher, teacher), torch.zeros(len(teacher.logits), dtype=torch.float64))
    assert (loss(student, teacher) >= -1e-12).all()


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_a_distance_of_a_row_for_each_position_of_a_text_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"takes logits \[N, C\], a row for each target, got \[2, 3, 4\]"):
        DISTILLATION_LOSSES.build(name)(output(2, 3, 4), output(2, 3, 4, seed=1))


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_no_gradient_flows_into_the_teacher(name: str) -> None:
    student, teacher = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    DISTILLATION_LOSSES.build(name)(ModelOutput(student), ModelOutput(teacher)).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.ne(0).any()


@pytest.mark.parametrize("name", DISTILLATIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_distances_of_half_precision_logits_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    loss = DISTILLATION_LOSSES.build(name)
    student, teacher = output(4, 5, dtype=dtype), output(4, 5, seed=1, dtype=dtype)
    wanted = loss(ModelOutput(student.logits.float()), ModelOutput(teacher.logits.float()))
    found = loss(student, teacher)
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("cross_entropy", torch.tensor([0, 1, 4, 2])),
        ("binary_cross_entropy", torch.ones(4, 5).half()),
        ("soft_cross_entropy", torch.ones(4, 5).half()),
    ],
)
def test_task_losses_of_half_precision_logits_are_computed_in_float32(name: str, targets: torch.Tensor) -> None:
    loss, z = TASK_LOSSES.build(name), output(4, 5, dtype=torch.float16)
    assert loss(z, targets).dtype == torch.float32
    assert torch.equal(loss(z, targets), loss(ModelOutput(z.logits.float()), targets))


@pytest.mark.parametrize("loss", [SoftenedKL, BernoulliKL])
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(loss: type, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be above 0"):
        loss(temperature)


@pytest.mark.parametrize("name", ["kl", "bernoulli_kl"])
def test_the_squared_temperature_keeps_the_gradient_at_high_temperatures(name: str) -> None:
    """Hinton et al. (2015, section 2.1): for high T the gradient tends to a limit that does not depend on T."""

    def gradient(temperature: float) -> torch.Tensor:
        student = output(3, 4, scale=1.0).logits.requires_grad_()
        loss = DISTILLATION_LOSSES.build({"type": name, "temperature": temperature})
        return torch.autograd.grad(loss(ModelOutput(student), output(3, 4, seed=1, scale=1.0)).sum(), student)[0]

    torch.testing.assert_close(gradient(1000.0), gradient(2000.0), rtol=1e-2, atol=1e-4)  # the rest is of order 1/T


# Defaults


@pytest.mark.parametrize("task", ["single_label", "multi_label", "soft_target"])
def test_default_losses_are_for_their_task(task: str) -> None:
    task_loss, distillation_loss = default_task_loss(task), default_distillation_loss(task)
    assert isinstance(task_loss, TaskLoss)
    assert isinstance(distillation_loss, DistillationLoss)
    assert task in task_loss.tasks
    assert task in distillation_loss.tasks


def test_default_distillation_is_at_temperature_one() -> None:
    student, teacher = pair(0, 2, 3, 1.0)
    exactly(default_distillation_loss("single_label")(student, teacher), SoftenedKL(1.0)(student, teacher))
    exactly(default_distillation_loss("multi_label")(student, teacher), BernoulliKL(1.0)(student, teacher))
