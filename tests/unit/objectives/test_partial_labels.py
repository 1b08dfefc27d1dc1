"""Training examples without a label: they are distilled, and the task loss is the mean over the others however an update is cut."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from msd_framework.build.facts import RunFacts
from msd_framework.build.splits import open_split
from msd_framework.checks.run import checked
from msd_framework.config.load import load
from msd_framework.data.batches.labels import HiddenLabels
from msd_framework.data.batches.plan import TrainingPlan
from msd_framework.engine.distributed import World
from msd_framework.errors import ConfigError, DataError, MSDError
from msd_framework.losses import default_task_loss
from msd_framework.losses.labelled import known_losses, labelled_losses
from msd_framework.losses.task import BinaryCrossEntropy, CrossEntropy, SoftCrossEntropy
from msd_framework.maskers.drop import DropMasker
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.supervised import SupervisedObjective
from msd_framework.registry import SALIENCIES
from msd_framework.run import run
from msd_framework.structures import Batch, ModelOutput, Task, has_label
from msd_framework.teachers.ema import EmaTeacher
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import MadeBatches, made_batch, run_processes
from msd_framework.weighting.teacher import TeacherLossWeights
from tests.runs import BATCH_SIZE, NUM_UPDATES, losses, tiny_model, tiny_runner

TASKS: list[Task] = ["single_label", "multi_label", "soft_target"]
KNOWN = torch.tensor([True, False, True, True, False])


def targets_of(task: Task, known: torch.Tensor = KNOWN, num_classes: int = 3) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    if task == "single_label":
        return torch.randint(num_classes, known.shape, generator=draw).where(known, -100)
    scores = torch.rand(len(known), num_classes, generator=draw, dtype=torch.float64)
    return (scores.round() if task == "multi_label" else scores).where(known[:, None], torch.nan)


def counted(batch: Batch) -> Batch:
    return replace(batch, num_labelled=batch.labelled.sum().double())


def partly(known: torch.Tensor, task: Task = "single_label") -> Batch:
    return counted(replace(made_batch(len(known)), targets=targets_of(task, known)))


# --- the convention and the term ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_an_example_without_a_label_is_known_by_its_target(task: Task) -> None:
    assert has_label(targets_of(task)).tolist() == KNOWN.tolist()


def test_a_sequence_of_targets_has_a_label_if_one_position_is_scored() -> None:
    assert has_label(torch.tensor([[-100, 3], [-100, -100]])).tolist() == [True, False]


@pytest.mark.parametrize("task", TASKS)
def test_the_task_loss_is_the_mean_over_labelled_examples_and_the_others_get_no_gradient(task: Task) -> None:
    batch, z = partly(KNOWN, task), torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    loss = default_task_loss(task)
    found = labelled_losses(loss, ModelOutput(z), batch).mean()
    found.backward()
    wanted = loss(ModelOutput(z[KNOWN]), batch.targets[KNOWN]).mean()
    assert abs(found.item() - wanted.item()) <= 1e-12  # float64, another order of sums
    assert z.grad is not None
    torch.testing.assert_close(z.grad[KNOWN], torch.autograd.grad(wanted, z)[0][KNOWN], atol=1e-12, rtol=0)
    assert torch.equal(z.grad[~KNOWN], torch.zeros(2, 3, dtype=torch.float64))
    assert torch.equal(known_losses(loss, ModelOutput(z), batch)[~KNOWN], torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_without_any_label_has_no_task_loss_and_no_gradient(task: Task) -> None:
    batch, z = partly(torch.zeros(5, dtype=torch.bool), task), torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    loss = labelled_losses(default_task_loss(task), ModelOutput(z), batch).mean()
    loss.backward()
    assert loss.item() == 0
    assert z.grad is not None
    assert z.grad.eq(0).all()


def test_with_all_labels_the_losses_are_those_of_a_batch_that_does_not_count_to_the_bit() -> None:
    batch = made_batch(5)
    output = tiny_model(0)(batch.inputs)
    alone = labelled_losses(CrossEntropy(), output, batch)
    assert torch.equal(alone, CrossEntropy()(output, batch.targets))
    assert torch.equal(labelled_losses(CrossEntropy(), output, counted(batch)), alone)


def distillation(task: Task = "single_label", **options: Any) -> DistillationObjective:
    masker = DropMasker()
    teacher = LiveTeacher(tiny_model(1, 16), masker)
    return DistillationObjective(tiny_model(2), teacher, masker, ["full", "image", "text"], task=task, **options)


@pytest.mark.parametrize("task", TASKS)
def test_all_examples_are_distilled_and_the_labelled_ones_are_learned_from(task: Task) -> None:
    batch = partly(KNOWN, task)
    objective, output = distillation(task, distill_weight=0.4), distillation(task, distill_weight=0.4)(batch)
    z = objective.model(batch.inputs).logits[KNOWN]
    task_loss = default_task_loss(task)(ModelOutput(z), batch.targets[KNOWN]).mean()
    distill = sum(output.terms[f"distill/{v}"] for v in ("full", "image", "text"))
    whole = distillation(task)(replace(batch, targets=targets_of(task, torch.ones(5, dtype=torch.bool)), num_labelled=None))
    assert all(output.terms[f"distill/{v}"] == whole.terms[f"distill/{v}"] for v in ("full", "image", "text"))
    assert output.loss.item() == pytest.approx((0.6 * task_loss + 0.4 * distill).item(), abs=1e-12)
    output.loss.backward()


@pytest.mark.parametrize("task", TASKS)
def test_a_weighting_by_the_teachers_loss_weighs_the_views_of_an_unlabelled_example_equally(task: Task) -> None:
    class Watching(TeacherLossWeights):
        def forward(self, evidence: Any) -> torch.Tensor:
            self.made = super().forward(evidence)
            return self.made

    weighting = Watching()
    loss = distillation(task, weighting=weighting)(partly(KNOWN, task)).loss
    assert loss.isfinite()
    assert weighting.made[:, ~KNOWN].eq(1).all()
    assert weighting.made[1:, KNOWN].ne(1).all()


def test_label_smoothing_of_several_labels_is_torchs_loss_of_smoothed_labels() -> None:
    z, y = torch.randn(4, 5, dtype=torch.float64), torch.randint(2, (4, 5)).double()
    wanted = F.binary_cross_entropy_with_logits(z, y * 0.8 + 0.1, reduction="none").sum(-1)
    torch.testing.assert_close(BinaryCrossEntropy(label_smoothing=0.2)(ModelOutput(z), y), wanted, atol=1e-12, rtol=0)


def test_label_smoothing_of_scores_that_compete_is_that_of_torch() -> None:
    z, y = torch.randn(4, 5, dtype=torch.float64), torch.rand(4, 5, dtype=torch.float64).softmax(-1)
    wanted = F.cross_entropy(z, y, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(SoftCrossEntropy(0.2)(ModelOutput(z), y), wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("make", [lambda: BinaryCrossEntropy(label_smoothing=1.0), lambda: SoftCrossEntropy(-0.1)])
def test_a_label_smoothing_out_of_range_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="label_smoothing must be 0 or more and below 1"):
        make()


# --- parts and processes --------------------------------------------------------------------------------------------------------


class SomeLabels(MadeBatches):
    """Batches that tell how many of their own examples have a label, as the loader's do."""

    def starting_at(self, update: int) -> Iterator[Batch]:
        return (counted(batch) for batch in super().starting_at(update))


