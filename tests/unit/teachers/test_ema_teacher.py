"""A teacher that is the average of the student: its weights by hand, and in runs that are cut short."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from msd_framework.callbacks.base import Callback
from msd_framework.checks.run import checked
from msd_framework.config.load import load
from msd_framework.engine.optim import AdamWRecipe
from msd_framework.engine.resume import resume
from msd_framework.engine.runner import Runner
from msd_framework.errors import CheckpointError, ConfigError
from msd_framework.maskers.drop import DropMasker
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.run import run
from msd_framework.schedules import Progress
from msd_framework.structures import StepOutput
from msd_framework.teachers.ema import EmaTeacher
from msd_framework.testing import made_batch
from tests.runs import NUM_UPDATES, losses, tiny_model, tiny_runner

VIEWS: list[Any] = ["full", "image", "text"]


def objective(decay: Any = 0.9, dropout: float = 0.0) -> DistillationObjective:
    student, masker = tiny_model(2, dropout=dropout), DropMasker()
    return DistillationObjective(student, EmaTeacher(student, masker, decay), masker, VIEWS)


def average_of(taught: DistillationObjective) -> EmaTeacher:
    assert isinstance(taught.teacher, EmaTeacher)
    return taught.teacher


class Weights(Callback):
    """Keeps the student's weights after each update."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_step_end(self, runner: Runner, output: StepOutput) -> None:
        self.seen.append(nn.utils.parameters_to_vector(runner.objective.model.parameters()).detach())


def test_it_is_the_moving_average_of_the_students_weights_after_each_update() -> None:
    taught, weights = objective(0.9), Weights()
    wanted = nn.utils.parameters_to_vector(taught.model.parameters()).detach().clone()
    runner, _ = tiny_runner(objective=taught)
    runner.callbacks = [*runner.callbacks, weights]
    runner.fit()
    assert len(weights.seen) == NUM_UPDATES
    for seen in weights.seen:
        wanted = 0.9 * wanted + 0.1 * seen
    found = nn.utils.parameters_to_vector(average_of(taught).average.parameters())
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)  # float64, another order of the same sums
    assert not torch.allclose(found, weights.seen[-1], atol=1e-4)


def test_its_share_may_change_as_the_run_goes() -> None:
    taught = objective({"start": 0.0, "end": 0.5})
    student, average = taught.model.parameters, average_of(taught).average.parameters
    for update, kept in enumerate([0.0, 0.25]):
        before = [p.clone() for p in average()]
        taught.begin_update(Progress(update, 2))
        for p in student():
            p.data += 1
        taught.end_update(lambda x: x)
        for old, now, p in zip(before, average(), student(), strict=True):
            torch.testing.assert_close(now, kept * old + (1 - kept) * p, atol=1e-12, rtol=0)


def test_what_a_batch_norm_has_measured_is_averaged_over_updates_and_processes_and_its_count_is_copied() -> None:
    student = nn.Sequential(nn.BatchNorm1d(2))
    student.modalities, student.num_classes = ("image",), 2  # type: ignore[assignment]
    teacher = EmaTeacher(student, DropMasker(), 0.5)  # type: ignore[arg-type]
    student[0].running_mean.fill_(4.0)
    student[0].num_batches_tracked.fill_(7)
    teacher.begin_update(Progress(0, 1))
    teacher.end_update(lambda x: x / 2)  # as if the other process had measured 0
    averaged: Any = teacher.average
    assert averaged[0].running_mean.tolist() == [1.0, 1.0]
    assert averaged[0].num_batches_tracked == 7


def test_it_stays_in_eval_mode_and_no_optimizer_has_its_weights() -> None:
    taught = objective(dropout=0.3)
    average, batch = average_of(taught), made_batch(4)
    taught.train()
    assert taught.model.training
    assert not any(m.training for m in average.average.modules())
    taught(batch).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in average.average.parameters())
    assert all(p.requires_grad and p.grad is not None for p in taught.model.parameters())
    trained = {id(p) for group in AdamWRecipe().build(taught).param_groups for p in group["params"]}
    assert trained == {id(p) for p in taught.model.parameters()}
    assert torch.equal(average.predict(batch, ["full"]).logits, average.predict(batch, ["full"]).logits)


def test_the_first_loss_is_that_of_a_teacher_that_is_the_students_twin() -> None:
    output = objective()(made_batch(4))
    assert all(output.terms[f"distill/{v}"].item() == pytest.approx(0.0, abs=1e-12) for v in VIEWS)


