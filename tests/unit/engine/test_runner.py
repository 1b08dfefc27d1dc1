"""The training loop: what an update is, and what survives an interruption."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from msd_framework.callbacks.base import Callback
from msd_framework.callbacks.early_stopping import EarlyStopping
from msd_framework.engine.distributed import World
from msd_framework.engine.log_window import LogWindow
from msd_framework.engine.resume import resume
from msd_framework.errors import CheckpointError, TrainingError
from msd_framework.structures import StepOutput
from msd_framework.testing import made_batch, take
from tests.runs import NUM_UPDATES, tiny_model, tiny_objective, tiny_runner


def weights_of(runner):
    return nn.utils.parameters_to_vector(runner.objective.model.parameters()).detach()


def test_an_update_is_adamw_on_the_clipped_gradient_of_the_batch():
    runner, recorder = tiny_runner(num_updates=3)
    objective = tiny_objective()
    decayed = [p for p in objective.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in objective.parameters() if p.requires_grad and p.ndim < 2]
    oracle = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(oracle, lambda u: 0.5 * (1 + math.cos(math.pi * u / 3)))
    data, plan, losses = made_batch(20), runner.batches.plan, []
    for update in range(3):
        loss = objective(take(data, list(plan.batch(update)))).loss
        losses.append(loss.item())
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        oracle.step()
        oracle.zero_grad()
        schedule.step()
    runner.fit()
    assert max(abs(a - b) for a, b in zip(losses, recorder.losses, strict=True)) <= 1e-10
    torch.testing.assert_close(
        weights_of(runner), nn.utils.parameters_to_vector(objective.model.parameters()).detach(), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_added_up_are_the_whole_batch(accumulate):
    whole, parts = tiny_runner()[0], tiny_runner(accumulate=accumulate)[0]
    whole.fit()
    parts.fit()
    torch.testing.assert_close(weights_of(parts), weights_of(whole), atol=1e-8, rtol=0)  # order of float64 sums over 12 Adam steps


class InterruptionError(BaseException):
    pass


class InterruptAt(Callback):
    def __init__(self, update):
        self.interrupt_at = update

    def on_checkpoint(self, runner):
        if runner.update == self.interrupt_at:
            raise InterruptionError


@pytest.mark.parametrize("stop_at", [5, 7, 11])
def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, stop_at):
    saves = {"save_at": frozenset({5, 7, 11}), "dropout": 0.3}
    whole, whole_log = tiny_runner(folder=tmp_path / "whole", **saves)
    whole.fit()
    first, _ = tiny_runner(folder=tmp_path / "cut", **saves)
    first.callbacks = [*first.callbacks, InterruptAt(stop_at)]
    with pytest.raises(InterruptionError):
        first.fit()
    second, second_log = tiny_runner(folder=tmp_path / "cut", **saves)
    torch.rand(17)  # another state of the random numbers than the one saved
    assert resume(second)
    assert second.update == stop_at
    second.fit()
    assert torch.equal(weights_of(whole), weights_of(second))
    assert whole_log.losses[stop_at:] == second_log.losses
    ours, theirs = whole.optimizer.state_dict()["state"], second.optimizer.state_dict()["state"]
    assert all(torch.equal(ours[i][k], theirs[i][k]) for i in ours for k in ours[i])


def test_nothing_is_resumed_where_there_is_no_checkpoint(tmp_path):
    runner, _ = tiny_runner(folder=tmp_path)
    assert not resume(runner)
    assert runner.update == 0


def test_weights_of_other_shapes_are_refused_with_the_first_difference(tmp_path):
    runner, _ = tiny_runner(folder=tmp_path, save_at=frozenset({1}), num_updates=2)
    runner.fit()
    objective = tiny_objective()
    objective.model = tiny_model(2, hidden_size=4)
    other, _ = tiny_runner(folder=tmp_path, objective=objective)
    with pytest.raises(CheckpointError, match=r"weights of another model: .* is \(.*4.*\) here and \(.*8.*\) there"):
        resume(other)


@pytest.mark.parametrize("bad_update", [1, 4])
def test_a_loss_that_is_no_number_names_its_update_and_spoils_no_checkpoint(tmp_path, bad_update):
    runner, _ = tiny_runner(folder=tmp_path, save_at=frozenset(range(1, NUM_UPDATES)))

    class Spoil(Callback):
        def on_checkpoint(self, runner):
            if runner.update == bad_update - 1:
                next(iter(runner.objective.model.parameters())).data.fill_(float("nan"))

    if bad_update == 1:
        next(iter(runner.objective.model.parameters())).data.fill_(float("nan"))
    runner.callbacks = [*runner.callbacks, Spoil()]
    with pytest.raises(TrainingError, match=f"not finite since update {bad_update}\\."):
        runner.fit()
    last = runner.checkpoints.path("last")
    assert (last.name if last else "none") == {1: "none", 4: "update_00000003"}[bad_update]


def test_the_best_checkpoint_is_the_one_with_the_best_validation(tmp_path):
    scores = iter([0.1, 0.7, 0.3])
    runner, _ = tiny_runner(folder=tmp_path, validate_at=frozenset({4, 8, 12}), save_at=frozenset({12}), monitor="score")
    runner.validate = lambda: {"score": next(scores)}
    runner.fit()
    assert runner.checkpoints.path("best").name == "update_00000008"
    assert runner.checkpoints.path("last").name == "update_00000012"
    assert runner.best == 0.7


def test_a_validation_that_brings_nothing_better_writes_no_checkpoint_of_its_own(tmp_path):
    scores = iter([0.5, 0.4, 0.3])
    runner, _ = tiny_runner(folder=tmp_path, validate_at=frozenset({4, 8, 12}), monitor="score")
    runner.validate = lambda: {"score": next(scores)}
    runner.fit()
    assert [p.name for p in tmp_path.glob("update_*")] == ["update_00000004"]


def test_a_monitored_metric_that_is_undefined_ends_the_run_with_its_weights_saved(tmp_path):
    runner, _ = tiny_runner(folder=tmp_path, validate_at=frozenset({4}), monitor="score")
    runner.validate = lambda: {"score": float("nan")}
    with pytest.raises(TrainingError, match="score is undefined on the validation split"):
        runner.fit()
    assert runner.checkpoints.path("last").name == "update_00000004"


def test_a_metric_that_is_better_when_smaller_is_minimised(tmp_path):
    scores = iter([0.7, 0.1, 0.3])
    runner, _ = tiny_runner(folder=tmp_path, validate_at=frozenset({4, 8, 12}), monitor="score", larger_is_better=False)
    runner.validate = lambda: {"score": next(scores)}
    runner.fit()
    assert runner.checkpoints.path("best").name == "update_00000008"


def test_early_stopping_waits_its_patience_and_remembers_it_over_an_interruption(tmp_path):
    scores = iter([0.5, 0.4, 0.3, 0.9])
    plan = {"validate_at": frozenset({2, 4, 6, 8}), "save_at": frozenset({2, 4, 6, 8}), "monitor": "score"}
    runner, _ = tiny_runner(folder=tmp_path, **plan)
    runner.validate = lambda: {"score": next(scores)}
    stopping = EarlyStopping(patience=2)
    runner.callbacks = [*runner.callbacks, stopping]
    runner.fit()
    assert runner.update == 6
    assert "has not improved in 2 validations" in runner.stop_reason
    again, _ = tiny_runner(folder=tmp_path, **plan)
    again.callbacks = [*again.callbacks, EarlyStopping(patience=2)]
    assert resume(again)
    again.fit()
    assert again.update == 6  # what has stopped stays stopped


def test_a_patience_of_nothing_is_refused():
    with pytest.raises(ValueError, match="patience must be 1 or more, got 0"):
        EarlyStopping(patience=0)


def spoil_gradient(runner, value="nan", until=10**9):
    """From now on the gradient is not finite, up to an update."""

    def spoil(gradient):
        return gradient * float(value) if runner.update < until else gradient

    next(runner.objective.model.parameters()).register_hook(spoil)


def single_runner(**options):
    """A runner of float32 weights, as a gradient scaler wants them."""
    objective = tiny_objective()
    objective.model.float()
    objective.teacher.model.float()
    runner, recorder = tiny_runner(objective=objective, **options)
    runner.batches.data = made_batch(20)
    for x in runner.batches.data.inputs.values():
        if x.values.is_floating_point():
            x.values.data = x.values.data.float()
    return runner, recorder


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_fp16_does_not_end_as_if_it_had_trained_where_no_gradient_was_finite(value, tmp_path):
    runner, _ = single_runner(precision="fp16", folder=tmp_path, save_at=frozenset({6, 12}))
    spoil_gradient(runner, value)
    said = r"not finite in fp16 in any update from 1 to 12, so none .* last good state is in .*update_00000006\."
    with pytest.raises(TrainingError, match=said):
        runner.fit()


def test_fp16_stops_after_many_skipped_updates_in_a_row_also_over_an_interruption(tmp_path):
    plan = {"precision": "fp16", "num_updates": 40, "folder": tmp_path, "save_at": frozenset({10})}
    runner, _ = single_runner(**plan)
    spoil_gradient(runner, until=0)
    runner.callbacks = [InterruptAt(10)]
    with pytest.raises(InterruptionError):
        runner.fit()
    again, _ = single_runner(**plan)
    resume(again)
    spoil_gradient(again)
    with pytest.raises(TrainingError, match=r"in any update from 11 to 30, so none"):
        again.fit()


def test_updates_that_fp16_skips_while_it_finds_its_scale_are_counted_and_no_error():
    runner, _ = single_runner(precision="fp16")
    spoil_gradient(runner, until=3)
    runner.fit()
    assert (runner.update, runner.skipped) == (12, 3)


def test_the_term_that_is_not_finite_is_named_and_the_loss_it_is_part_of_is_not():
    runner, _ = tiny_runner()
    forward = runner.objective.forward

    def spoiled(batch):
        output = forward(batch)
        return replace(output, loss=output.loss * math.nan, terms={**output.terms, "kd/odd": output.loss.detach() * math.nan})

    runner.objective.forward = spoiled
    with pytest.raises(TrainingError, match=r"^the kd/odd is not finite since update 1\. Lower .* No checkpoint was written"):
        runner.fit()


def test_an_input_that_is_not_finite_is_named_with_its_example():
    runner, _ = tiny_runner()
    runner.batches.data.inputs["image"].values[7] = math.inf
    with pytest.raises(TrainingError, match=r"not finite since update 2\. The image of example \S*7 is not finite: mend its file"):
        runner.fit()


def test_a_teacher_that_answers_what_is_no_number_is_named():
    runner, _ = tiny_runner()
    next(runner.objective.teacher.model.parameters()).data.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"not finite since update 1\. It comes from the teacher: .* on the view 'full' is not"):
        runner.fit()


def test_a_window_gives_the_mean_of_each_term_also_of_those_that_come_and_go():
    window = LogWindow(torch.device("cpu"))
    for update, terms in enumerate([{"a": 1.0}, {"b": 4.0}, {"a": 3.0, "b": 2.0}], 1):
        made = {name: torch.tensor(value) for name, value in terms.items()}
        window.add(update, StepOutput(torch.tensor(float(update)), made, None))
    assert window.read(World()) == {"a": 4 / 3, "b": 2.0, "loss": 2.0}


def test_a_gradient_that_is_no_number_is_told_even_if_nothing_is_clipped():
    runner, _ = tiny_runner()
    runner.plan = replace(runner.plan, clip_norm=None)
    next(runner.objective.model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingError, match=r"not finite since update 1\."):
        runner.fit()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_close_to_full_precision(precision):
    def trained(precision):
        runner, recorder = single_runner(precision=precision)
        runner.fit()
        return recorder.losses

    full, half = trained("fp32"), trained(precision)
    assert max(abs(a - b) for a, b in zip(full, half, strict=True)) < 0.05  # three digits of bf16 over 12 updates
    assert full != half


def test_events_come_in_the_documented_order(tmp_path):
    events = []

    class Names(Callback):
        def __getattribute__(self, name):
            if name.startswith("on_"):
                return lambda *_: events.append(name)
            return object.__getattribute__(self, name)

    runner, _ = tiny_runner(folder=tmp_path, num_updates=2, validate_at=frozenset({2}), monitor="score")
    runner.validate = lambda: {"score": 1.0}
    runner.callbacks = [Names()]
    runner.fit()
    step = ["on_step_end", "on_log"]
    assert events == ["on_fit_start", *step, *step, "on_validation_end", "on_checkpoint", "on_fit_end"]