def self_taught() -> DistillationObjective:
    student, masker = tiny_model(2), DropMasker()
    return DistillationObjective(student, EmaTeacher(student, masker, 0.8), masker, ["full", "image", "text"])


def fitted(
    world: World | None = None, accumulate: int = 1, make: Callable[[], DistillationObjective] = distillation
) -> tuple[list[float], torch.Tensor]:
    """The losses and weights of a run in which some updates have few labels, unevenly among their parts, and some have none."""
    world, data = world or World(), made_batch(20)
    known = torch.zeros(20, dtype=torch.bool)
    known[[0, 1, 2, 9]] = True
    data = replace(data, targets=data.targets.where(known, -100))
    runner, recorder = tiny_runner(world, accumulate, objective=make())
    plan = TrainingPlan(20, BATCH_SIZE, NUM_UPDATES, accumulate, world.rank, world.size, seed=0)
    runner.batches = SomeLabels(data, plan)
    runner.fit()
    return recorder.losses, nn.utils.parameters_to_vector(runner.objective.parameters()).detach()


def test_an_update_is_the_same_in_any_number_of_parts() -> None:
    losses, weights = fitted()
    for accumulate in (2, 4):
        found, theirs = fitted(accumulate=accumulate)
        assert max(abs(a - b) for a, b in zip(losses, found, strict=True)) <= 1e-10  # order of float64 sums
        torch.testing.assert_close(theirs, weights, atol=1e-8, rtol=0)


