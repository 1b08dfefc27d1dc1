"""Examples that lack a modality: they are answered, taught, weighed and measured as in the view without it."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import PredictedBatches, Predictions, measure
from msd_framework.losses.dist import ClassRelations
from msd_framework.losses.features import Hint
from msd_framework.losses.logits import SoftenedKL
from msd_framework.maskers.base import Masker
from msd_framework.maskers.drop import DropMasker
from msd_framework.maskers.modality_dropout import modality_dropout
from msd_framework.metrics.classification import Accuracy
from msd_framework.objectives.agreement import AgreementObjective
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.features import FeatureTerm
from msd_framework.objectives.shown import targets_shown
from msd_framework.registry import MASKERS, WEIGHTINGS
from msd_framework.run import run
from msd_framework.saliency.base import scores_of
from msd_framework.saliency.prediction import DropSaliency
from msd_framework.saliency.shapley import ShapleySaliency
from msd_framework.structures import Batch, ModalityInputs, ModelOutput
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.ensemble import EnsembleTeacher, MeanOfTeachers
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import made_batch, take
from msd_framework.views import View
from msd_framework.weighting.base import Evidence, mean_of_shown
from msd_framework.weighting.normalise import ratio, softmax
from tests.runs import tiny_model
from tests.unit.models.test_models_contract import (
    EXACT,
    Case,
    build_model,
    every_model,
    example,
    make_inputs,
)

VIEWS: list[Any] = ["full", "image", "text"]


def without(x: ModalityInputs, row: int) -> ModalityInputs:
    """A modality that one example lacks: its special tokens at the front, and nothing else."""
    values, mask, extras = x.values.clone(), x.mask.clone(), {n: e.clone() for n, e in x.extras.items()}
    kept = (x.mask & x.special)[row].nonzero().flatten()
    mask[row], n = False, len(kept)
    mask[row, :n] = True
    if not values.is_floating_point():
        values[row, :n] = x.values[row, kept]
    else:
        values[row] = 0
    for name, extra in extras.items():
        extra[row] = 0
        extra[row, :n] = x.extras[name][row, kept]
    return ModalityInputs(values, mask, extras)


def lacking(batch: Batch, rows: dict[str, Sequence[int]]) -> Batch:
    """A batch in which some examples lack a modality, as a collator makes it."""
    inputs = dict(batch.inputs)
    for modality, those in rows.items():
        for row in those:
            inputs[modality] = without(inputs[modality], row)
    having = {m: x.present for m, x in inputs.items() if not x.present.all()}
    return replace(batch, inputs=inputs, having=having)


# Models


@every_model
def test_an_example_without_a_modality_is_answered_as_alone_in_the_view_without_it(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    for modality in model.modalities if len(model.modalities) > 1 else ():
        mixed = {**inputs, modality: without(inputs[modality], 0)}
        logits = model(mixed).logits
        alone = example(inputs, 0)
        hidden = DropMasker().hide(modality, alone[modality])
        shown = {m: hidden if m == modality else x for m, x in alone.items()}
        wanted = model({m: x for m, x in shown.items() if x is not None}).logits
        torch.testing.assert_close(logits[:1], wanted, atol=1e-9, rtol=0)
        torch.testing.assert_close(logits[1:], model(inputs).logits[1:], atol=EXACT, rtol=0)  # nor does it change the others


@every_model
def test_a_view_of_nothing_gives_finite_gradients_of_0(case: Case) -> None:
    model, inputs = build_model(case), make_inputs(case)
    for modality in model.modalities:
        model.zero_grad(set_to_none=True)
        seen = {modality: without(inputs[modality], 0)}
        logits = model.train()(seen).logits
        torch.where(torch.tensor([False, True, True, True])[:, None], logits, 0.0).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# Distillation


def students(
    batch: Batch, masker: Masker | None = None, views: Sequence[Any] = VIEWS, **options: Any
) -> tuple[DistillationObjective, Any]:
    masker = masker or DropMasker()
    objective = DistillationObjective(tiny_model(2), LiveTeacher(tiny_model(1, 16), masker), masker, list(views), **options)
    objective.eval()
    return objective, objective(batch)


ROWS: dict[str, Sequence[int]] = {"image": [1, 4], "text": [2]}


def own_views(row: int) -> list[str]:
    return ["full", *(m for m in ("image", "text") if row not in ROWS[m])]


@pytest.mark.parametrize("lam", [0.5, 1.0])
def test_the_loss_is_that_of_each_example_on_the_views_that_it_has(lam: float) -> None:
    batch = lacking(made_batch(6), ROWS)
    objective, output = students(batch, distill_weight=lam)
    wanted = []
    for row in range(6):
        alone, shown = take(batch, [row]), own_views(row)
        inputs = [objective.masker.view(alone, v).inputs for v in shown]
        mine, theirs = (m.forward_views(inputs).logits for m in (objective.model, objective.teacher.model))  # type: ignore[attr-defined]
        task = F.cross_entropy(mine[0], alone.targets)
        wanted.append((1 - lam) * task + lam * sum(SoftenedKL()(ModelOutput(s), ModelOutput(t)) for s, t in zip(mine, theirs)))
    torch.testing.assert_close(output.loss, torch.stack(wanted).mean(), atol=1e-12, rtol=0)
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in objective.model.parameters() if p.grad is not None)


def test_without_a_missing_modality_nothing_is_another_number() -> None:
    batch = made_batch(6)
    plain, marked = students(batch)[1], students(replace(batch, having={"image": torch.ones(6, dtype=torch.bool)}))[1]
    torch.testing.assert_close(plain.loss, marked.loss, atol=1e-12, rtol=0)


def test_the_log_has_means_over_the_examples_that_have_something_of_a_view() -> None:
    batch = lacking(made_batch(6), ROWS)
    terms = students(batch)[1].terms
    assert terms["weight/image"] == 1
    rows = [i for i in range(6) if i not in ROWS["image"]]
    whole = students(take(made_batch(6), rows))[1].terms  # what they lack beside plays no part in this view
    torch.testing.assert_close(terms["distill/image"], whole["distill/image"], atol=1e-12, rtol=0)


def test_a_loss_that_compares_examples_leaves_out_those_that_have_nothing() -> None:
    batch = lacking(made_batch(6), ROWS)
    objective, _ = students(batch, views=["image"], distill_loss=ClassRelations(), distill_weight=1.0)
    rows = [i for i in range(6) if i not in ROWS["image"]]
    inputs = [objective.masker.view(take(batch, rows), "image").inputs]
    student, teacher = objective.model.forward_views(inputs), objective.teacher.model.forward_views(inputs)  # type: ignore[attr-defined]
    wanted = ClassRelations()(ModelOutput(student.logits[0]), ModelOutput(teacher.logits[0])).sum() / 6
    torch.testing.assert_close(objective(batch).loss, wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", WEIGHTINGS.names())
def test_every_weighting_gives_finite_weights_and_none_to_a_view_of_nothing(name: str) -> None:
    facts = {"num_classes": 3, "task": "single_label"}
    weighting = WEIGHTINGS.build({"type": name}, facts=facts).double()
    seen: list[Tensor] = []
    forward = weighting.forward
    weighting.forward = lambda evidence: seen.append(forward(evidence)) or seen[-1]  # type: ignore[method-assign,func-returns-value]
    batch = lacking(made_batch(6), ROWS)
    masker = DropMasker()
    objective = DistillationObjective(
        tiny_model(2), LiveTeacher(tiny_model(1, 16), masker), masker, list(VIEWS), weighting=weighting
    ).double()
    if objective.needs_fit:
        objective.fit([batch])
    output = objective(batch)
    shown = targets_shown(batch, objective.views, objective.teacher, objective.model.modalities)
    assert shown is not None
    weights = seen[0] if seen[0].ndim == 2 else seen[0][:, None].expand(3, 6)
    assert weights.isfinite().all()
    if name in ("instance", "teacher_loss", "population"):  # whose mean is 1 over the views of a modality that an example has
        assert weights[1:][~shown[1:]].eq(0).all()
        torch.testing.assert_close(weights[1:].sum(0), shown[1:].sum(0).to(weights), atol=1e-6, rtol=0)
    assert output.loss.isfinite()
    assert all(value.isfinite() for value in output.terms.values())
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None)


def test_scores_of_views_that_are_shown_are_shared_out_among_them() -> None:
    scores, shown = torch.tensor([[1.0, 9.0, 2.0], [3.0, 1.0, 2.0]]), torch.tensor([[True, False, False], [True, True, False]])
    assert ratio(scores, shown=shown).tolist() == [[0.5, 0, 0], [1.5, 1, 0]]
    found = softmax(scores, 1.0, shown=shown)
    assert found[:, 1].tolist() == [0, 1]
    assert found[:, 2].tolist() == [0, 0]
    torch.testing.assert_close(found[:, 0], softmax(scores[:, :1], 1.0)[:, 0])


def test_a_crossmodal_view_needs_both_sides() -> None:
    batch = lacking(made_batch(6), ROWS)
    objective, _ = students(batch, views=[{"teacher": "text", "student": "image"}])
    shown = objective.shown_in(batch, View("text", "image"))
    assert shown is not None
    assert shown.tolist() == [True, False, False, True, False, True]


def test_what_goes_on_inside_is_not_compared_where_there_is_nothing() -> None:
    batch = lacking(made_batch(6), {"image": [1]})
    terms = [FeatureTerm(Hint(), "image.1.hidden")]
    masker = DropMasker()
    objective = DistillationObjective(tiny_model(2), LiveTeacher(tiny_model(1, 16), masker), masker, list(VIEWS), features=terms)
    objective.dry_run(batch)
    values: list[Tensor] = []
    pair = objective.features.pairs[0]
    pair.register_forward_hook(lambda module, inputs, output: values.append(output))
    output = objective.double()(batch)
    (name,) = (key for key in output.terms if key.startswith("feature/"))
    kept = values[0][[0, 2, 3, 4, 5]].sum() / 6
    torch.testing.assert_close(output.terms[name], kept.detach(), atol=1e-12, rtol=0)


def test_agreement_asks_each_example_about_the_modalities_that_it_has() -> None:
    batch = lacking(made_batch(6), ROWS)
    objective = AgreementObjective(tiny_model(2), DropMasker())
    loss = objective.eval()(batch).loss
    wanted = torch.zeros((), dtype=torch.float64)
    for row in range(6):
        alone = take(batch, [row])
        logits = {m: objective.model(objective.masker.view(alone, m).inputs).logits for m in own_views(row)[1:]}
        wanted = wanted + sum(F.cross_entropy(z, alone.targets) for z in logits.values())
        if len(logits) == 2:
            wanted = wanted + (logits["image"] - logits["text"]).square().mean()
    torch.testing.assert_close(loss, wanted / 6, atol=1e-12, rtol=0)


# Saliency


@pytest.mark.parametrize("lacks", [torch.nan, 0.0])
def test_a_modality_that_is_missing_has_no_saliency(lacks: float) -> None:
    batch = lacking(made_batch(6), ROWS)
    masker = DropMasker()
    teacher = LiveTeacher(tiny_model(1, 16), masker)
    for saliency in (DropSaliency(), ShapleySaliency()):
        views = saliency.views(teacher.modalities)
        said = dict(zip(views, map(ModelOutput, teacher.predict(batch, views).logits)))
        scores = scores_of(saliency, said, batch, teacher.modalities, lacks)
        missing = torch.tensor([[i in ROWS[m] for m in ("image", "text")] for i in range(6)])
        assert scores[~missing].isfinite().all()
        assert scores[missing].isnan().all() if math.isnan(lacks) else scores[missing].eq(0).all()


def test_shapley_values_of_an_example_with_one_modality_are_the_full_effect_of_it() -> None:
    batch = lacking(made_batch(6), ROWS)
    saliency, masker = ShapleySaliency("loss"), DropMasker()
    teacher = LiveTeacher(tiny_model(1, 16), masker)
    views = saliency.views(teacher.modalities)
    said = dict(zip(views, map(ModelOutput, teacher.predict(batch, views).logits)))
    scores = scores_of(saliency, said, batch, teacher.modalities, 0.0)
    effect = math.log(3) - F.cross_entropy(said["full"].logits, batch.targets, reduction="none")
    torch.testing.assert_close(scores.sum(1), effect, atol=1e-9, rtol=0)


# Maskers


@pytest.mark.parametrize("name", MASKERS.names())
def test_the_view_without_what_an_example_lacks_is_its_full_view(name: str) -> None:
    spec: dict[str, Any] = {"type": name}
    if name == "by_modality":
        spec |= {"maskers": {"image": "constant"}, "otherwise": "other"}
    if name == "mean":
        spec = {"type": "by_modality", "maskers": {"image": "mean"}, "otherwise": "drop"}
    masker = MASKERS.build(spec, facts={"vocab_size": 20, "pad_id": 0})
    batch = lacking(made_batch(6), {"image": [1, 4], "text": [2, 3]})
    if masker.needs_fit:
        masker.fit([batch])
    for module in masker.modules():
        module.eval()
    model = tiny_model(3).eval()
    full = model(batch.inputs).logits
    for hidden, shown, rows in (("image", "text", [1, 4]), ("text", "image", [2, 3])):
        seen = masker.view(batch, shown).inputs
        seen = {m: replace(x, values=x.values.double()) if x.values.is_floating_point() else x for m, x in seen.items()}
        logits = model(seen).logits
        torch.testing.assert_close(logits[rows], full[rows], atol=1e-9, rtol=0, msg=f"{hidden} hidden")
        others = [i for i in range(6) if i not in rows]
        assert not torch.isclose(logits[others], full[others]).all(1).any()


@pytest.mark.parametrize("probability", [0.5, 0.3])
def test_modality_dropout_never_hides_the_last_modality(probability: float) -> None:
    torch.manual_seed(0)
    batch = lacking(made_batch(200), {"image": list(range(60)), "text": list(range(60, 120))})
    seen = modality_dropout(batch, probability)
    some = torch.stack([x.present for x in seen.inputs.values()]).any(0)
    assert some.all()
    assert not seen.inputs["image"].present[120:].all()


def test_modality_dropout_of_three_never_hides_the_last_modality() -> None:
    torch.manual_seed(0)
    made = made_batch(300)
    whole = replace(made, inputs={**made.inputs, "sound": made_batch(300, seed=1).inputs["image"]})
    batch = lacking(whole, {"image": list(range(200)), "sound": list(range(100)), "text": list(range(100, 250))[:0]})
    seen = modality_dropout(batch, 1 / 3)
    assert torch.stack([x.present for x in seen.inputs.values()]).any(0).all()


# Several teachers


def test_a_teacher_is_not_listened_to_where_it_sees_nothing() -> None:
    class Says(Teacher):
        def __init__(self, modalities: tuple[str, ...], logits: Tensor):
            self.modalities, self.num_classes, self.logits = modalities, 3, logits

        def predict(self, batch: Batch, views: Sequence[str], shown: Any = None) -> ModelOutput:
            return ModelOutput(self.logits.expand(len(views), len(batch), 3))

    batch = lacking(made_batch(4), {"text": [2]})
    both, text = Says(("image", "text"), torch.tensor([2.0, 0, 0])), Says(("text",), torch.tensor([0, 0, 3.0]))
    found = EnsembleTeacher([both, text], MeanOfTeachers()).predict(batch, ["full"]).logits[0].softmax(-1)
    torch.testing.assert_close(found[2], torch.tensor([2.0, 0, 0]).softmax(-1))
    mean = (torch.tensor([2.0, 0, 0]).softmax(-1) + torch.tensor([0, 0, 3.0]).softmax(-1)) / 2
    torch.testing.assert_close(found[0], mean)


# Evaluation


def test_a_view_is_measured_on_the_examples_of_which_it_shows_something() -> None:
    batch = lacking(made_batch(6), ROWS)
    logits = torch.eye(3)[batch.targets] * 4
    wrong = logits.roll(1, 1)
    said = torch.stack([logits, torch.where(batch.having["image"][:, None], logits, wrong)])

    def ask(part: Batch, views: Sequence[str]) -> Tensor:
        return said

    found = PredictedBatches(ask, [batch], ["full", "image"], World(), modalities=("image", "text"))
    assert measure(found, {"accuracy": Accuracy()}) == {"accuracy": 1.0, "image/accuracy": 1.0}
    everyone = PredictedBatches(ask, [batch], ["full", "image"], World())
    assert measure(everyone, {"accuracy": Accuracy()})["image/accuracy"] == pytest.approx(4 / 6)
    assert found.together().shown["image"].tolist() == [True, False, True, True, False, True]


def test_a_view_that_shows_nothing_of_any_example_has_no_metric() -> None:
    nothing = Predictions(
        torch.arange(2), torch.tensor([0, 1]), {"full": torch.eye(2), "image": torch.eye(2)}, {"image": torch.tensor([False] * 2)}
    )
    found = measure(nothing, {"accuracy": Accuracy()})
    assert found["accuracy"] == 1
    assert math.isnan(found["image/accuracy"])


def test_means_of_what_is_shown() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0], [3.0, 9.0, 9.0]])
    assert mean_of_shown(values, None).tolist() == values.mean(1).tolist()
    assert mean_of_shown(values, torch.tensor([[True, False, True], [False] * 3])).tolist() == [2.5, 0]
    assert Evidence((), (), values, values, values, values, None, values).mean(values).tolist() == values.mean(1).tolist()


# Runs


@pytest.fixture(scope="module")
def poor_world(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of which one in each split has no photo and one has no text."""
    root = tmp_path_factory.mktemp("poor") / "world"
    shutil.copytree(tiny_world, root)
    for file in root.glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows[3] |= {"img": None, "text": f"the day of {file.stem}"}  # what two splits share would be refused
        rows[5]["text"] = None
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="module")
def poor_config(poor_world: Path, tiny_config: Path) -> Path:
    dataset = f"{{type: jsonl, root: {poor_world}, texts: {{text: text}}, images: {{image: img}}, label: label, id_column: id}}"
    dataset = dataset.replace("label: label", "label: label, classes: [0, 1]")
    path = poor_world.parent / "poor.yaml"
    known = f"{{type: hateful_memes, root: {tiny_config.parent / 'world'}}}"
    path.write_text(tiny_config.read_text().replace(known, dataset) + "evaluation: {views: [full, image, text]}\n")
    return path


