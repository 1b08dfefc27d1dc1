"""Several targets an example, as the tokens of an answer are; and the refusal of a row of logits for each position of a text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from msd_framework.analysis.doctor import models as doctor
from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import PredictedBatches, Predictions, measure
from msd_framework.engine.prediction_table import PredictionTable
from msd_framework.errors import ConfigError
from msd_framework.losses.base import DistillationLoss
from msd_framework.maskers.drop import DropMasker
from msd_framework.metrics.classification import Accuracy
from msd_framework.metrics.fidelity import compare
from msd_framework.models.base import MultimodalModel
from msd_framework.objectives.agreement import AgreementObjective
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.supervised import SupervisedObjective
from msd_framework.registry import DISTILLATION_LOSSES, WEIGHTINGS
from msd_framework.saliency.base import scores_of
from msd_framework.saliency.prediction import DropSaliency
from msd_framework.structures import Batch, DatasetInfo, Inputs, ModalityInputs, ModelOutput
from msd_framework.teachers.live import LiveTeacher
from msd_framework.weighting.base import Evidence, WeightingStrategy

NUM_WORDS, CLASSES = 11, 5
SIZES = [3, 1, 2]
PADDED = [3, 3, 3]


class Writer(MultimodalModel):
    """A made model that writes answers: from image, question and the answer so far it predicts each token of the answer.

    Args:
        seed: of its weights.
        by_position: whether it gives [B, T, C], with a row for each position of the answer, where [N, C] is wanted.
    """

    def __init__(self, seed: int = 0, by_position: bool = False):
        super().__init__()
        self.modalities, self.num_classes, self.by_position = ("image", "text"), CLASSES, by_position
        torch.manual_seed(seed)
        self.words, self.image, self.head = nn.Embedding(NUM_WORDS, 8), nn.Linear(4, 8), nn.Linear(8, CLASSES)
        self.double()

    @classmethod
    def modalities_of(cls, options) -> tuple[str, ...]:
        return ("image", "text")

    def forward(self, inputs: Inputs) -> ModelOutput:
        answer = inputs["answer"]
        hidden = self.words(answer.values).cumsum(1)  # [B, T, D]
        if "image" in inputs:
            hidden = hidden + self.image(inputs["image"].values).mean(1, keepdim=True)
        if "text" in inputs:
            hidden = hidden + self.words(inputs["text"].values).mean(1, keepdim=True)
        logits = self.head(hidden.tanh())
        return ModelOutput(logits if self.by_position else logits[answer.mask])


def answers(sizes: list[int] = SIZES, lengths: list[int] | None = None, seed: int = 0) -> Batch:
    """Examples with an image, a question and an answer.

    Args:
        sizes: how many tokens each answer has.
        lengths: how many targets each example has, padding of -100 included.
        seed: what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = lengths or sizes
    longest, num_examples = max(lengths), len(sizes)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    is_padding = (torch.arange(longest) >= torch.tensor(sizes)[:, None])[mask]
    words = torch.randint(NUM_WORDS, (num_examples, longest), generator=generator)
    question = torch.randint(NUM_WORDS, (num_examples, 4), generator=generator)
    image = torch.randn(num_examples, 2, 4, generator=generator, dtype=torch.float64)
    inputs = {
        "answer": ModalityInputs(words, mask),
        "image": ModalityInputs(image, torch.ones(num_examples, 2, dtype=torch.bool)),
        "text": ModalityInputs(question, torch.ones(num_examples, 4, dtype=torch.bool)),
    }
    targets = torch.randint(CLASSES, mask.shape, generator=generator)[mask].masked_fill(is_padding, -100)
    ids = tuple(f"example {i}" for i in range(num_examples))
    return Batch(inputs, targets, ids, example_of=torch.arange(num_examples).repeat_interleave(torch.tensor(lengths)))


class KeepAnswer(DropMasker):
    """Shows the answer up to each token on every view, to student and teacher."""

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        return inputs if modality == "answer" else super().hide(modality, inputs)


def ask(model: MultimodalModel):
    masker = KeepAnswer()
    return lambda batch, views: model.forward_views([masker.view(batch, view).inputs for view in views]).logits


def by_example(values: Tensor, batch: Batch) -> list[Tensor]:
    """The values of each example's targets that are no padding."""
    return [values[(batch.example_of == i) & (batch.targets != -100)] for i in range(len(batch))]


# Several targets an example


def test_the_mean_of_targets_is_the_mean_over_each_examples_own_that_are_no_padding() -> None:
    batch = answers(SIZES, PADDED)
    values = torch.rand(2, 9, dtype=torch.float64)
    wanted = torch.stack([torch.stack([v.mean() for v in by_example(row, batch)]) for row in values])
    torch.testing.assert_close(batch.mean_of_targets(values), wanted, rtol=0, atol=1e-12)


