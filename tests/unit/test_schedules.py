"""Numbers that change over a run: their formula, and temperature and lambda that follow it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from msd_framework.errors import ConfigError
from msd_framework.losses.logits import BernoulliKL, SoftenedKL
from msd_framework.maskers.drop import DropMasker
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.registry import DISTILLATION_LOSSES
from msd_framework.schedules import Progress, Schedule, Scheduled, UpdateHook
from msd_framework.structures import ModelOutput
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import made_batch
from tests.runs import tiny_model, tiny_runner

shares = st.floats(0, 1)
ramps = st.builds(
    Schedule,
    start=st.floats(-5, 5),
    end=st.floats(-5, 5),
    begin=st.floats(0, 0.9),
    over=st.floats(0.05, 1),
    shape=st.sampled_from(["linear", "cosine"]),
)


@given(ramps, shares)
def test_a_schedule_stays_between_its_ends(schedule: Schedule, share: float) -> None:
    low, high = sorted((schedule.start, schedule.end))
    assert low - 1e-9 <= schedule.at(share) <= high + 1e-9


@given(ramps)
def test_a_schedule_is_at_its_start_until_it_begins_and_at_its_end_once_it_is_over(schedule: Schedule) -> None:
    assert schedule.at(0.0) == schedule.at(schedule.begin) == schedule.start
    assert schedule.at(schedule.begin + schedule.over + 1e-9) == pytest.approx(schedule.end, abs=1e-7)


@given(ramps, shares, shares)
def test_a_schedule_goes_one_way(schedule: Schedule, one: float, other: float) -> None:
    before, after = schedule.at(min(one, other)), schedule.at(max(one, other))
    assert (after - before) * (schedule.end - schedule.start) >= -1e-12


@pytest.mark.parametrize(("shape", "quarter"), [("linear", 0.25), ("cosine", (1 - math.sqrt(0.5)) / 2)])
def test_a_quarter_of_the_way(shape, quarter: float) -> None:
    assert Schedule(0, 1, shape=shape).at(0.25) == pytest.approx(quarter, abs=1e-12)
    assert Schedule(0, 1, begin=0.5, over=0.4, shape=shape).at(0.6) == pytest.approx(quarter, abs=1e-12)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"start": 4, "ned": 1},
            r"temperature: has no option 'ned'\. Did you mean 'end'\? It takes: start, end, begin, over, shape\.",
        ),
        ({"start": 4}, r"temperature: needs a start and an end, got \{'start': 4\}\."),
        ({"start": 4, "end": "low"}, r"temperature: end must be a number, got 'low'\."),
        ({"start": 4, "end": 1, "shape": 3}, r"temperature: shape must be a name, got 3\."),
        (
            {"start": 4, "end": 1, "shape": "cosin"},
            r"temperature: shape must be one of linear, cosine, got 'cosin'\. Did you mean 'cos",
        ),
        ({"start": 4, "end": 1, "begin": 1}, r"temperature: begin must be at least 0 and below 1, got 1\."),
        ({"start": 4, "end": 1, "over": 0}, r"temperature: over must be above 0 and at most 1, got 0\."),
        ({"start": 4, "end": 0}, r"temperature must be above 0, got 0\."),
        ({"start": -4, "end": 1}, r"temperature must be above 0, got -4\."),
        ("hot", r"temperature: wanted float \| dict.*got 'hot'"),
    ],
)
def test_a_schedule_that_is_wrong_is_told(spec, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DISTILLATION_LOSSES.build({"type": "kl", "temperature": spec})


def test_a_dial_says_what_it_is() -> None:
    assert repr(SoftenedKL(2)) == "SoftenedKL(\n  (temperature): Scheduled(2.0)\n)"
    assert "Schedule(start=4.0, end=1.0" in repr(Scheduled("temperature", {"start": 4.0, "end": 1.0}))


@pytest.mark.parametrize("loss", [SoftenedKL, BernoulliKL])
@settings(max_examples=20)
@given(update=st.integers(0, 100))
def test_a_temperature_follows_the_run(loss, update: int) -> None:
    scheduled = loss({"start": 6.0, "end": 1.0, "over": 0.5})
    for module in scheduled.modules():
        if isinstance(module, UpdateHook):
            module.begin_update(Progress(update, 100))
    student, teacher = ModelOutput(torch.randn(3, 4).double()), ModelOutput(torch.randn(3, 4).double())
    now = 6.0 - 5.0 * min(1.0, update / 50)
    torch.testing.assert_close(scheduled(student, teacher), loss(now)(student, teacher))


def objective(**options) -> DistillationObjective:
    masker = DropMasker()
    return DistillationObjective(tiny_model(2), LiveTeacher(tiny_model(1, 16), masker), masker, ["full", "text"], **options)


def test_lambda_and_temperature_follow_the_run_by_one_call() -> None:
    schedule = {"start": 1.0, "end": 0.2, "shape": "cosine"}
    scheduled = objective(distill_weight=schedule, distill_loss=SoftenedKL({"start": 4.0, "end": 2.0}))
    batch = made_batch(5)
    for update, lam, temperature in [(0, 1.0, 4.0), (6, 0.6, 3.0), (12, 0.2, 2.0)]:
        scheduled.begin_update(Progress(update, 12))
        fixed = objective(distill_weight=lam, distill_loss=SoftenedKL(temperature))
        assert abs(scheduled(batch).loss.item() - fixed(batch).loss.item()) <= 1e-12  # float64; cos rounds


@pytest.mark.parametrize("schedule", [{"start": 0.5, "end": 1.5}, {"start": -0.5, "end": 1.0}])
def test_a_lambda_that_leaves_its_range_is_refused(schedule) -> None:
    with pytest.raises(ValueError, match="distill_weight must lie between 0 and 1, got"):
        objective(distill_weight=schedule)


class Listener(UpdateHook):
    """Writes down which hooks were called, and what it saw of a parameter and its gradient."""

    def __init__(self, parameter: nn.Parameter):
        super().__init__()
        self.heard: list[str] = []
        self.progress: list[Progress] = []
        self.values: list[Tensor] = []
        self.gradients: list[Tensor | None] = []
        self.parameter = [parameter]  # in a list: it is a part of the objective already

    def hear(self, name: str) -> None:
        (parameter,) = self.parameter
        self.heard.append(name)
        self.values.append(parameter.detach().clone())
        self.gradients.append(None if parameter.grad is None else parameter.grad.clone())

    def begin_update(self, progress) -> None:
        self.hear("begin_update")
        self.progress.append(progress)

    def after_backward(self, mean) -> None:
        self.hear("after_backward")
        assert mean(torch.tensor(7.0)) == 7

    def after_step(self, step) -> None:
        self.hear("after_step")
        assert step.mean(torch.tensor(7.0)) == 7

    def end_update(self, mean) -> None:
        self.hear("end_update")


def test_the_runner_calls_the_hooks_of_each_update_in_their_order() -> None:
    built = objective()
    built.listener = listener = Listener(next(built.model.parameters()))
    runner, _ = tiny_runner(objective=built, num_updates=3, accumulate=2)
    runner.fit()
    assert listener.heard == 3 * ["begin_update", "after_backward", "after_step", "end_update"]
    assert listener.progress == [Progress(update, 3) for update in range(3)]


def test_hooks_see_the_whole_gradient_before_and_after_the_step_that_it_makes() -> None:
    built = objective()
    built.listener = listener = Listener(built.model.head.weight)
    runner, _ = tiny_runner(objective=built, num_updates=1, accumulate=2)
    norm = 1e-3
    runner.plan = replace(runner.plan, clip_norm=norm)
    runner.fit()
    before, whole, stepped, done = listener.values
    none, gradient, clipped, dropped = listener.gradients
    assert none is None
    assert dropped is None
    assert torch.equal(before, whole)
    assert not torch.equal(whole, stepped)
    assert torch.equal(stepped, done)
    assert gradient.norm() > norm > clipped.norm()
    torch.testing.assert_close(clipped / clipped.norm(), gradient / gradient.norm())