@pytest.fixture(scope="module")
def poor_teacher(poor_config: Path) -> Path:
    folder = poor_config.parent / "teacher"
    run(poor_config, [f"env.save_dir={folder}", "objective.modality_dropout=0.3"])
    return folder


@pytest.mark.parametrize("cache", ["false", "true"])
def test_a_teacher_and_a_student_learn_from_rows_that_lack_a_modality(
    poor_config: Path, tmp_path: Path, cache: str, poor_teacher: Path
) -> None:
    words = ["objective={type: distillation, views: [full, image, text], weighting: instance}", "training.max_updates=6"]
    words += [f"teacher.checkpoint={poor_teacher}", f"data.processors_from={poor_teacher}", f"teacher.cache={cache}"]
    words += [f"teacher.cache_dir={tmp_path / 'caches'}", "training.log_every=1", f"env.save_dir={tmp_path / 'out'}"]
    report = run(poor_config, words)
    assert report["lacking"] == {use: {"image": 1, "text": 1} for use in ("train", "validation", "test")}
    assert "1 test example has no text." in (tmp_path / "out" / "report.md").read_text()
    with (tmp_path / "out" / "predictions_test_seen.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert [i for i, row in enumerate(rows) if row["image/0"] == ""] == [3]
    assert [i for i, row in enumerate(rows) if row["text/0"] == ""] == [5]
    assert all(row["0"] for row in rows)
    # without what it lacks, an example is what its other view shows
    assert [rows[3]["0"], rows[5]["0"]] == [rows[3]["text/0"], rows[5]["image/0"]]
    logged = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line["train/loss"]) for line in logged if "train/loss" in line)