def test_values_of_examples_are_spread_to_their_targets() -> None:
    assert answers().spread(torch.tensor([[5, 6, 7]])).tolist() == [[5, 5, 5, 6, 7, 7]]


def test_saliency_is_one_row_a_target_and_that_of_the_same_predictions_of_a_classifier() -> None:
    batch, saliency = answers(SIZES, PADDED), DropSaliency()
    views = saliency.views(["image", "text"])
    outputs = {view: ModelOutput(torch.randn(9, CLASSES, dtype=torch.float64)) for view in views}
    scores = scores_of(saliency, outputs, batch, ["image", "text"])
    assert scores.shape == (9, 2)
    assert scores.isnan().all(1).tolist() == (batch.targets == -100).tolist()
    alone = saliency({v: ModelOutput(o.logits[:1]) for v, o in outputs.items()}, batch.targets[:1], ["image", "text"])
    torch.testing.assert_close(scores[:1], alone)


def test_a_modality_that_an_example_lacks_has_no_score_at_any_of_its_targets() -> None:
    saliency, having = DropSaliency(), torch.tensor([True, False, True])
    batch = answers()
    batch = Batch(batch.inputs, batch.targets, batch.ids, having={"image": having}, example_of=batch.example_of)
    outputs = {view: ModelOutput(torch.randn(6, CLASSES)) for view in saliency.views(["image", "text"])}
    scores = scores_of(saliency, outputs, batch, ["image", "text"])
    assert scores[:, 0].isnan().tolist() == [False, False, False, True, False, False]
    assert not scores[:, 1].isnan().any()


def test_evaluation_measures_every_target_that_is_no_padding_and_counts_examples() -> None:
    model = Writer().eval()
    batches = [answers(SIZES, PADDED), answers([4, 2], seed=1)]
    found = PredictedBatches(ask(model), batches, ["full", "text"], World()).together()
    assert found.places.tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 4, 4]
    right = [(model(b.inputs).logits.argmax(1) == b.targets)[b.targets != -100] for b in batches]
    assert measure(found, {"accuracy": Accuracy()})["accuracy"] == pytest.approx(torch.cat(right).double().mean().item())


def test_what_stands_at_padding_changes_no_metric() -> None:
    batch = answers(SIZES, PADDED)
    padding = (batch.targets == -100)[:, None]

    def with_padding_of(value: float):
        def logits(batch: Batch, views) -> Tensor:
            z = ask(Writer())(batch, views)
            return torch.where(padding, value, z)

        return measure(PredictedBatches(logits, [batch], ["full"], World()).together(), {"accuracy": Accuracy()})

    assert with_padding_of(0.0) == with_padding_of(9.0)


# The objective


LAM = 0.3
VIEWS = ["full", "text", {"teacher": "full", "student": "image"}]
SIDES = [("full", "full"), ("text", "text"), ("full", "image")]
"""What teacher and student see in each of the views."""


def distillation(
    student: Writer, teacher: Writer, weighting: WeightingStrategy | None, loss: DistillationLoss | None = None
) -> DistillationObjective:
    masker = KeepAnswer()
    return DistillationObjective(student, LiveTeacher(teacher, masker), masker, VIEWS, LAM, loss, weighting=weighting)


