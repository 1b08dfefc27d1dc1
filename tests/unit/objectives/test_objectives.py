"""What is minimised, against the same thing written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from msd_framework.losses.logits import SoftenedKL
from msd_framework.maskers.drop import DropMasker
from msd_framework.maskers.resample import NoiseMasker
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.supervised import SupervisedObjective
from msd_framework.saliency.prediction import DropSaliency, KeepSaliency
from msd_framework.structures import DatasetInfo, ModelOutput, Setting
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import made_batch
from msd_framework.weighting.base import WeightingStrategy
from msd_framework.weighting.fixed import FixedWeights
from msd_framework.weighting.saliency import InstanceWeights, PopulationWeights
from tests.runs import tiny_model, tiny_objective

SETTING = Setting(
    DatasetInfo({"image": "features", "text": "tokens"}, 3, "single_label"),
    ("image", "text"),
    ("image", "text"),
    {"image": "features", "text": "tokens"},
)


def distillation(views: list[Any], **options: Any) -> DistillationObjective:
    masker = DropMasker()
    return DistillationObjective(tiny_model(2), LiveTeacher(tiny_model(1, 16), masker), masker, views, **options)


def test_the_single_view_full_is_distillation_written_by_hand():
    batch, student, teacher, lam, t = made_batch(6), tiny_model(2), tiny_model(1, 16).eval(), 0.7, 3.0
    z = student(batch.inputs).logits
    with torch.no_grad():
        z_teacher = teacher(batch.inputs).logits
    soft = F.kl_div((z / t).log_softmax(-1), (z_teacher / t).softmax(-1), reduction="batchmean") * t**2
    by_hand = (1 - lam) * F.cross_entropy(z, batch.targets) + lam * soft
    by_hand.backward()

    objective = distillation(["full"], distill_weight=lam, distill_loss=SoftenedKL(t))
    found = objective(batch).loss
    found.backward()
    assert abs(found.item() - by_hand.item()) <= 1e-12  # float64, another order of sums
    for ours, theirs in zip(objective.model.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=0)


def test_views_are_weighted_and_added_up():
    batch, weights = made_batch(5), {"full": 0.5, "image": 2.0, "text": 0.25}
    objective = distillation(["full", "image", "text"], distill_weight=0.6, weighting=FixedWeights(weights))
    masker, student, teacher = DropMasker(), tiny_model(2), tiny_model(1, 16).eval()
    total = 0.4 * F.cross_entropy(student(batch.inputs).logits, batch.targets)
    for name, w in weights.items():
        seen = masker.view(batch, name).inputs
        z, z_teacher = student(seen).logits, teacher(seen).logits.detach()
        kl = (z_teacher.softmax(-1) * (z_teacher.log_softmax(-1) - z.log_softmax(-1))).sum(-1).mean()
        total = total + 0.6 * w * kl
    assert abs(objective(batch).loss.item() - total.item()) <= 1e-12


def test_teacher_and_student_may_see_different_views():
    batch = made_batch(5)
    objective = distillation([{"teacher": "text", "student": "image"}], distill_weight=1.0, distill_loss=SoftenedKL())
    masker = DropMasker()
    z = tiny_model(2)(masker.view(batch, "image").inputs).logits
    z_teacher = tiny_model(1, 16).eval()(masker.view(batch, "text").inputs).logits
    kl = (z_teacher.softmax(-1) * (z_teacher.log_softmax(-1) - z.log_softmax(-1))).sum(-1).mean()
    output = objective(batch)
    assert abs(output.loss.item() - kl.item()) <= 1e-12
    assert "distill/text>image" in output.terms


def test_the_teacher_stays_in_eval_without_gradients_when_the_objective_trains():
    objective = tiny_objective().train()
    teacher = objective.teacher.model
    before = [p.clone() for p in teacher.parameters()]
    objective(made_batch(4)).loss.backward()
    assert not any(module.training for module in teacher.modules())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert not any(name.startswith("teacher") for name, _ in objective.named_parameters())


class _Asked(LiveTeacher):
    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.asked: list[tuple[str, ...]] = []

    def predict(self, batch, views, shown=None):
        self.asked.append(tuple(views))
        return super().predict(batch, views, shown)


def test_each_view_is_asked_of_the_teacher_once_even_if_the_saliency_looks_at_it_too():
    masker = DropMasker()
    teacher = _Asked(tiny_model(1, 16), masker)
    views: list[Any] = ["full", "image", "text"]
    objective = DistillationObjective(tiny_model(2), teacher, masker, views, weighting=InstanceWeights(DropSaliency()))
    objective(made_batch(4))
    assert teacher.asked == [("full", "image", "text")]


def test_teacher_and_student_see_the_same_noise():
    """A student that is its teacher's twin has nothing to learn from it, whatever hides the modalities."""
    masker = NoiseMasker(vocab_size=20)
    twin = tiny_model(1, 16)
    views: list[Any] = ["full", "image", "text"]
    objective = DistillationObjective(tiny_model(1, 16), LiveTeacher(twin, masker), masker, views, distill_weight=1.0)
    assert objective(made_batch(5)).loss.item() == pytest.approx(0.0, abs=1e-12)


