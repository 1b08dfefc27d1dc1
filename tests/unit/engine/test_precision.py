"""Precisions: what they set, what they are measured to cost, and which one `auto` takes."""

from __future__ import annotations

import math
import random
from contextlib import nullcontext
from itertools import repeat
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from msd_framework.callbacks.base import Callback
from msd_framework.engine import precision as precision_module
from msd_framework.engine import runner as runner_module
from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import PredictedBatches
from msd_framework.engine.precision import (
    BF16,
    CANDIDATES,
    FP16,
    FP32,
    MEDIUM,
    PRECISIONS,
    Choice,
    Measured,
    Precision,
    choose,
    left_as_it_was,
    median_seconds,
    probe_objective,
    relative_errors,
)
from msd_framework.engine.resume import resume
from msd_framework.maskers.base import Masker
from msd_framework.maskers.drop import DropMasker
from msd_framework.maskers.resample import NoiseMasker
from msd_framework.objectives.base import Objective
from msd_framework.structures import Batch, StepOutput, tree_map
from msd_framework.testing import made_batch, run_processes
from tests.runs import tiny_model, tiny_objective, tiny_runner

CPU = torch.device("cpu")


def single(batch: Batch) -> Batch:
    """The batch in float32, which precisions are about."""
    return tree_map(lambda t: t.float() if t.is_floating_point() else t, batch)


def single_objective(dropout: float = 0.0, masker: Masker | None = None) -> Any:
    objective = tiny_objective(dropout)
    objective.model.float()
    objective.teacher.model.float()
    if masker is not None:
        objective.masker = objective.teacher.masker = masker
    return objective


def single_runner(precision: str, **options: Any) -> Any:
    runner, recorder = tiny_runner(objective=single_objective(options.pop("dropout", 0.3)), precision=precision, **options)
    runner.batches.data = single(runner.batches.data)
    return runner, recorder