def seen(model: Writer, batch: Batch, view: str) -> Tensor:
    """The probabilities of a view, [N, C]."""
    return model(KeepAnswer().view(batch, view).inputs).logits.softmax(1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(-1)


def by_hand(batch: Batch, weights: Tensor, student: Writer, teacher: Writer) -> Tensor:
    """The loss target by target: the mean over examples of the mean over their targets, with weights [V, N]."""
    p, q = ({view: seen(model, batch, view) for view in ("full", "image", "text")} for model in (teacher, student))
    examples = []
    for i in range(len(batch)):
        values = []
        for n, (example, y) in enumerate(zip(batch.example_of.tolist(), batch.targets.tolist())):
            if example == i and y != -100:
                apart = [w * kl(p[theirs][n], q[ours][n]) for w, (theirs, ours) in zip(weights[:, n], SIDES)]
                values.append((1 - LAM) * -q["full"][n, y].log() + LAM * sum(apart))
        examples.append(torch.stack(values).mean())
    return torch.stack(examples).mean()


def weights_by_hand(name: str, batch: Batch, teacher: Writer) -> Tensor:
    """The weights of a weighting, [V, N], from its own formula; those of the view `full` first."""
    p = {view: seen(teacher, batch, view) for view in ("full", "image", "text")}
    one = torch.ones(1, len(batch.targets), dtype=torch.float64)
    if name == "fixed":
        return torch.tensor([[2.0], [0.5], [0.25]], dtype=torch.float64) * one
    if name == "teacher_loss":
        known = batch.targets.clamp(min=0)[:, None]
        scores = torch.cat([p[theirs].gather(1, known).T for theirs, _ in SIDES[1:]])  # exp(-loss)
    else:
        # drop: the image is needed as far as the prediction moves where the text alone is seen; the full view has both
        image, text = kl(p["full"], p["text"]), kl(p["full"], p["image"])
        scores = torch.stack([text, image + text])
    return torch.cat([one, 2 * scores / scores.sum(0)])


@pytest.mark.parametrize("lengths", [SIZES, PADDED])
@pytest.mark.parametrize(
    ("name", "options"),
    [("fixed", {"weights": {"full": 2.0, "text": 0.5, "full>image": 0.25}}), ("teacher_loss", {}), ("instance", {"floor": 0.0})],
)
def test_the_objective_is_the_formula_written_by_hand(name: str, options: dict, lengths: list[int]) -> None:
    batch, student, teacher = answers(SIZES, lengths), Writer(1), Writer(2)
    output = distillation(student, teacher, WEIGHTINGS.build({"type": name, **options}))(batch)
    wanted = by_hand(batch, weights_by_hand(name, batch, teacher), student, teacher).item()
    assert abs(output.loss.item() - wanted) <= 1e-12
    assert abs(sum(term.contribution.item() for term in output.loss_terms) - wanted) <= 1e-12


def test_weights_of_examples_are_those_of_all_their_targets() -> None:
    class ByExample(WeightingStrategy):
        per_example = True

        def forward(self, evidence: Evidence) -> Tensor:
            return torch.arange(1.0, 10.0, dtype=torch.float64).view(3, 3)  # [V, B]

    batch, student, teacher = answers(), Writer(1), Writer(2)
    weights = torch.arange(1.0, 10.0, dtype=torch.float64).view(3, 3)[:, batch.example_of]
    found = distillation(student, teacher, ByExample())(batch).loss
    assert abs(found.item() - by_hand(batch, weights, student, teacher).item()) <= 1e-12


def test_weights_of_another_number_of_targets_are_refused() -> None:
    class ByExample(WeightingStrategy):
        def forward(self, evidence: Evidence) -> Tensor:
            return torch.ones(3, 3)

    with pytest.raises(ValueError, match=r"ByExample gives weights \[3, 3\] for 3 examples with 6 targets, wanted .*per_example"):
        distillation(Writer(1), Writer(2), ByExample())(answers())


@pytest.mark.parametrize("weighting", ["uniform", "teacher_loss", "dwa", "rank_filter", "instance"])
@pytest.mark.parametrize("loss", ["kl", "dist", "dkd"])
def test_one_target_an_example_is_a_classifier_to_the_last_bit(loss: str, weighting: str) -> None:
    many = answers([1, 1, 1, 1])
    found = []
    for batch in (many, replace(many, example_of=None)):
        objective = distillation(Writer(1), Writer(2), WEIGHTINGS.build(weighting), DISTILLATION_LOSSES.build(loss))
        output = objective(batch)
        output.loss.backward()
        found.append((output, [p.grad for p in objective.model.parameters()]))
    (one, mine), (other, theirs) = found
    assert torch.equal(one.loss, other.loss)
    assert {n: x.item() for n, x in one.terms.items()} == {n: x.item() for n, x in other.terms.items()}
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("loss", ["kl", "mse", "dkd", "dist", "multi_level"])
def test_padding_changes_neither_loss_nor_gradient(loss: str) -> None:
    found = []
    for lengths in (SIZES, PADDED):
        objective = distillation(Writer(1), Writer(2), None, DISTILLATION_LOSSES.build(loss))
        output = objective(answers(SIZES, lengths))
        output.loss.backward()
        found.append((output.loss.detach(), *(p.grad for p in objective.model.parameters())))
    for exact, padded in zip(*found, strict=True):
        torch.testing.assert_close(padded, exact, rtol=1e-12, atol=1e-12)


def test_an_example_of_a_classifier_without_a_label_is_distilled() -> None:
    many = answers([1, 1])
    batch = replace(many, example_of=None, targets=torch.tensor([2, -100]), num_labelled=torch.tensor(1.0, dtype=torch.float64))
    student, teacher = Writer(1), Writer(2)
    found = distillation(student, teacher, None)(batch)
    wanted = kl(seen(teacher, batch, "full"), seen(student, batch, "full")).mean()
    assert abs(found.terms["distill/full"].item() - wanted.item()) <= 1e-12


@pytest.mark.parametrize("lengths", [SIZES, PADDED])
def test_the_supervised_loss_is_the_mean_over_examples_of_the_mean_over_their_targets(lengths: list[int]) -> None:
    batch, model = answers(SIZES, lengths), Writer(1)
    log_p = model(batch.inputs).logits.log_softmax(1)
    losses = -log_p.gather(1, batch.targets.clamp(min=0)[:, None])[:, 0]
    wanted = torch.stack([values.mean() for values in by_example(losses, batch)]).mean()
    assert abs(SupervisedObjective(model)(batch).loss.item() - wanted.item()) <= 1e-12


@pytest.mark.parametrize("lengths", [SIZES, PADDED])
def test_agreement_is_the_mean_over_examples_of_the_mean_over_their_targets(lengths: list[int]) -> None:
    batch, model = answers(SIZES, lengths), Writer(1)
    image, text = (model(KeepAnswer().view(batch, view).inputs).logits for view in ("image", "text"))
    known = batch.targets.clamp(min=0)[:, None]
    losses = -image.log_softmax(1).gather(1, known)[:, 0] - text.log_softmax(1).gather(1, known)[:, 0]
    losses = losses + (image - text).square().mean(1)
    wanted = torch.stack([values.mean() for values in by_example(losses, batch)]).mean()
    found = AgreementObjective(model, KeepAnswer())(batch).loss
    assert abs(found.item() - wanted.item()) <= 1e-12


# A row of logits for each position of a text


def test_distillation_refuses_a_row_for_each_position_of_the_student_or_of_the_teacher() -> None:
    batch, sentence = answers(), r"Writer gives logits \[3, 3, 5\] for 3 examples with 6 targets, wanted \[6, C\]"
    with pytest.raises(ConfigError, match=sentence):
        distillation(Writer(by_position=True), Writer(2), None)(batch)
    with pytest.raises(ConfigError, match=sentence):
        distillation(Writer(1), Writer(2, by_position=True), None)(batch)


def test_agreement_refuses_a_row_for_each_position_which_would_broadcast_where_there_are_as_many_as_examples() -> None:
    batch = replace(answers([3, 3, 3]), targets=torch.tensor([0, 1, 2]), example_of=None)
    with pytest.raises(ConfigError, match=r"Writer gives logits \[3, 3, 5\] for 3 examples with 3 targets, wanted \[3, C\]"):
        AgreementObjective(Writer(by_position=True), KeepAnswer())(batch)


def test_learning_from_labels_refuses_a_row_for_each_position() -> None:
    with pytest.raises(ConfigError, match=r"Writer gives logits \[3, 3, 5\] for 3 examples"):
        SupervisedObjective(Writer(by_position=True))(answers())


def test_evaluation_refuses_a_row_for_each_position() -> None:
    batches = [answers(), answers([4, 2])]  # two lengths
    found = PredictedBatches(ask(Writer(by_position=True)), batches, ["full"], World(), name="Writer")
    with pytest.raises(
        ConfigError, match=r"Writer gives logits \[3, 3, 5\] for 3 examples with 6 targets, wanted \[6, C\].*\[N, C\]"
    ):
        found.together()


def test_a_classifier_that_gives_a_row_for_each_position_is_refused() -> None:
    batch = answers()
    batch = Batch(batch.inputs, torch.zeros(3, dtype=torch.int64), batch.ids)
    with pytest.raises(
        ConfigError, match=r"Writer gives logits \[3, 3, 5\] for 3 examples with 3 targets, wanted \[3, C\]: \[B, C\]"
    ):
        PredictedBatches(ask(Writer(by_position=True)), [batch], ["full"], World(), name="Writer").together()


def test_fidelity_refuses_a_row_for_each_position_of_which_it_would_take_a_softmax_over_the_positions() -> None:
    with pytest.raises(ValueError, match=r"fidelity compares logits \[N, C\] of the same examples, got \[3, 3, 5\]"):
        compare(torch.zeros(3, 3, 5), torch.zeros(3, 3, 5), "single_label")


def test_a_table_of_predictions_refuses_a_row_for_each_position() -> None:
    table = PredictionTable([], DatasetInfo({}, CLASSES, "single_label"), ["full"])  # type: ignore[arg-type]
    found = Predictions(torch.arange(2), torch.zeros(2, dtype=torch.int64), {"full": torch.zeros(2, 3, CLASSES)})
    with pytest.raises(ValueError, match=r"a table of predictions takes logits \[2, 5\], a row for each target, got \[2, 3, 5\]"):
        table.rows(found)


def test_the_doctor_refuses_a_row_for_each_position() -> None:
    model, batch, masker = Writer(by_position=True).eval(), answers(), KeepAnswer()
    asked = lambda batch, view: model(masker.view(batch, view).inputs).logits  # noqa: E731
    with pytest.raises(ConfigError, match=r"Writer gives logits \[3, 3, 5\] for 3 examples"):
        doctor.measure("student", model, asked, masker, batch, "softmax")
