"""Terms of an objective that look inside student and teacher, against the same thing written out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.data.batches.plan import TrainingPlan
from msd_framework.engine.checkpoint import read
from msd_framework.engine.distributed import World
from msd_framework.engine.look_ahead import LookAhead, OptimizerStep
from msd_framework.engine.precision import FP32
from msd_framework.engine.resume import resume
from msd_framework.errors import ConfigError
from msd_framework.losses.features import Hint
from msd_framework.losses.relations import SimilarityPreserving
from msd_framework.maskers.drop import DropMasker
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.features import FeatureTerm, Pair, even_layers
from msd_framework.registry import FEATURE_TERMS, OBJECTIVES
from msd_framework.schedules import Progress
from msd_framework.structures import DatasetInfo, Setting
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.ema import EmaTeacher
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import MadeBatches, made_batch
from tests.runs import tiny_model, tiny_runner

WIDER = [{"loss": "hint", "student": "fused.*.hidden"}, {"loss": "pkd", "student": "fused.1.cls", "weight": 0.5}]


def objective(features: list[Any], ready: bool = True, teacher: Teacher | None = None, **options: Any) -> DistillationObjective:
    masker = DropMasker()
    spec = {"type": "distillation", "views": ["full"], "features": features, **options}
    context = {"model": tiny_model(2), "teacher": teacher or LiveTeacher(tiny_model(1, 16), masker), "masker": masker}
    torch.manual_seed(5)
    built = OBJECTIVES.build(spec, "objective", **context)
    assert isinstance(built, DistillationObjective)
    if ready:
        built.dry_run(made_batch(4))
    return built


def inside(model: Any, inputs: Any, name: str) -> Tensor:
    return model.forward_features([inputs], [[name]])[1][0][name].values


# ---- the loss ----


def test_the_loss_gains_the_weighted_terms() -> None:
    batch, lam = made_batch(6), 0.7
    terms = [{"loss": "hint", "student": "fused.1.hidden", "weight": 0.25}, {"loss": "sp", "student": "image.1.mean", "weight": 3}]
    looked = objective(terms, distill_weight=lam)
    found, plain = looked(batch), objective([], distill_weight=lam)(batch)
    student, teacher = tiny_model(2), tiny_model(1, 16).eval()
    s, t = (inside(m, batch.inputs, "fused.1.hidden") for m in (student, teacher))
    (widen,) = (p.adaptor.inner.map for p in looked.features.pairs if p.adaptor.inner is not None)
    shown = torch.cat([batch.inputs["text"].mask, batch.inputs["image"].mask], 1)
    hint = torch.stack([F.mse_loss(widen(a)[m], b[m]) for a, b, m in zip(s, t, shown)]).mean()
    means = [inside(m, batch.inputs, "image.1.mean") for m in (student, teacher)]
    g, h = (F.normalize(x @ x.T, dim=1) for x in means)
    similar = (g - h).square().mean()
    options = {t.name: t.option for t in found.loss_terms if t.name.startswith("feature")}
    assert options == {
        "feature/hint/fused.1.hidden": "objective.features[0].weight",
        "feature/sp/image.1.mean": "objective.features[1].weight",
    }
    assert abs(found.terms["feature/hint/fused.1.hidden"] - hint) <= 1e-12
    assert abs(found.terms["feature/sp/image.1.mean"] - similar) <= 1e-12
    assert abs(found.loss - (plain.loss + lam * (0.25 * hint + 3 * similar))) <= 1e-12


def test_without_features_nothing_is_looked_into() -> None:
    class Closed(LiveTeacher):
        def predict_features(self, *arguments: Any) -> Any:
            raise AssertionError

    plain = objective([], ready=False, teacher=Closed(tiny_model(1, 16), DropMasker()))
    plain.model.forward_features = None  # type: ignore[assignment,method-assign]
    plain(made_batch(4))
    assert not plain.needs_dry_run
    assert not list(plain.features.parameters())


def test_terms_are_seen_on_their_view_and_each_view_is_asked_for_once() -> None:
    asked: list[tuple[Any, Any]] = []

    class Asked(LiveTeacher):
        def predict_features(self, batch, views, wanted, shown=None):  # type: ignore[no-untyped-def]
            asked.append((tuple(views), [sorted(names) for names in wanted]))
            return super().predict_features(batch, views, wanted, shown)

    teacher, masker = Asked(tiny_model(1, 16), DropMasker()), DropMasker()
    terms = [
        {"loss": "sp", "student": "image.1.mean", "teacher": "text.1.mean", "view": {"teacher": "text", "student": "image"}},
        {"loss": "sp", "student": "fused.pooled"},
    ]
    built = objective(terms, teacher=teacher)
    asked.clear()
    batch = made_batch(6)
    output = built(batch)
    assert asked == [(("full", "text"), [["fused.pooled"], ["text.1.mean"]])]
    assert built.teacher_views == ("full", "text")
    s = inside(tiny_model(2), masker.view(batch, "image").inputs, "image.1.mean")
    t = inside(tiny_model(1, 16).eval(), masker.view(batch, "text").inputs, "text.1.mean")
    by_hand = (F.normalize(s @ s.T, dim=1) - F.normalize(t @ t.T, dim=1)).square().mean()
    assert abs(output.terms["feature/sp/text>image/text.1.mean>image.1.mean"] - by_hand) <= 1e-12


def test_a_weight_may_change_as_the_run_goes() -> None:
    built, batch = objective([{"loss": "hint", "student": "fused.pooled", "weight": {"start": 2, "end": 0}}]), made_batch(6)
    losses = []
    for update in (0, 50, 100):
        built.begin_update(Progress(update, 100))
        losses.append(built(batch).loss)
    assert abs((losses[0] - losses[1]) - (losses[1] - losses[2])) <= 1e-12
    assert losses[0] > losses[1]


@pytest.mark.parametrize("ready", [True, False])
def test_an_objective_that_has_seen_no_batch_says_so(ready: bool) -> None:
    built = objective(WIDER, ready)
    if ready:
        built(made_batch(4))
    else:
        with pytest.raises(ValueError, match=r"must look at a batch before it is used: call its dry_run\(batch\)"):
            built(made_batch(4))


def test_a_dry_run_leaves_the_models_as_they_were() -> None:
    built = objective(WIDER, ready=False).train()
    before = {name: tensor.clone() for name, tensor in built.model.state_dict().items()}
    built.dry_run(made_batch(4))
    assert built.model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in built.model.state_dict().items())
    assert all(p.grad is None for p in built.parameters())


def test_an_average_of_the_student_teaches_what_goes_on_inside_it() -> None:
    teacher = EmaTeacher(tiny_model(2), DropMasker(), 0.9)
    built = objective([{"loss": "hint", "student": "fused.1.hidden"}], teacher=teacher)
    assert built(made_batch(4)).terms["feature/hint/fused.1.hidden"] == 0  # its twin before the first update


@pytest.mark.parametrize("term", [{"loss": "hint", "student": "fused.1.hidden"}, {"loss": "sp", "student": "fused.pooled"}])
def test_learned_weights_and_features_go_together(term: Any) -> None:
    built = objective([term], weighting={"type": "learned", "num_classes": 3}, views=["full", "image", "text"]).double().train()
    optimizer = torch.optim.SGD(built.parameters(), lr=0.1)
    held_out = MadeBatches(made_batch(20), TrainingPlan(20, 4, 3, 1, 0, 1, seed=0))
    look_ahead, learned = LookAhead(built, held_out, optimizer), []
    learn = built.weighting.learn
    built.weighting.learn = lambda slopes, mean: (learned.extend(slopes), learn(slopes, mean))  # type: ignore[method-assign]
    for update in range(2):
        built.begin_update(Progress(update, 3))
        output = built(made_batch(6, seed=update))
        output.loss.backward()
        optimizer.step()
        built.after_step(OptimizerStep(update, FP32, torch.zeros(()), World(), look_ahead))
        optimizer.zero_grad()
        built.end_update(lambda x: x)
    assert any(name.startswith("feature/") for name in output.terms)
    assert all(slopes.isfinite().all() and slopes[1:].any() for slopes in learned)
    assert len(learned) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_terms_are_float32(dtype: torch.dtype) -> None:
    built = objective([*WIDER, {"loss": "minilm", "student": "fused.1.attention"}]).float()
    batch = made_batch(4)
    image = batch.inputs["image"]
    batch = batch.with_inputs({**batch.inputs, "image": image.__class__(image.values.float(), image.mask)})
    built.teacher.model.float()  # type: ignore[attr-defined]
    exact = built(batch).terms
    with torch.autocast("cpu", dtype):
        output = built(batch)
    output.loss.backward()
    assert all(value.dtype == torch.float32 for name, value in output.terms.items() if name.startswith("feature"))
    for name, value in output.terms.items():
        torch.testing.assert_close(value, exact[name], atol=0.05, rtol=0.05)  # products in half precision


# ---- pairs ----

OFFERED: Any = {
    **{f"text.{i}.hidden": "hidden" for i in range(5)},
    **{f"text.{i}.attention": "attention" for i in range(1, 5)},
    "fused.pooled": "pooled",
}
DEEPER: Any = {f"text.{i}.hidden": "hidden" for i in range(13)} | {"fused.pooled": "pooled", "image.last.hidden": "hidden"}


def term(**options: Any) -> FeatureTerm:
    return FEATURE_TERMS.build({"loss": "hint", **options}, "features[0]")


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({"student": "fused.pooled"}, {"fused.pooled": "fused.pooled"}),
        ({"student": "text.last.hidden"}, {"text.4.hidden": "text.12.hidden"}),
        ({"student": "text.0.hidden", "teacher": "image.last.hidden"}, {"text.0.hidden": "image.last.hidden"}),
        ({"student": "text.*.hidden"}, {f"text.{i}.hidden": f"text.{3 * i}.hidden" for i in range(1, 5)}),
        (
            {"student": "text.*.hidden", "layers": {2: 9, 4: 12}},
            {"text.2.hidden": "text.9.hidden", "text.4.hidden": "text.12.hidden"},
        ),
    ],
)
def test_names_become_pairs(options: Any, pairs: dict[str, str]) -> None:
    assert dict(term(**options).pairs(OFFERED, DEEPER)) == pairs


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"student": "text.5.hidden"},
            r"^student: it offers no 'text.5.hidden'. Did you mean 'text.\d.hidden'\? It offers text",
        ),
        (
            {"student": "text.1.hidden", "teacher": "txt.9.hidden"},
            r"^teacher: it offers no 'txt.9.hidden'. Did you mean 'text.9",
        ),
        ({"student": "audio.last.hidden"}, "student: it offers no 'audio.last.hidden'"),
        ({"student": "txt.*.hidden"}, r"^student: it has no layers of the name 'txt.\*.hidden'. Did you mean 'text.\*.hidden'"),
        ({"student": "text.1.attention"}, "^teacher: it offers no 'text.1.attention'"),
        (
            {"student": "text.1.attention", "teacher": "text.1.hidden"},
            "^loss: hint compares hidden and pooled, and 'text.1.attention' is attention. For it there are attention_",
        ),
        (
            {"student": "fused.pooled", "teacher": "text.1.hidden"},
            "^teacher: 'text.1.hidden' is hidden, and the student's 'fused.pooled' is pooled. Name two of a kind",
        ),
        ({"student": "text.*.hidden", "layers": {5: 1}}, "^layers: the student has layers 1 to 4, got 5"),
        ({"student": "text.*.hidden", "layers": {1: 13}}, "^layers: the teacher has layers 1 to 12, got 13"),
    ],
)
def test_names_that_are_not_offered_are_told_with_the_nearest(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        term(**options).pairs(OFFERED, DEEPER)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"student": "fused.pooled", "weight": -1.0}, "weight must be 0 or more, got -1"),
        ({"student": "text.*.hidden", "teacher": "text.1.hidden"}, "both names or none must have a"),
        ({"student": "text.1.hidden", "layers": {1: 1}}, r"layers: are for names with a \* in the layer's place"),
        ({"student": "fused.pooled", "adaptor": "conv"}, "wanted 'auto' | 'linear' | 'none', got 'conv'"),
        ({"student": "fused.pooled", "view": {"teacher": "text"}}, "a view is a name or"),
    ],
)
def test_options_out_of_range_are_refused(options: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        term(**options)


SETTING = Setting(
    DatasetInfo({"image": "features", "text": "tokens"}, 3, "single_label"),
    ("image", "text"),
    ("image", "text"),
    {"image": "features", "text": "tokens"},
)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"student": "image.1.hidden", "view": "text"}, "student: 'image.1.hidden' belongs to image, which the view 'text' hides."),
        (
            {"student": "image.1.mean", "teacher": "text.1.mean", "view": {"teacher": "image", "student": "image"}},
            "teacher: 'text.1.mean' belongs to text, which the view 'image' hides.",
        ),
        ({"student": "fused.pooled", "view": "txt"}, "view: view 'txt' names 'txt', which is not one of the modalities"),
    ],
)
def test_a_view_that_hides_what_is_compared_is_found_before_anything_is_loaded(options: Any, text: str) -> None:
    found = DistillationObjective.check({"views": ["full"], "features": [{"loss": "hint", **options}]}, SETTING)
    assert any(line.startswith(f"features[0].{text}") for line in found), found


@pytest.mark.parametrize(("student", "teacher"), [(1, 12), (4, 12), (3, 4), (12, 12), (6, 4), (5, 1)])
def test_even_layers_rise_from_within_and_end_with_the_last(student: int, teacher: int) -> None:
    found = list(even_layers(student, teacher).values())
    assert found == sorted(found)
    assert found[-1] == teacher
    assert found[0] >= 1
    assert all(abs(j - i * teacher / student) <= 0.5 or j == 1 for i, j in enumerate(found, 1))


def test_the_same_term_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sp/fused\.pooled is listed twice\. Give it one weight instead"):
        objective([{"loss": "sp", "student": "fused.pooled"}] * 2)


def test_a_teacher_that_offers_nothing_is_told() -> None:
    class Silent(LiveTeacher):
        feature_kinds: ClassVar[Any] = {}

    with pytest.raises(ValueError, match=r"teacher: it offers no 'fused\.pooled'\. It offers none"):
        objective([{"loss": "sp", "student": "fused.pooled"}], teacher=Silent(tiny_model(1, 16), DropMasker()))


def test_losses_of_several_layers_do_not_share_what_they_learn() -> None:
    built = objective([{"loss": "hint", "student": "fused.1.hidden"}, {"loss": "hint", "student": "image.1.hidden"}])
    first, second = (p.adaptor.inner.map.weight for p in built.features.pairs)
    assert first is not second
    assert not torch.equal(first, second)


def test_a_fused_sequence_of_another_length_is_refused() -> None:
    pair = Pair(FeatureTerm(Hint(), "fused.1.hidden"), "fused.1.hidden", "fused.1.hidden")
    with pytest.raises(ValueError, match=r"5 positions and the teacher 7, of several modalities\. Name the modalities one by one"):
        pair.prepare("hidden", torch.zeros(2, 5, 8), torch.zeros(2, 7, 8), None)
    pair = Pair(FeatureTerm(SimilarityPreserving(), "fused.1.hidden"), "fused.1.hidden", "fused.1.hidden")
    pair.prepare("hidden", torch.zeros(2, 5, 8), torch.zeros(2, 7, 8), None)


# ---- training ----


def test_what_terms_learn_is_saved_resumed_to_the_same_bits_and_no_part_of_the_student(tmp_path: Path) -> None:
    def runner(folder: Path, stop: int = 12) -> Any:
        made, recorder = tiny_runner(folder=folder, objective=objective(WIDER), save_at=frozenset({6}))
        resume(made)
        if stop < 12:
            emit = made.emit

            def stopping(event: str, *arguments: Any) -> None:
                emit(event, *arguments)
                if event == "on_step_end" and made.update == stop:
                    made.stop("")
                    raise KeyboardInterrupt

            made.emit = stopping
        return made, recorder

    whole, _ = runner(tmp_path / "whole")
    first = {n: p.clone() for n, p in whole.objective.features.named_parameters()}
    whole.fit()
    assert all(not torch.equal(first[n], p) for n, p in whole.objective.features.named_parameters())
    with pytest.raises(KeyboardInterrupt):
        runner(tmp_path / "cut", stop=8)[0].fit()
    cut, _ = runner(tmp_path / "cut")
    assert cut.update == 6
    cut.fit()
    ours, theirs = cut.objective.state_dict(), whole.objective.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    saved = read(tmp_path / "whole" / "last")
    assert any(name.startswith("features.pairs.0.adaptor") for name in saved.objective)
    assert set(saved.model) == set(tiny_model(0).state_dict())