def _fit(folder: str) -> None:
    with World.join("cpu") as world:
        losses, weights = fitted(world, 2, self_taught)
        (Path(folder) / f"{world.rank}.json").write_text(json.dumps({"losses": losses, "weights": weights.tolist()}))


def test_an_update_and_the_average_of_the_student_are_the_same_in_two_processes(tmp_path: Path) -> None:
    run_processes(_fit, 2, str(tmp_path))
    losses, weights = fitted(make=self_taught)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert max(abs(a - b) for a, b in zip(losses, found["losses"], strict=True)) <= 1e-10
        torch.testing.assert_close(torch.tensor(found["weights"], dtype=torch.float64), weights, atol=1e-8, rtol=0)


def test_the_mean_over_labelled_examples_is_that_of_the_whole_update_and_not_of_its_parts() -> None:
    batch = partly(torch.tensor([True, False, False, False, True, True, True, True]))
    objective = SupervisedObjective(tiny_model(2))
    runner, recorder = tiny_runner(accumulate=2, objective=objective, num_updates=1)
    plan = TrainingPlan(8, 8, 1, 2, 0, 1, seed=0)
    runner.batches = SomeLabels(batch, plan)
    z = objective.model(batch.inputs).logits
    runner.fit()
    wanted = F.cross_entropy(z, batch.targets)  # torch leaves -100 out of the mean
    assert recorder.losses[0] == pytest.approx(wanted.item(), abs=1e-12)


# --- in runs --------------------------------------------------------------------------------------------------------------------

TEACH = "objective={type: distillation, views: [full, image, text]}"
EACH = ["training.log_every=1", "data.validation=null", "data.test=null"]


def labels(config: Path, *words: str) -> list[int | None]:
    data = open_split(RunFacts(checked(load(config, ["env.save_dir=runs/labels", *words]))), "train")
    return [data[i].target for i in range(len(data))]  # type: ignore[misc]


def test_a_share_of_labels_is_hidden_the_same_way_each_time_and_a_larger_share_keeps_what_a_smaller_one_does(
    tiny_config: Path,
) -> None:
    whole = labels(tiny_config)
    some = {share: labels(tiny_config, f"data.labelled_share={share}") for share in (0.25, 0.5)}
    assert [sum(x is not None for x in found) for found in some.values()] == [3, 6]
    assert some[0.5] == labels(tiny_config, "data.labelled_share=0.5")
    assert all(a == b for found in some.values() for a, b in zip(found, whole, strict=True) if a is not None)
    assert all(b is not None for a, b in zip(some[0.25], some[0.5], strict=True) if a is not None)
    assert labels(tiny_config, "data.labelled_share=0.5", "seed=1") != some[0.5]


def test_hidden_labels_change_nothing_that_a_teacher_cache_depends_on(tiny_config: Path) -> None:
    words = ["env.save_dir=runs/labels"]
    data = open_split(RunFacts(checked(load(tiny_config, words))), "train")
    assert HiddenLabels(data, 0.5, 0).fingerprint == data.fingerprint