def test_a_resumed_run_has_the_average_and_the_losses_of_one_that_was_not_cut_to_the_same_bits(tmp_path: Path) -> None:
    def fitted(folder: Path, stop_at: int | None = None) -> tuple[Mapping[str, Tensor], list[float]]:
        runner, recorder = tiny_runner(
            folder=folder, objective=objective(dropout=0.3), dropout=0.3, save_at=frozenset({5, NUM_UPDATES})
        )
        resume(runner)
        runner.callbacks = [*runner.callbacks, *([Stop(stop_at)] if stop_at else [])]
        runner.fit()
        return runner.objective.state_dict(), recorder.losses

    whole, losses = fitted(tmp_path / "whole")
    fitted(tmp_path / "cut", 5)
    resumed, rest = fitted(tmp_path / "cut")
    assert any(name.startswith("teacher.average.") for name in whole)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert rest == losses[5:]


class Stop(Callback):
    def __init__(self, update: int):
        self.update = update

    def on_checkpoint(self, runner: Runner) -> None:
        if runner.update == self.update:
            runner.stop("")
            runner.plan = type(runner.plan)(**{**vars(runner.plan), "num_updates": self.update})


@pytest.mark.parametrize("decay", [-0.1, 1.0, {"start": 0.9, "end": 1.5}])
def test_a_share_out_of_range_is_refused(decay: Any) -> None:
    with pytest.raises(ValueError, match="ema must be at least 0 and below 1, got"):
        objective(decay)


# --- in runs --------------------------------------------------------------------------------------------------------------------

EMA = ["objective={type: distillation, views: [full, image, text]}", "teacher={ema: 0.5}"]


def test_a_run_teaches_itself_goes_on_and_is_evaluated_beside_its_average(tiny_config: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    each = [*EMA, "training.log_every=1", "scheduler=constant", "checkpoint.keep=9"]
    report = run(tiny_config, [*each, f"env.save_dir={whole}", "training.max_updates=4"])
    assert math.isfinite(report["metrics"]["test/agreement"])
    run(tiny_config, [*each, f"env.save_dir={cut}", "training.max_updates=2"])
    run(tiny_config, [*each, f"env.save_dir={cut}", "training.max_updates=4", "checkpoint.resume=true"])
    assert losses(cut)[-2:] == losses(whole)[-2:]
    a, b = (load_file(folder / "checkpoints" / "last" / "objective.safetensors") for folder in (whole, cut))
    assert a.keys() == b.keys()
    assert any(name.startswith("teacher.average.") for name in a)
    assert all(torch.equal(a[name], b[name]) for name in a)
    again = run(tiny_config, [*EMA, f"env.save_dir={whole}", "run_type=test"])
    assert again["metrics"]["test/agreement"] == report["metrics"]["test/agreement"]
    assert again["metrics"]["test/kl"] == pytest.approx(report["metrics"]["test/kl"], abs=1e-6)


def test_a_checkpoint_without_an_average_cannot_be_compared_with_one(tiny_config: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    words = [*EMA, f"env.save_dir={tmp_path / 'x'}", "run_type=test", f"checkpoint.load={tiny_teacher}"]
    with pytest.raises(CheckpointError, match=r"\(teacher\.ema\): holds the weights of another model: .* is missing there"):
        run(tiny_config, words)


WRONG: dict[str, tuple[list[str], str]] = {
    "range": (["teacher.ema=1"], r"teacher\.ema: ema must be at least 0 and below 1, got 1"),
    "ramp": (["teacher.ema={start: 0.9}"], r"teacher\.ema: ema: needs a start and an end"),
    "type": (["teacher.ema=high"], r"teacher\.ema: wanted float \|"),
    "both": (
        ["teacher.checkpoint=runs/x"],
        r"teacher\.checkpoint: is another teacher than the average of the student\. Give either",
    ),
    "cache": (
        ["teacher.cache=true"],
        r"teacher\.cache: keeps what a teacher says for good, and an average .* Set teacher\.cache=false",
    ),
    "combine": (["teacher.combine=mean"], r"teacher\.combine: is for several teachers, and the average of the student is one"),
    "channels": (["teacher.channels={layer: x, by: random}"], r"teacher\.channels: are those of a trained teacher"),
    "population": (
        ["objective.weighting=population"],
        r"objective\.weighting: population asks the teacher before the first update",
    ),
    "view": (["objective.views=[full, sound]"], r"objective\.views\[1\]: view 'sound' names 'sound'"),
    "neither": (
        ["teacher.ema=null"],
        r"teacher\.checkpoint: must be given: The folder of a finished run.*teacher\.ema in its place",
    ),
    "supervised": (["objective=supervised"], r"teacher: the objective supervised has no use for one"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_what_an_average_cannot_do_is_told_in_one_sentence(words: list[str], said: str, tiny_config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        checked(load(tiny_config, [*EMA, f"env.save_dir={tmp_path / 'x'}", *words]))
    (found,) = raised.value.problems
    assert re.search(said, str(found)), found