class _Spy(WeightingStrategy):
    def forward(self, evidence):
        self.seen = evidence
        return torch.ones(len(evidence.views), dtype=torch.float64)


def test_a_weighting_sees_nothing_that_carries_a_graph():
    spy = _Spy()
    spy.saliency = KeepSaliency()
    objective = distillation(["full", "text"], weighting=spy)
    objective(made_batch(4))
    seen = spy.seen
    tensors = [seen.teacher, seen.student, seen.losses, seen.teacher_losses, seen.saliency, seen.targets]
    assert not any(t.requires_grad for t in tensors)
    assert [tuple(t.shape) for t in tensors] == [(2, 4, 3), (2, 4, 3), (2, 4), (2, 4), (4, 2), (4,)]


def test_population_weights_come_from_all_training_examples():
    weighting = PopulationWeights(DropSaliency())
    objective = distillation(["full", "image", "text"], weighting=weighting)
    assert objective.needs_fit
    batches = [made_batch(4, seed) for seed in range(3)]
    objective.fit(batches)
    teacher, masker = tiny_model(1, 16).eval(), DropMasker()
    scores = []
    for batch in batches:
        z = {v: teacher(masker.view(batch, v).inputs).logits.log_softmax(-1) for v in ("full", "image", "text")}
        d = {v: (z["full"].exp() * (z["full"] - z[v])).sum(-1) for v in ("image", "text")}
        scores.append(torch.stack([d["text"], d["image"]], -1))  # the image is missed in the view that shows only the text
    torch.testing.assert_close(weighting.mean_saliency.double(), torch.cat(scores).mean(0).detach(), atol=1e-6, rtol=1e-5)


def test_supervised_learning_is_the_task_loss_of_the_full_view():
    batch, model = made_batch(6), tiny_model(2)
    loss = SupervisedObjective(model)(batch).loss
    assert abs(loss.item() - F.cross_entropy(model(batch.inputs).logits, batch.targets).item()) <= 1e-12


def test_modality_dropout_hides_a_share_of_each_modality_and_only_in_training():
    batch = made_batch(4000)
    seen: list[Any] = []

    class Model(type(tiny_model(0))):  # type: ignore[misc]
        def forward(self, inputs):
            seen.append(inputs)
            return ModelOutput(torch.zeros(4000, 3, requires_grad=True))

    model = tiny_model(0)
    model.__class__ = Model
    torch.manual_seed(0)
    SupervisedObjective(model, modality_dropout=0.2).train()(batch)
    hidden = {m: ~x.present for m, x in seen[0].items()}
    assert not (hidden["image"] & hidden["text"]).any()
    for modality in hidden:
        assert abs(hidden[modality].double().mean().item() - 0.2) < 0.02  # three standard deviations of 4,000 draws
    SupervisedObjective(model, modality_dropout=0.2).eval()(batch)
    assert all(x.present.all() for x in seen[1].values())


@pytest.mark.parametrize("share", [-0.1, 0.6])
def test_modality_dropout_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="must lie between 0 and 1/2, got"):
        SupervisedObjective(tiny_model(0), modality_dropout=share)


def test_a_distill_weight_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"distill_weight must lie between 0 and 1, got 1\.5"):
        distillation(["full"], distill_weight=1.5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"views": []}, "wanted at least one view"),
        ({"views": ["txt"]}, "Did you mean 'text'"),
        ({"views": ["text", "text"]}, "listed twice"),
        ({"views": [{"teacher": "text"}]}, "a view is a name or {teacher: name, student: name}"),
        ({"views": ["full", "text"], "weighting": {"type": "fixed", "weights": {"txet": 1.0}}}, "text"),
    ],
)
def test_views_that_cannot_be_distilled_are_found_before_anything_is_loaded(options, sentence):
    found = DistillationObjective.check(options, SETTING)
    assert len(found) == 1
    assert sentence in found[0]