def test_students_learn_from_some_labels_and_from_none(tiny_config: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    teach = [TEACH, f"teacher.checkpoint={tiny_teacher}", *EACH]
    for share in (0.0, 0.25):
        run(tiny_config, [*teach, f"data.labelled_share={share}", f"env.save_dir={tmp_path / str(share)}"])
    assert losses(tmp_path / "0.0", "train/task") == [0.0, 0.0]
    assert losses(tmp_path / "0.0", "train/distill/full")[0] == losses(tmp_path / "0.25", "train/distill/full")[0] > 0
    assert all(map(math.isfinite, losses(tmp_path / "0.25", "train/task")))
    run(tiny_config, ["data.labelled_share=0.5", *EACH, f"env.save_dir={tmp_path / 'alone'}"])
    assert all(map(math.isfinite, losses(tmp_path / "alone", "train/task")))


@pytest.fixture
def unlabelled(tiny_world: Path, tmp_path: Path) -> Path:
    """The tiny world, of whose training examples only the first three have a label."""
    shutil.copytree(tiny_world, tmp_path / "world")
    file = tmp_path / "world" / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [row if i < 3 else {k: v for k, v in row.items() if k != "label"} for i, row in enumerate(rows)]
    file.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return tmp_path / "world"


def test_lines_without_a_label_are_read_where_the_run_says_so_and_refused_as_ever_otherwise(
    tiny_config: Path, tiny_teacher: Path, unlabelled: Path, tmp_path: Path
) -> None:
    words = [TEACH, f"teacher.checkpoint={tiny_teacher}", *EACH, f"data.dataset.root={unlabelled}"]
    with pytest.raises(MSDError, match=r"train\.jsonl:4: has no 'label'"):
        run(tiny_config, [*words, f"env.save_dir={tmp_path / 'refused'}"])
    run(tiny_config, [*words, f"env.save_dir={tmp_path / 'taught'}", "data.unlabelled=true"])
    assert all(map(math.isfinite, losses(tmp_path / "taught", "train/task")))
    found = labels(tiny_config, f"data.dataset.root={unlabelled}", "data.unlabelled=true")
    assert [x is None for x in found] == [False] * 3 + [True] * 9


@pytest.mark.parametrize("workers", [0, 1])
def test_to_train_on_a_blind_split_is_refused(tiny_config: Path, tiny_world: Path, tmp_path: Path, workers: int) -> None:
    shutil.copytree(tiny_world, tmp_path / "world")
    file = tmp_path / "world" / "test_seen.jsonl"
    blind = [{k: v for k, v in json.loads(line).items() if k != "label"} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in blind))
    words = [f"data.dataset.root={tmp_path / 'world'}", "data.train=test_seen", *EACH, f"data.workers={workers}"]
    with pytest.raises(DataError, match=r"^.*test_seen\.jsonl:\d+: the training example '2\d+' has no label\. To learn from"):
        run(tiny_config, [*words, f"env.save_dir={tmp_path / 'run'}"])


def saliency(name: str) -> str:
    return f"objective.weighting={{type: instance, normalise: softmax, saliency: {name}}}"


WRONG: dict[str, tuple[list[str], str]] = {
    "share": (["data.labelled_share=1.5"], r"data\.labelled_share: must lie between 0 and 1, got 1\.5\."),
    "type": (["data.unlabelled=yes please"], r"data\.unlabelled: wanted bool"),
    "nothing left": (["data.labelled_share=0"], r"data\.labelled_share: leaves no label, and the objective supervised learns"),
    "objective": (["data.unlabelled=true", "objective=agreement"], r"data\.unlabelled: the objective agreement needs the label of"),
    **{
        name: (
            ["data.labelled_share=0.5", TEACH, "teacher.checkpoint=TEACHER", saliency(name)],
            r"objective\.weighting\.saliency: (loss|gap|shapley) looks at the labels of training examples, of which some have none",
        )
        for name in ("loss", "gap", "{type: shapley, value: loss}")
    },
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_what_needs_labels_that_are_not_there_is_told_in_one_sentence(
    words: list[str], said: str, tiny_config: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    words = [word.replace("TEACHER", str(tiny_teacher)) for word in words]
    with pytest.raises(ConfigError) as raised:
        checked(load(tiny_config, [f"env.save_dir={tmp_path / 'x'}", *words]))
    (found,) = raised.value.problems
    assert re.search(said, str(found)), found


BLIND = [name for name in SALIENCIES.names() if not (SALIENCIES.get(name).needs_labels or SALIENCIES.get(name).needs_model)]


@pytest.mark.parametrize("name", BLIND)
def test_a_saliency_that_says_it_does_not_look_at_labels_does_not(name: str) -> None:
    score = SALIENCIES.build(name, facts={"num_classes": 3})
    views = {
        v: ModelOutput(torch.randn(4, 3, generator=torch.Generator().manual_seed(i)))
        for i, v in enumerate(("full", "image", "text"))
    }
    scores = [score(views, y, ("image", "text")) for y in (torch.tensor([0, 1, 2, 0]), torch.full((4,), -100))]
    assert torch.equal(*scores)
