"""What the doctor measures, on made models and batches whose truth is known."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msd_framework.analysis.doctor import inputs, models, step, terms
from msd_framework.analysis.doctor.finding import Finding
from msd_framework.analysis.doctor.inputs import Shape, swapped, with_other_content
from msd_framework.analysis.doctor.models import ModelCheck, check_leak, distance
from msd_framework.analysis.doctor.report import Diagnosis, as_json, findings, lines, tables
from msd_framework.analysis.doctor.score import ScoreCheck, other_order
from msd_framework.analysis.doctor.step import StepCheck
from msd_framework.analysis.doctor.terms import TermCheck
from msd_framework.engine.precision import FP32
from msd_framework.losses.features import Hint
from msd_framework.losses.logits import SoftenedKL
from msd_framework.maskers.attention import AttentionMasker
from msd_framework.maskers.base import Masker
from msd_framework.maskers.constant import ConstantMasker
from msd_framework.maskers.drop import DropMasker
from msd_framework.maskers.resample import MeanMasker, NoiseMasker, OtherMasker
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.features import FeatureTerm
from msd_framework.objectives.supervised import SupervisedObjective
from msd_framework.structures import LossTerm, outcomes_of
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import made_batch
from msd_framework.weighting.adaptive import UncertaintyWeights
from tests.runs import tiny_model

CPU = torch.device("cpu")


def asked(model: Any, masker: Masker) -> Any:
    return lambda batch, view: model(masker.view(batch, view).inputs).logits


def lively(seed: int) -> Any:
    """A model whose answers depend on its inputs by much."""
    model = tiny_model(seed)
    with torch.no_grad():
        for matrix in (p for p in model.parameters() if p.ndim >= 2):
            matrix.mul_(20)
    return model.eval()


def objective(**options: Any) -> DistillationObjective:
    masker = DropMasker()
    teacher = LiveTeacher(lively(1), masker)
    built = DistillationObjective(lively(2), teacher, masker, ["full", "image", "text"], **options).double()
    if built.needs_dry_run:
        built.dry_run(made_batch(6))
    return built


# ---- the batch ----


def test_rows_change_places_so_that_most_of_them_differ():
    batch = made_batch(6)
    for modality in batch.modalities:
        inputs = batch.inputs[modality]
        other, differ = swapped(inputs)
        assert differ == 6
        assert sorted(other.values.flatten(1).sum(1).tolist()) == sorted(inputs.values.flatten(1).sum(1).tolist())
    same = replace(
        batch.inputs["text"], values=batch.inputs["text"].values[:1].repeat(6, 1), mask=batch.inputs["text"].mask[:1].repeat(6, 1)
    )
    assert swapped(same)[1] == 0


def test_other_content_leaves_masks_special_positions_and_other_rows_alone():
    text = made_batch(6).inputs["text"]
    changed = with_other_content(text, [1, 3])
    assert torch.equal(changed.mask, text.mask)
    assert torch.equal(changed.values[[0, 2, 4, 5]], text.values[[0, 2, 4, 5]])
    assert torch.equal(changed.values[text.special], text.values[text.special])
    assert (changed.values != text.values).any(1).tolist() == [False, True, False, True, False, False]


def test_shapes_count_content_special_positions_and_padding():
    batch = made_batch(6)
    image, text = inputs.measure(batch)
    told = batch.inputs["text"]
    assert text.tokens == pytest.approx((told.mask.sum() / 6 - 2).item())
    assert (text.special, text.positions, text.absent) == (2, 8, 0)
    assert image.padding == pytest.approx(1 - batch.inputs["image"].mask.double().mean().item())


# ---- models ----


@pytest.mark.parametrize(
    "masker", [DropMasker(), AttentionMasker(), ConstantMasker(), NoiseMasker(vocab_size=20), OtherMasker(), OtherMasker(shift=2)]
)
@pytest.mark.parametrize("modality", ["image", "text"])
def test_no_masker_of_ours_leaks(masker, modality):
    masker.eval()
    model = lively(0)
    assert check_leak(modality, asked(model, masker), masker, made_batch(6)) < 1e-6


def test_the_mean_of_the_training_examples_does_not_leak_either():
    masker = MeanMasker()
    masker.fit([made_batch(9, seed=1)])
    assert check_leak("image", asked(lively(0), masker.double()), masker, made_batch(6)) < 1e-6


class Shortens(Masker):
    """Leaves the first position in."""

    def hide(self, modality: str, inputs: Any) -> Any:
        return replace(inputs, mask=inputs.mask & (inputs.special | (torch.arange(inputs.mask.shape[1]) < 2)), distinct=None)


@pytest.mark.parametrize("is_random", [False, True])
def test_a_masker_that_leaves_one_position_in_leaks(is_random):
    masker = Shortens()
    masker.random = is_random
    assert check_leak("text", asked(lively(0), masker), masker, made_batch(6)) > 1e-3


def test_what_a_modality_changes_is_the_distance_of_both_answers():
    model, batch, masker = lively(0), made_batch(6), DropMasker()
    ask = asked(model, masker)
    found = models.measure("student", model, ask, masker, batch, "softmax")
    other, _ = swapped(batch.inputs["image"])
    seen = model({**batch.inputs, "image": other}).logits.softmax(-1)
    full, hidden = (ask(batch, view).softmax(-1) for view in ("full", "~image"))
    image = found.effects[0]
    assert image.swap == pytest.approx((full - seen).abs().sum(1).mean().item() / 2, rel=1e-5)
    assert image.hide == pytest.approx((full - hidden).abs().sum(1).mean().item() / 2, rel=1e-5)
    assert (found.repeats, found.training, found.not_finite) == (0, (), ())
    assert found.parameters == sum(p.numel() for p in model.parameters())


def test_a_batch_of_one_row_and_rows_that_are_the_same_are_not_tried():
    model, masker = lively(0), DropMasker()
    one = models.measure("student", model, asked(model, masker), masker, made_batch(1), "softmax")
    assert {e.untried for e in one.effects} == {"the batch has one row"}
    batch = made_batch(4)
    image = batch.inputs["image"]
    same = replace(image, values=image.values[:1].repeat(4, 1, 1), mask=image.mask[:1].repeat(4, 1))
    found = models.measure(
        "student", model, asked(model, masker), masker, batch.with_inputs({**batch.inputs, "image": same}), "softmax"
    )
    assert found.effects[0].untried == "all 4 rows have the same image"
    assert found.effects[1].leak == 0


def test_distances_of_labels_that_are_questions_of_their_own_are_of_sigmoids():
    a, b = torch.zeros(1, 2), torch.tensor([[40.0, 0.0]])
    assert distance(a, b, "bernoulli") == pytest.approx(0.5)


# ---- a step, and its terms ----


@pytest.mark.parametrize("features", [None, [FeatureTerm(Hint(), "fused.*.hidden", weight=0.3)]])
@pytest.mark.parametrize("weighting", [None, UncertaintyWeights()])
def test_the_terms_add_up_to_the_loss(features, weighting):
    options = {"distill_weight": 0.3, "distill_loss": SoftenedKL(2.0)}
    built, batch = objective(features=features, weighting=weighting, **options), made_batch(6)
    output = built(batch)
    contributions = [term.contribution for term in output.loss_terms]
    torch.testing.assert_close(torch.stack(contributions).sum(), output.loss)
    parameters = [p for p in built.parameters() if p.requires_grad]
    whole = torch.autograd.grad(output.loss, parameters, retain_graph=True, materialize_grads=True)
    parts = [torch.autograd.grad(c, parameters, retain_graph=True, materialize_grads=True) for c in contributions]
    for parameter, gradients in zip(whole, zip(*parts)):
        torch.testing.assert_close(torch.stack(gradients).sum(0), parameter)


@pytest.mark.parametrize("features", [None, [FeatureTerm(Hint(), "fused.*.hidden", weight=0.3)]])
def test_the_doctor_computes_the_objective_once(features, monkeypatch):
    built, batch = objective(features=features), made_batch(6)
    calls: Counter[str] = Counter()

    def counted(name: str, owner: Any) -> None:
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (calls.update([name]), function(*a, **k))[1])

    for owner, name in (
        (built, "forward"),
        (built.task_loss, "forward"),
        (built.model, "forward_features" if features else "forward_views"),
        (built.teacher, "predict_features" if features else "predict"),
    ):
        counted(name, owner)
    terms.measure(built, batch)
    # 1 of the objective, and of its task loss 1 for the student and 3 for the evidence on the teacher's views
    assert calls.pop("forward") == 1 + 1 + 3
    assert set(calls.values()) == {1}
    assert len(calls) == 2


def test_layers_that_one_weight_sets_are_one_row_and_the_first_names_it():
    weight = nn.Parameter(torch.ones(1))
    layers = [LossTerm(f"feature/{i}", (i * weight).expand(4), 0.5, 0.25, "objective.features[0].weight") for i in (1, 3)]
    _, row = terms.compare([LossTerm("task", weight.sum()), *layers], [weight])
    assert (row.name, row.option) == ("feature/1 and 1 more", "objective.features[0].weight")
    assert (row.value, row.weight, row.setting, row.gradient) == (4, 0.125, 0.25, 0.5)


def test_the_suggested_weight_makes_both_gradients_as_large():
    weight = nn.Parameter(torch.ones(1))
    pulls = [LossTerm("task", 2 * weight.sum()), LossTerm("feature", 40 * weight.sum(), share=0.5, option="w")]
    task, feature = terms.compare(pulls, [weight])
    assert (task.gradient, task.ratio, task.suggested) == (2, 1, None)
    assert (feature.value, feature.gradient, feature.ratio, feature.suggested) == (40, 20, 10, 0.1)


def test_a_term_that_no_parameter_of_the_student_is_in_is_left_out():
    weight, other = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    pulls = [LossTerm("task", weight.sum()), LossTerm("penalty", other.sum()), LossTerm("constant", torch.ones(3))]
    assert [term.name for term in terms.compare(pulls, [weight])] == ["task"]


def test_where_labels_count_nothing_the_first_term_that_does_is_the_measure():
    found = terms.measure(objective(distill_weight=1.0), made_batch(6))
    assert (found[0].name, found[0].gradient, found[0].suggested) == ("task", 0, None)
    assert (found[1].name, found[1].ratio, found[1].suggested) == ("distill/full", 1, None)


def test_a_step_leaves_weights_and_gradients_alone():
    built, batch = objective(), made_batch(6)
    before = [p.clone() for p in built.parameters()]
    found = step.measure(built, batch, lambda: built.teacher.predict(batch, built.teacher_views), FP32, CPU)
    assert all(map(torch.equal, before, built.parameters()))
    assert all(p.grad is None for p in built.parameters())
    assert found.loss == pytest.approx(built(batch).loss.item())
    assert found.not_finite == ()
    assert found.teacher_seconds is not None
    assert found.student_seconds >= 0
    assert found.activations > 0
    assert found.peak is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="measures a GPU")
def test_on_a_gpu_the_peak_is_measured():
    device = torch.device("cuda")
    built = objective().to(device)
    found = step.measure(built, made_batch(6).to(device), None, FP32, device)
    assert found.peak is not None
    assert found.peak > found.activations > 0


class Sharp(nn.Module):
    """A loss whose gradient is not finite where it is 0."""

    tasks = frozenset({"single_label"})

    def forward(self, output: Any, targets: Tensor) -> Tensor:
        return (output.logits - output.logits.detach()).abs().sum(1).sqrt()


def test_a_gradient_that_is_not_finite_is_named():
    built = SupervisedObjective(lively(0), task_loss=Sharp())
    found = step.measure(built, made_batch(4), None, FP32, CPU)
    assert math.isfinite(found.loss)
    assert any(name.startswith("model.") for name in found.not_finite)
    (finding,) = (f for f in findings(Diagnosis("a", "cpu", step=found)) if f.is_fault)
    assert "the gradients of model." in str(finding)


# ---- the score ----


def rows(task: str, size: int = 60, num_classes: int = 4, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(num_classes, (size,), generator=generator)
    y = y if task == "single_label" else (torch.rand(size, num_classes, generator=generator) < 0.4).float()
    wanted = F.one_hot(y, num_classes).float() if y.ndim == 1 else y
    return 3 * wanted + noise * torch.randn(wanted.shape, generator=generator), y


@pytest.mark.parametrize("task", ["single_label", "multi_label", "soft_target"])
def test_outputs_in_another_order_are_matched_with_their_classes(task):
    logits, y = rows(task)
    assert other_order(logits, y, outcomes_of(task)) == []
    order = [2, 0, 1, 3]
    assert other_order(logits[:, order], y, outcomes_of(task)) == order


@pytest.mark.parametrize("seed", range(20))
def test_a_teacher_that_knows_nothing_is_not_taken_for_one_of_another_order(seed):
    y = rows("single_label")[1]
    logits = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))
    assert other_order(logits, y, "softmax") == []


def test_few_rows_and_many_classes_are_not_matched():
    logits, y = rows("single_label", size=10)
    assert other_order(logits.flip(1), y, "softmax") == []
    assert other_order(torch.zeros(30, 200), torch.zeros(30, dtype=torch.int64), "softmax") == []


# ---- what is said ----

MODEL = ModelCheck("student", 10, 10, 0.1, (), (4, 2), True, 0.0, (), ())
STEP = StepCheck("fp32", None, 0.1, 1.0, 12.0, 1.0, {}, (), ("head.bias",))


def test_a_finding_says_where_what_was_got_what_was_wanted_and_what_to_do():
    assert str(Finding("model", "it is 3", "4", "Take 4.")) == "model: it is 3; wanted 4. Take 4."
    assert str(Finding("", "it is wrong.")) == str(Finding("", "it is wrong")) == "it is wrong."
    assert str(Finding("a.b", "no such option. Did you mean 'c'?")) == "a.b: no such option. Did you mean 'c'?"


@pytest.mark.parametrize(
    ("found", "is_fault", "text"),
    [
        (
            {"shapes": (Shape("text", (4, 3), 3, 0.5, 2, 2, 0.0, 2, 3),)},
            False,
            "data, text: 2 of 4 rows of the batch have no content",
        ),
        (
            {"shapes": (Shape("text", (4, 3), 3, 0.0, 0, 2, 0.0, 4, 3),)},
            True,
            "data, text: 4 of 4 rows of the batch have no content",
        ),
        (
            {"shapes": (Shape("text", (4, 3), 3, 1.0, 1, 2, 0.0, 0, 0),)},
            True,
            "data, text: all 4 rows of the batch have the same content",
        ),
        ({"models": (replace(MODEL, answers=False),)}, True, "student: its logits on the batch hold NaN or infinity"),
        ({"models": (replace(MODEL, not_finite=("a.weight",)),)}, True, "student: a.weight of its weights hold NaN or infinity"),
        ({"step": STEP}, False, "student: the step reaches 1 of its trained parameters not: head.bias"),
        (
            {"scores": (ScoreCheck("teacher", "runs/t", note="nobody knows"),)},
            False,
            "teacher (runs/t): its score was not compared: nobody",
        ),
        (
            {"terms": (TermCheck("task", "", 1, 1, 1, 1, 1, None), TermCheck("a", "w", 1, 1, 0.001, 0.001, 1, 1000.0))},
            False,
            "w: a pulls 1.0e-03 times as hard at the student as task, and so does next to nothing; wanted between 1/30 and 30.",
        ),
    ],
)
def test_what_was_measured_becomes_a_sentence(found, is_fault, text):
    diagnosis = Diagnosis("a", "cpu", rows=4, **found)
    (finding,) = findings(diagnosis)
    assert finding.is_fault is is_fault
    assert str(finding).startswith(text)
    assert next(iter(lines(diagnosis, [finding]))).startswith("fix: " if is_fault else "note: ")
    assert as_json(diagnosis, [finding])["ok"] is not is_fault
    assert bool(list(tables(diagnosis))) is (not diagnosis.scores)
