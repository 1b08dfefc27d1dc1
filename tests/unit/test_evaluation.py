"""Predictions of a split, and their metrics."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import Predictions, measure, predict
from msd_framework.errors import DataError, TrainingError
from msd_framework.metrics.classification import Accuracy
from msd_framework.testing import made_batch, take
from tests.runs import tiny_model


def ask(batch, views):
    return torch.stack([tiny_model(0).eval()(batch.inputs).logits for _ in views])


def test_predictions_do_not_depend_on_how_the_split_is_cut():
    data = made_batch(7)
    whole = predict(ask, [data], ["full"], World())
    cut = predict(ask, [take(data, [0, 1, 2]), take(data, [3, 4, 5]), take(data, [6])], ["full"], World())
    assert whole.places.tolist() == cut.places.tolist() == list(range(7))
    torch.testing.assert_close(whole.logits["full"], cut.logits["full"], atol=1e-6, rtol=0)


def test_predicting_leaves_the_runs_random_numbers_alone_and_does_not_depend_on_them():
    def noisy(batch, views):
        return torch.rand(len(views), len(batch), 3)

    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = predict(noisy, [made_batch(3)], ["full"], World())
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(predict(noisy, [made_batch(3)], ["full"], World()).logits["full"], first.logits["full"])


def test_metrics_of_a_view_carry_its_name_and_examples_without_a_label_do_not_count():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]])
    predictions = Predictions(torch.arange(4), torch.tensor([0, 1, 1, -100]), {"full": logits, "image": -logits})
    assert measure(predictions, {"accuracy": Accuracy()}) == pytest.approx({"accuracy": 2 / 3, "image/accuracy": 1 / 3})


def test_unknown_soft_targets_are_not_labels():
    targets = torch.tensor([[0.0, 1.0], [float("nan"), float("nan")]])
    assert Predictions(torch.arange(2), targets, {}).labelled.tolist() == [True, False]


def test_an_empty_split_is_an_error():
    with pytest.raises(DataError, match="has no example to evaluate"):
        predict(ask, [], ["full"], World())


def test_a_blind_split_cannot_be_measured():
    predictions = Predictions(torch.arange(1), torch.tensor([-100]), {"full": torch.zeros(1, 2)})
    with pytest.raises(DataError, match="no example of this split has a label"):
        measure(predictions, {"accuracy": Accuracy()})


def test_predictions_come_in_the_order_of_the_split():
    data = made_batch(4)
    parts = [replace(take(data, [3, 1]), places=(3, 1)), replace(take(data, [2, 0]), places=(2, 0))]
    ordered = predict(ask, parts, ["full"], World())
    assert ordered.places.tolist() == [0, 1, 2, 3]
    assert torch.equal(ordered.targets, data.targets)
    torch.testing.assert_close(ordered.logits["full"], predict(ask, [data], ["full"], World()).logits["full"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_are_no_scores(value):
    with pytest.raises(TrainingError, match="predicts values that are not finite"):
        predict(lambda batch, views: torch.full((1, len(batch), 3), value), [made_batch(2)], ["full"], World())
