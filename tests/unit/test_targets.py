"""Several targets an example, as the tokens of an answer are; and the refusal of a row of logits for each position of a text."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from msd_framework.analysis.doctor import models as doctor
from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import Predictions, measure, predict
from msd_framework.engine.prediction_table import PredictionTable
from msd_framework.errors import ConfigError
from msd_framework.maskers.drop import DropMasker
from msd_framework.metrics.classification import Accuracy
from msd_framework.metrics.fidelity import fidelity
from msd_framework.models.base import MultimodalModel
from msd_framework.saliency.base import scores_of
from msd_framework.saliency.prediction import DropSaliency
from msd_framework.structures import Batch, DatasetInfo, Inputs, ModalityInputs, ModelOutput

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
        self.modalities, self.num_classes, self.by_position = ("answer", "image", "text"), CLASSES, by_position
        torch.manual_seed(seed)
        self.words, self.image, self.head = nn.Embedding(NUM_WORDS, 8), nn.Linear(4, 8), nn.Linear(8, CLASSES)
        self.double()

    @classmethod
    def modalities_of(cls, options) -> tuple[str, ...]:
        return ("answer", "image", "text")

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


def ask(model: MultimodalModel):
    masker = DropMasker()
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
    found = predict(ask(model), batches, ["full", "~image"], World()).together()
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

        return measure(predict(logits, [batch], ["full"], World()).together(), {"accuracy": Accuracy()})

    assert with_padding_of(0.0) == with_padding_of(9.0)


# A row of logits for each position of a text


def test_evaluation_refuses_a_row_for_each_position() -> None:
    batches = [answers(), answers([4, 2])]  # two lengths
    found = predict(ask(Writer(by_position=True)), batches, ["full"], World(), name="Writer")
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
        predict(ask(Writer(by_position=True)), [batch], ["full"], World(), name="Writer").together()


def test_fidelity_refuses_a_row_for_each_position_of_which_it_would_take_a_softmax_over_the_positions() -> None:
    with pytest.raises(ValueError, match=r"fidelity compares logits \[N, C\] of the same examples, got \[3, 3, 5\]"):
        fidelity(torch.zeros(3, 3, 5), torch.zeros(3, 3, 5), "single_label")


def test_a_table_of_predictions_refuses_a_row_for_each_position() -> None:
    table = PredictionTable([], DatasetInfo({}, CLASSES, "single_label"), ["full"])  # type: ignore[arg-type]
    found = Predictions(torch.arange(2), torch.zeros(2, dtype=torch.int64), {"full": torch.zeros(2, 3, CLASSES)})
    with pytest.raises(ValueError, match=r"a table of predictions takes logits \[2, 5\], a row for each target, got \[2, 3, 5\]"):
        table.rows(found)


def test_the_doctor_refuses_a_row_for_each_position() -> None:
    model, batch, masker = Writer(by_position=True).eval(), answers(), DropMasker()
    asked = lambda batch, view: model(masker.view(batch, view).inputs).logits  # noqa: E731
    with pytest.raises(ConfigError, match=r"Writer gives logits \[3, 3, 5\] for 3 examples"):
        doctor.measure("student", model, asked, masker, batch, "softmax")
