"""Views that show another row's modality, or a mixture: against batches made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from msd_framework.losses.decoupled import DecoupledKL
from msd_framework.losses.logits import SoftenedKL
from msd_framework.maskers.base import Views
from msd_framework.maskers.drop import DropMasker
from msd_framework.maskers.mixture import mixture
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.features import FeatureTerm
from msd_framework.registry import FEATURE_LOSSES
from msd_framework.structures import Batch, DatasetInfo, ModalityInputs, Setting
from msd_framework.teachers.ensemble import MeanOfTeachers, names_by_teacher
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import made_batch
from msd_framework.weighting.fixed import FixedWeights
from msd_framework.weighting.saliency import InstanceWeights
from tests.runs import tiny_model


def by_hand(batch: Batch, image: int, text: int) -> dict[str, ModalityInputs]:
    """Each example with the image and the text of the rows that stand so many rows above."""
    rows = {"image": image, "text": text}
    return {
        m: ModalityInputs(x.values.roll(k, 0), x.mask.roll(k, 0), {n: e.roll(k, 0) for n, e in x.extras.items()})
        for (m, x), k in zip(batch.inputs.items(), rows.values())
    }


def objective(views: list[Any], **options: Any) -> DistillationObjective:
    masker = DropMasker()
    return DistillationObjective(tiny_model(2), LiveTeacher(tiny_model(1, 16), masker), masker, views, **options)


@pytest.mark.parametrize(("view", "image", "text"), [("image+text*", 0, 1), ("image*+text", 1, 0), ("image*+text**", 1, 2)])
def test_a_view_shows_each_modality_of_the_row_that_its_name_says(view: str, image: int, text: int) -> None:
    batch = made_batch(6).paired(["*", "**"])
    shown = DropMasker().view(batch, view).inputs
    for modality, wanted in by_hand(batch, image, text).items():
        torch.testing.assert_close(shown[modality].values, wanted.values)
        assert torch.equal(shown[modality].mask, wanted.mask)
        assert torch.equal(shown[modality].special, wanted.special)


def test_the_loss_is_the_weighted_sum_over_views_whose_rows_were_made_by_hand() -> None:
    weights = {"image+text*": 0.5, "text": 2.0}
    made = objective(
        ["full", "image+text*", "text"], distill_weight=0.25, distill_loss=SoftenedKL(2.0), weighting=FixedWeights(weights)
    )
    batch = made_batch(6).paired(["*"])
    student, teacher = made.model, made.teacher.model
    wanted = 0.75 * F.cross_entropy(student(batch.inputs).logits, batch.targets)
    of_text = {"text": batch.inputs["text"]}
    for inputs, weight in ((batch.inputs, 1.0), (by_hand(batch, 0, 1), 0.5), (of_text, 2.0)):
        hidden = DropMasker().view(batch, "text").inputs if inputs is of_text else inputs
        log_q, p = (student(hidden).logits / 2).log_softmax(-1), (teacher(hidden).logits / 2).softmax(-1)
        wanted = wanted + 0.25 * weight * 4 * F.kl_div(log_q, p, reduction="batchmean")
    torch.testing.assert_close(made(batch).loss, wanted)


def test_nobody_knows_the_label_of_two_rows_made_one() -> None:
    batch = made_batch(6).paired(["*"])
    loss = DecoupledKL()
    made = objective(["image+text*"], distill_weight=1.0, distill_loss=loss)
    mixed = by_hand(batch, 0, 1)
    wanted = loss(made.model(mixed), made.teacher.model(mixed)).mean()
    torch.testing.assert_close(made(batch).loss, wanted)
    assert not torch.allclose(loss(made.model(mixed), made.teacher.model(mixed), batch.targets).mean(), wanted)


def test_no_part_of_the_loss_looks_at_the_label_of_two_rows_made_one() -> None:
    loss = FEATURE_LOSSES.build("fd_cmkd", num_classes=3, task="single_label")
    term = FeatureTerm(loss, student="fused.pooled", teacher="fused.pooled", view="image+text*")
    made = objective(["image+text*", "text"], features=[term])
    batch = made_batch(4).paired(["*"])
    other = replace(batch, targets=(batch.targets + 1) % 3)
    made.double().dry_run(batch)
    name = next(n for n in made(batch).terms if n.startswith("feature/"))
    torch.testing.assert_close(made(batch).terms[name], made(other).terms[name])
    for one in (batch, other):
        teacher, _ = made.teacher_outputs(Views(made.masker, one))
        losses = made.evidence(one, teacher, torch.zeros(2, 4, 3), torch.zeros(2, 4), None).teacher_losses
        assert losses[0].tolist() == [0] * 4
        torch.testing.assert_close(losses[1], F.cross_entropy(teacher["text"].logits, one.targets, reduction="none"))


def test_saliency_weighs_the_views_of_the_example_alone() -> None:
    made = objective(["full", "image", "text", "image+text*"], weighting=InstanceWeights(full_weight=3.0))
    terms = made(made_batch(6).paired(["*"])).terms
    assert terms["weight/full"] == terms["weight/image+text*"] == 3.0
    assert float(terms["weight/image"] + terms["weight/text"]) == pytest.approx(2.0)


def test_an_example_that_meets_a_row_without_a_text_is_taught_on_what_is_left() -> None:
    batch = made_batch(4).paired(["*"])
    lacks = torch.tensor([True, False, True, True])
    other = replace(batch.others["*"], having={"text": lacks})
    lacking = replace(batch, others={"*": other}, having={"image": torch.tensor([False, False, True, True])})
    assert lacking.shown("image+text*", ("image", "text")).tolist() == [True, False, True, True]
    assert lacking.shown("image+text", ("image", "text")) is None


def test_of_a_batch_that_lacks_nothing_a_row_that_is_met_may() -> None:
    batch, nothing = made_batch(4).paired(["*"]), torch.zeros(4, dtype=torch.bool)
    batch = replace(batch, others={"*": replace(batch.others["*"], having={"text": nothing})})
    view = {"teacher": "image", "student": "text*"}
    assert float(objective([view])(batch).terms["distill/image>text*"]) == 0
    assert float(objective([view])(made_batch(4).paired(["*"])).terms["distill/image>text*"]) > 0


def test_intermediates_are_compared_where_the_row_that_is_shown_has_the_modality() -> None:
    term = FeatureTerm(FEATURE_LOSSES.build("hint"), student="text.1.hidden", teacher="text.1.hidden", view="image+text*")
    made = objective(["full"], features=[term])
    batch = made_batch(4).paired(["*"])
    made.dry_run(batch)
    name = next(n for n in made(batch).terms if n.startswith("feature/"))
    whole = made(batch).terms[name]
    none = replace(batch, others={"*": replace(batch.others["*"], having={"text": torch.zeros(4, dtype=torch.bool)})})
    assert float(whole) > 0
    assert float(made(none).terms[name]) == 0


def test_a_mixture_adds_pixels_and_takes_a_text_whole() -> None:
    batch = made_batch(3)
    other = by_hand(batch, 1, 1)
    share = torch.tensor([0.7, 0.2, 0.5], dtype=torch.float64)
    image = mixture(batch.inputs["image"], other["image"], share)
    wanted = share[:, None, None] * batch.inputs["image"].values + (1 - share)[:, None, None] * other["image"].values
    torch.testing.assert_close(image.values, wanted)
    assert torch.equal(image.mask, batch.inputs["image"].mask | other["image"].mask)
    text = mixture(batch.inputs["text"], other["text"], share)
    assert torch.equal(text.values[0], batch.inputs["text"].values[0])
    assert torch.equal(text.values[1], other["text"].values[1])
    assert torch.equal(text.mask[1], other["text"].mask[1])
    assert torch.equal(text.special[1], other["text"].special[1])


def test_texts_of_two_lengths_are_mixed() -> None:
    short = ModalityInputs(torch.tensor([[2, 9, 3], [2, 8, 3]]), torch.ones(2, 3, dtype=torch.bool))
    long = ModalityInputs(torch.tensor([[2, 7, 7, 7, 3], [2, 6, 6, 6, 3]]), torch.ones(2, 5, dtype=torch.bool))
    mixed = mixture(short, long, torch.tensor([0.9, 0.1]))
    assert mixed.values.tolist() == [[2, 9, 3, 0, 0], [2, 6, 6, 6, 3]]
    assert mixed.mask.sum(1).tolist() == [3, 5]


@pytest.mark.parametrize("mine", [True, False])
@pytest.mark.parametrize("theirs", [True, False])
@pytest.mark.parametrize("share", [0.9, 0.1])
def test_a_mixture_shows_a_modality_just_where_it_has_content(mine: bool, theirs: bool, share: float) -> None:
    def lacking(batch: Batch, there: bool) -> Batch:
        inputs = {m: replace(x, mask=x.mask & (x.special | there)) for m, x in batch.inputs.items()}
        return replace(batch, inputs=inputs, having={} if there else dict.fromkeys(inputs, torch.zeros(2, dtype=torch.bool)))

    own, other = lacking(made_batch(2), mine), lacking(made_batch(2, seed=1), theirs)
    rows = own.mixed_with(replace(other, own_share=torch.full((2,), share)), own.token_inputs)
    batch = replace(own, others={"^": rows})
    for modality in ("image", "text"):
        has_content = DropMasker().view(batch, f"{modality}^").inputs[modality].present
        shown = batch.shown(f"{modality}^", ("image", "text"))
        assert torch.equal(torch.ones(2, dtype=torch.bool) if shown is None else shown, has_content)
    text = batch.others["^"].having.get("text")
    assert (text is None or bool(text.all())) is (mine if share > 0.5 else theirs)


def test_mixtures_out_of_a_batch_itself_say_what_they_have() -> None:
    having = torch.tensor([True, False, True])
    batch = replace(made_batch(3), having={"image": having, "text": having}).paired(["^"])
    rows = batch.others["^"]
    assert rows.own_share is not None
    assert torch.equal(rows.having["image"], having | having.roll(1))
    assert torch.equal(rows.having["text"], torch.where(rows.own_share >= 0.5, having, having.roll(1)))


def test_a_teacher_of_one_modality_is_asked_about_the_row_that_it_sees() -> None:
    modalities = [("image", "text"), ("text",), ("image",)]
    assert names_by_teacher("image+text*", modalities, MeanOfTeachers()) == {0: "image+text*", 1: "text*", 2: "full"}
    assert names_by_teacher("image^+text^", modalities, MeanOfTeachers()) == {0: "image^+text^", 1: "text^", 2: "image^"}


SETTING = Setting(
    DatasetInfo({"image": "features", "text": "tokens"}, 3, "single_label"),
    ("image", "text"),
    ("image", "text"),
    {"image": "features", "text": "tokens"},
)


@pytest.mark.parametrize(
    ("views", "wanted"),
    [
        (["image+text+text*"], "views[0]: view 'image+text+text*' names a modality twice."),
        (["image*+image+text"], "views[0]: view 'image*+image+text' names a modality twice."),
        (["full*"], "views[0]: view 'full*': full shows every modality of the example, so it stands alone. Name modalities"),
        (["full+text*"], "views[0]: view 'full+text*': full shows every modality of the example, so it stands alone."),
        (
            [{"teacher": "image+text*", "student": "image+text"}],
            "views[0]: view 'image+text*>image+text' shows the teacher another row's text than the student. Mark it alike",
        ),
        (
            [{"teacher": "text*", "student": "image"}],
            "views[0]: view 'text*>image' shows the teacher other rows than the student. Let both see something of one row.",
        ),
        (["image*+text*"], "views[0]: view 'image*+text*' shows other rows alone. Leave the * of one modality out."),
        (["~text*"], "views[0]: view '~text*' hides another row's modality. Name what it shows, such as image+text*."),
        (["image+txt*"], "views[0]: view 'image+txt*' names 'txt', which is not one of the modalities image, text. Did you mean"),
        (["image+text*^"], "views[0]: view 'image+text*^': after text stands '*^', wanted *, ** and so on, or ^."),
        (["image+text*@1"], "views[0]: view 'image+text*@1' has a @, which names in a teacher cache have. Leave it out."),
        (["image+text*", "text*+image"], "views[1]: 'text*+image' shows the same as 'image+text*'."),
    ],
)
def test_a_view_that_cannot_be_shown_is_a_sentence(views: list[Any], wanted: str) -> None:
    problems = DistillationObjective.check({"views": views}, SETTING)
    assert len(problems) == 1
    assert problems[0].startswith(wanted)


@pytest.mark.parametrize("student", ["image", "image+text*"])
def test_teacher_and_student_may_see_more_or_less_of_the_same_rows(student: str) -> None:
    assert not DistillationObjective.check({"views": [{"teacher": "image+text*", "student": student}]}, SETTING)


def test_intermediates_of_different_rows_are_not_compared() -> None:
    view = {"teacher": "image+text*", "student": "image+text"}
    problems = FeatureTerm.check({"student": "image.pooled", "view": view}, SETTING)
    assert [problem.partition(" than")[0] for problem in problems] == [
        "view: view 'image+text*>image+text' shows the teacher another row's text"
    ]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["full", "full", "image"], "task_views[1]: 'full' is listed twice."),
        (["full", "image", "~text"], "task_views[2]: '~text' shows the same as 'image'."),
    ],
)
def test_a_view_that_would_count_twice_for_the_label_is_refused(names: list[str], wanted: str) -> None:
    assert DistillationObjective.check({"views": ["full"], "task_views": names}, SETTING) == [wanted]


def test_a_batch_without_other_rows_says_how_to_get_them() -> None:
    with pytest.raises(ValueError, match=r"call batch\.paired\(\['\*'\]\) first"):
        objective(["image+text*"])(made_batch(4))


def test_labels_are_learned_on_every_view_that_is_named_for_them() -> None:
    batch = made_batch(6)
    made = objective(["full"], distill_weight=0.25, task_views=["full", "text"])
    text = DropMasker().view(batch, "text").inputs
    labels = F.cross_entropy(made.model(batch.inputs).logits, batch.targets) + F.cross_entropy(
        made.model(text).logits, batch.targets
    )
    log_q, p = made.model(batch.inputs).logits.log_softmax(-1), made.teacher.model(batch.inputs).logits.softmax(-1)
    torch.testing.assert_close(made(batch).loss, 0.75 * labels / 2 + 0.25 * F.kl_div(log_q, p, reduction="batchmean"))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("image+text*", "view 'image+text*' shows another row's modality, and such a row has no label"), ("audio", "names 'audio'")],
)
def test_a_view_that_has_no_label_teaches_none(name: str, wanted: str) -> None:
    (problem,) = DistillationObjective.check({"views": ["full"], "task_views": [name]}, SETTING)
    assert problem.startswith("task_views[0]: view")
    assert wanted in problem