# What a precision sets


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("before", ["highest", "medium"])
def test_torchs_global_setting_is_put_back_even_after_an_error(precision, before):
    def fail():
        with precision.active(CPU):
            assert torch.get_float32_matmul_precision() == precision.float32_products
            raise KeyError

    torch.set_float32_matmul_precision(before)
    try:
        with pytest.raises(KeyError):
            fail()
        assert torch.get_float32_matmul_precision() == before
        assert not torch.is_autocast_enabled("cpu")
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("precision", "dtype"), [(FP32, torch.float32), (MEDIUM, torch.float32), (BF16, torch.bfloat16), (FP16, torch.float16)]
)
def test_products_come_in_the_precisions_type(precision, dtype):
    with precision.active(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


class Watching(nn.Module):
    """Writes down what is set while it is gone through, forth and back."""

    def __init__(self, seen: list[tuple[str, str, bool]]):
        super().__init__()
        self.seen = seen
        self.weight = nn.Parameter(torch.ones(()))

    def note(self, where: str) -> None:
        self.seen.append((where, torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.note("forward")
        y = x * self.weight
        if y.requires_grad:
            y.register_hook(lambda g: self.note("backward"))
        return y


@pytest.mark.parametrize(("name", "setting", "cast"), [("medium", "medium", False), ("bf16", "highest", True)])
def test_an_update_is_computed_in_its_precision_and_nothing_else_is(name, setting, cast):
    runner, _ = single_runner(name, num_updates=1)
    seen: list[tuple[str, str, bool]] = []
    runner.objective.model.head = nn.Sequential(runner.objective.model.head, Watching(seen))
    runner.fit()
    assert set(seen) == {("forward", setting, cast), ("backward", setting, False)}
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=lambda p: p.name)
def test_predictions_are_computed_in_the_runs_precision_and_given_in_float32(precision):
    seen = []

    def ask(batch, views):
        seen.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
        return (torch.rand(len(batch), 4) @ torch.rand(4, 3))[None]

    found = PredictedBatches(ask, [made_batch(3)], ["full"], World(), precision).together()
    assert seen == [(precision.float32_products, precision.cast is not None)]
    assert found.logits["full"].dtype == torch.float32
    if precision.cast:
        assert torch.equal(found.logits["full"], found.logits["full"].to(precision.cast).float())


# What is measured


def steps_that_return(results):
    return lambda precision: results[precision.name]


def test_errors_are_norms_of_differences_over_norms():
    rng = np.random.default_rng(0)
    exact, off = ([rng.normal(size=shape) for shape in ((3, 4), (5,))] for _ in range(2))
    tensors = {"fp32": exact, "bf16": off}
    step = steps_that_return({k: (torch.tensor(2.0), [*map(torch.tensor, v), None]) for k, v in tensors.items()})
    flat = {k: np.concatenate([x.ravel() for x in v]) for k, v in tensors.items()}
    expected = np.linalg.norm(flat["bf16"] - flat["fp32"]) / np.linalg.norm(flat["fp32"])
    assert relative_errors([FP32, BF16], step, CPU) == [(0.0, 0.0), (0.0, pytest.approx(expected, rel=1e-12))]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_infinitely_far_off(value):
    results = {"fp32": (torch.tensor(1.0), [torch.ones(2)]), "bf16": (torch.tensor(value), [torch.tensor([1.0, value])])}
    assert relative_errors([FP32, BF16], steps_that_return(results), CPU)[1] == (math.inf, math.inf)


def test_gradients_of_nothing_are_not_far_off():
    zeros = torch.tensor(0.0), [torch.zeros(2)]
    assert relative_errors([FP32, BF16], lambda precision: zeros, CPU)[1] == (0.0, 0.0)


def test_every_candidate_is_compared_under_the_same_noise():
    def noisy(precision):
        draws = torch.tensor([float(torch.rand(())), random.random(), np.random.rand()])
        return draws.sum(), [draws]

    assert relative_errors(CANDIDATES, noisy, CPU) == [(0.0, 0.0)] * 3


def test_rounding_to_bf16_is_told_from_fp32():
    objective = single_objective()
    fp32, _, bf16 = probe_objective(objective, [single(made_batch(8))])
    assert fp32.gradient_error == 0.0
    assert 1e-4 < bf16.gradient_error < 5e-2  # eight bits of significand: 2^-9 relative in each product


def test_candidates_are_timed_in_turn_and_the_median_is_taken(monkeypatch):
    clock, order = [0.0], []
    durations = {"fp32": iter([9.0, 2.0, 3.0]), "bf16": iter([1.0, 7.0, 2.0])}

    def step(precision):
        order.append(precision.name)
        clock[0] += next(durations[precision.name])
        return torch.zeros(()), []

    monkeypatch.setattr(precision_module.time, "process_time", lambda: clock[0])
    assert median_seconds([FP32, BF16], repeat(step), CPU, rounds=3, at_least=0.0) == [3.0, 2.0]
    assert order == ["fp32", "bf16"] * 3


def test_short_steps_are_timed_more_often(monkeypatch):
    clock, count = [0.0], [0]

    def step(precision):
        clock[0] += 0.01
        count[0] += 1
        return torch.zeros(()), []

    monkeypatch.setattr(precision_module.time, "monotonic", lambda: clock[0])
    median_seconds([FP32], repeat(step), CPU, rounds=3, at_least=0.5)
    assert count[0] == pytest.approx(50, abs=1)


def test_each_round_is_timed_on_another_batch_and_errors_are_those_of_the_first():
    objective, seen = single_objective(), []
    objective.register_forward_pre_hook(lambda module, given: seen.append((given[0].ids[0], module.training)))
    probe_objective(objective, [single(made_batch(8, seed=s)) for s in range(4)], candidates=[FP32, BF16])
    assert seen[:8] == [("0-0", False)] * 2 + [(f"{s}-0", True) for s in (1, 2, 3) for _ in range(2)]
    assert set(seen[8:]) <= {("0-0", True)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_timed_by_its_own_clock():
    device = torch.device("cuda", torch.cuda.current_device())
    objective, batch = single_objective().to(device), single(made_batch(8)).to(device)
    objective.teacher.model.to(device)
    measured = probe_objective(objective, [batch], device)
    assert all(m.seconds > 0 for m in measured)
    assert measured[2].gradient_error < 5e-2


# What is left behind


def streams() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]


@pytest.mark.parametrize("masker", [DropMasker(), NoiseMasker(vocab_size=20)], ids=["drop", "noise"])
@pytest.mark.parametrize("training", [True, False])
def test_a_probe_leaves_no_trace(masker, training):
    objective = single_objective(0.3, masker).train(training)
    objective.model.head.eval()
    objective.model.head.register_parameter("frozen", nn.Parameter(torch.ones(1), requires_grad=False))
    torch.manual_seed(7)
    tensors = {k: v.clone() for k, v in objective.state_dict().items()}
    modes, numbers = [m.training for m in objective.modules()], streams()
    attributes = [sorted(vars(m)) for m in objective.modules()]
    probe_objective(objective, [single(made_batch(8))])
    assert all(torch.equal(v, tensors[k]) for k, v in objective.state_dict().items())
    assert [m.training for m in objective.modules()] == modes
    assert [sorted(vars(m)) for m in objective.modules()] == attributes
    assert all(p.grad is None for p in objective.parameters())
    assert streams() == numbers
    assert not any(m.training for m in objective.teacher.model.modules())


def test_gradients_that_wait_to_be_applied_are_left_alone():
    objective, batch = single_objective(), single(made_batch(8))
    objective(batch).loss.backward()
    before = [None if p.grad is None else p.grad.clone() for p in objective.parameters()]
    probe_objective(objective, [batch])
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(before, (p.grad for p in objective.parameters()), strict=True))


class Normalised(Objective):
    """Counts its batches in buffers: one that is changed in place and one that is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(6), nn.Linear(6, 1)
        self.model = nn.Sequential(self.norm, self.linear)  # type: ignore[assignment]
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch: Batch) -> StepOutput:
        self.seen = self.seen + 1
        loss = self.linear(self.norm(batch.inputs["image"].values[:, 0])).square().mean()
        return StepOutput(loss, {}, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("fails", [True, False])
def test_statistics_of_batches_are_put_back_even_after_an_error(fails):
    objective = Normalised()
    seen, before = objective.seen, {k: v.clone() for k, v in objective.state_dict().items()}

    def look():
        with left_as_it_was(objective, CPU):
            objective.train()(single(made_batch(8)))
            assert not all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())
            if fails:
                raise KeyError

    with pytest.raises(KeyError) if fails else nullcontext():
        look()
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())
    assert objective.seen is seen


# What is chosen


def measured(name: str, seconds: float, error: float) -> Measured:
    return Measured(name, seconds, 0.0, error)


@pytest.mark.parametrize(
    ("medium", "bf16", "expected"),
    [
        ((0.5, 1e-7), (0.6, 1e-2), "medium"),
        ((0.6, 1e-7), (0.5, 1e-2), "bf16"),
        ((0.96, 1e-7), (0.97, 1e-2), "fp32"),  # less than 5 % faster
        ((0.95, 1e-7), (1.2, 1e-2), "medium"),
        ((0.5, 2e-4), (0.6, 1e-2), "bf16"),  # medium that is TF32 or bf16 in truth
        ((0.5, 1e-7), (0.4, 0.06), "medium"),
        ((0.5, math.inf), (0.4, math.inf), "fp32"),
        ((2.0, 1e-7), (3.0, 1e-3), "fp32"),
    ],
)
def test_the_fastest_within_its_bound_is_taken_if_it_is_worth_it(medium, bf16, expected):
    choice = choose([measured("fp32", 1.0, 0.0), measured("medium", *medium), measured("bf16", *bf16)])
    assert choice.name == expected
    assert choice.line.startswith(f"precision: {expected}")
    assert choice.precision is PRECISIONS[expected]


def test_the_line_tells_what_was_not_finite():
    line = choose([measured("fp32", 1.0, 0.0), measured("bf16", 0.5, math.inf)]).line
    assert line == "precision: fp32; bf16 2.00 x, not finite (too far off)"


def test_fp16_is_never_chosen():
    assert FP16 not in CANDIDATES
    assert choose([measured("fp32", 1.0, 0.0), measured("fp16", 0.1, 1e-4)]).name == "fp32"


# Runs


def weights(runner: Any) -> torch.Tensor:
    return nn.utils.parameters_to_vector(runner.objective.parameters()).detach()


def made_to_choose(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """Lets `auto` measure, and then take what it is told to; returns what was measured each time."""
    seen: list[Any] = []

    def told(found):
        seen.append(found)
        return Choice(name, f"precision: {name}, as told")

    monkeypatch.setattr(runner_module, "choose", told)
    return seen


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", ["fp32", "medium", "bf16"])
def test_a_run_that_chooses_a_precision_is_the_run_that_is_given_it(monkeypatch, name, accumulate):
    given, given_log = single_runner(name, accumulate=accumulate)
    given.fit()
    seen = made_to_choose(monkeypatch, name)
    chosen, chosen_log = single_runner("auto", accumulate=accumulate)
    chosen.fit()
    assert [m.name for m in seen[0]] == ["fp32", "medium", "bf16"]
    assert torch.equal(weights(given), weights(chosen))
    assert given_log.losses == chosen_log.losses
    assert chosen.choice.name == name


class StopError(BaseException):  # not a mistake of the callback, which would be told
    pass


class StopAt(Callback):
    def __init__(self, update: int):
        self.at = update

    def on_checkpoint(self, runner: Any) -> None:
        if runner.update == self.at:
            raise StopError


def test_a_resumed_run_takes_the_same_precision_without_measuring_again(monkeypatch, tmp_path):
    made_to_choose(monkeypatch, "bf16")
    whole, _ = single_runner("auto", folder=tmp_path / "whole", save_at=frozenset({5}))
    whole.fit()
    cut, _ = single_runner("auto", folder=tmp_path / "cut", save_at=frozenset({5}))
    cut.callbacks = [*cut.callbacks, StopAt(5)]
    with pytest.raises(StopError):
        cut.fit()
    seen = made_to_choose(monkeypatch, "fp32")
    resumed, _ = single_runner("auto", folder=tmp_path / "cut", save_at=frozenset({5}))
    assert resume(resumed)
    assert resumed.choose_precision() == Choice("bf16", "precision: bf16, as told")
    resumed.fit()
    assert seen == []
    assert torch.equal(weights(whole), weights(resumed))


def test_what_a_configuration_names_is_not_measured(monkeypatch):
    monkeypatch.setattr(runner_module, "probe_objective", None)
    runner, _ = single_runner("bf16", num_updates=1)
    runner.fit()
    assert runner.choice == Choice("bf16", "precision: bf16, as the configuration says")


def _choose_by_rank(folder: str) -> None:
    with World.join("cpu") as world:
        runner_module.choose = lambda found: Choice(["bf16", "fp32"][world.rank], f"by {world.rank}")
        runner, _ = tiny_runner(world, objective=single_objective(), precision="auto")
        runner.batches.data = single(runner.batches.data)
        assert runner.choose_precision() == Choice("bf16", "by 0")
        runner.fit()


def test_all_processes_take_the_first_ones_choice(tmp_path):
    run_processes(_choose_by_rank, 2, str(tmp_path))


def test_a_precision_is_frozen():
    with pytest.raises(AttributeError):
        Precision("mine", 0.1).name = "other"  # type: ignore[misc]


def test_a_made_model_predicts_alike_in_all_precisions():
    model, data = tiny_model(0).float().eval(), single(made_batch(6))

    def ask(batch, views):
        return model.forward_views([batch.inputs for _ in views]).logits

    exact, medium, bf16 = (PredictedBatches(ask, [data], ["full"], World(), p).together().logits["full"] for p in CANDIDATES)
    torch.testing.assert_close(medium, exact, atol=2e-2, rtol=0)
    torch.testing.assert_close(bf16, exact, atol=2e-2, rtol=0)  # eight bits of logits below 1
    assert not torch.equal(bf16, exact)