def test_a_cached_teacher_teaches_what_a_live_one_does(poor_config: Path, tmp_path: Path, poor_teacher: Path) -> None:
    def losses(cache: str) -> list[float]:
        words = ["objective={type: distillation, views: [full, image, text]}", "training.log_every=1", f"teacher.cache={cache}"]
        words += [f"teacher.checkpoint={poor_teacher}", f"data.processors_from={poor_teacher}", "training.max_updates=4"]
        run(poor_config, [*words, f"teacher.cache_dir={tmp_path / 'caches'}", f"env.save_dir={tmp_path / cache}"])
        lines = map(json.loads, (tmp_path / cache / "metrics.jsonl").read_text().splitlines())
        return [line["train/loss"] for line in lines if "train/loss" in line]

    assert losses("true") == pytest.approx(losses("false"), abs=1e-3)  # answers are stored in 16 bits


def test_a_model_of_the_missing_modality_alone_is_told_the_row(poor_config: Path, tmp_path: Path) -> None:
    from msd_framework.errors import DataError

    model = "model={type: unimodal_image, encoder: {type: patches, patch_size: 4, hidden_size: 8}}"
    words = [model, "evaluation.views=[full]", f"env.save_dir={tmp_path / 'out'}"]
    with pytest.raises(DataError, match=r"\.jsonl:4: the example '\d003' has no image, and nothing else is read of it"):
        run(poor_config, words)
    report = run(poor_config, [*words, "data.on_error=skip"])
    assert len(report["skipped"]) == 3
