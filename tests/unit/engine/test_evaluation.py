"""Predictions of a split, and their metrics: a batch at a time what they are all at once."""

from __future__ import annotations

import random
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import Measures, PredictedBatches, Predictions, in_order, in_step, measure, predict
from msd_framework.errors import DataError, TrainingError
from msd_framework.metrics.base import CountedMetric, Metric
from msd_framework.metrics.classification import Accuracy
from msd_framework.registry import METRICS
from msd_framework.testing import made_batch, take
from tests.runs import tiny_model


def ask(batch, views):
    return torch.stack([tiny_model(0).eval()(batch.inputs).logits for _ in views])


def cut(found: Predictions, sizes: Sequence[int]) -> Iterator[Predictions]:
    """The same predictions as batches of these sizes, and of one example each for the rest."""
    rows = torch.arange(len(found.places))
    for size in [*sizes, *[1] * len(rows)]:
        if len(rows):
            yield found.at(rows[:size])
        rows = rows[size:]


def test_predictions_do_not_depend_on_how_the_split_is_cut():
    data = made_batch(7)
    whole = predict(ask, [data], ["full"], World()).together()
    parts = PredictedBatches(ask, [take(data, [0, 1, 2]), take(data, [3, 4, 5]), take(data, [6])], ["full"], World()).together()
    assert whole.places.tolist() == parts.places.tolist() == list(range(7))
    torch.testing.assert_close(whole.logits["full"], parts.logits["full"], atol=1e-6, rtol=0)


def test_nothing_is_asked_before_it_is_needed_and_one_batch_at_a_time():
    asked = []

    def noted(batch, views):
        asked.append(batch.ids)
        return ask(batch, views)

    data = made_batch(4)
    found = PredictedBatches(noted, [take(data, [0, 1]), take(data, [2, 3])], ["full"], World())
    assert asked == []
    first = next(iter(found))
    assert (len(asked), first.places.tolist(), first.logits["full"].dtype) == (1, [0, 1], torch.float32)


def test_predicting_leaves_the_runs_random_numbers_alone_and_does_not_depend_on_them():
    def noisy(batch, views):
        return torch.rand(len(views), len(batch), 1) + random.random() + np.random.rand()

    def numbers():
        return float(torch.rand(1)), random.random(), np.random.rand()

    data = made_batch(4)
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(5)
    expected = numbers()
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(5)
    batches = iter(PredictedBatches(noisy, [take(data, [0, 1]), take(data, [2, 3])], ["full"], World()))
    first = next(batches)
    assert numbers() == expected  # also between two batches
    second = next(batches)
    again = PredictedBatches(noisy, [take(data, [0, 1]), take(data, [2, 3])], ["full"], World()).together()
    assert torch.equal(again.logits["full"], torch.cat([first.logits["full"], second.logits["full"]]))
    assert len(set(again.logits["full"].flatten().tolist())) == 4


def test_metrics_of_a_view_carry_its_name_and_examples_without_a_label_do_not_count():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]])
    predictions = Predictions(torch.arange(4), torch.tensor([0, 1, 1, -100]), {"full": logits, "image": -logits})
    assert measure(predictions, {"accuracy": Accuracy()}) == pytest.approx({"accuracy": 2 / 3, "image/accuracy": 1 / 3})


def test_unknown_soft_targets_are_not_labels():
    targets = torch.tensor([[0.0, 1.0], [float("nan"), float("nan")]])
    assert Predictions(torch.arange(2), targets, {}).labelled.tolist() == [True, False]


def test_an_empty_split_is_an_error():
    with pytest.raises(DataError, match="has no example to evaluate"):
        PredictedBatches(ask, [], ["full"], World()).together()
    with pytest.raises(DataError, match="has no example to evaluate"):
        measure(PredictedBatches(ask, [], ["full"], World()), {"accuracy": Accuracy()})


def test_a_blind_split_cannot_be_measured():
    predictions = Predictions(torch.arange(1), torch.tensor([-100]), {"full": torch.zeros(1, 2)})
    with pytest.raises(DataError, match="no example of this split has a label"):
        measure(predictions, {"accuracy": Accuracy()})


def test_predictions_come_in_the_order_of_the_split():
    data = made_batch(4)
    parts = [replace(take(data, [3, 1]), places=(3, 1)), replace(take(data, [2, 0]), places=(2, 0))]
    ordered = PredictedBatches(ask, parts, ["full"], World()).together()
    assert ordered.places.tolist() == [0, 1, 2, 3]
    assert torch.equal(ordered.targets, data.targets)
    whole = PredictedBatches(ask, [data], ["full"], World()).together()
    torch.testing.assert_close(ordered.logits["full"], whole.logits["full"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_are_no_scores(value):
    with pytest.raises(TrainingError, match="predicts values that are not finite"):
        list(PredictedBatches(lambda batch, views: torch.full((1, len(batch), 3), value), [made_batch(2)], ["full"], World()))


# a batch at a time


def made(task: str, seed: int, n: int = 23, classes: int = 4) -> Predictions:
    """Predictions with ties, some examples without a label, every class true and not true somewhere."""
    generator = torch.Generator().manual_seed(seed)
    logits = {v: torch.randn(n, classes, generator=generator).mul(4).round().div(4) for v in ("full", "image")}
    if task == "single_label":
        targets = torch.randint(classes, (n,), generator=generator)
        targets[:classes], targets[-2:] = torch.arange(classes), -100
    else:
        targets = torch.rand(n, classes, generator=generator).mul(10).round().div(10)
        targets = targets if task == "soft_target" else (targets > 0.5).float()
        targets[0], targets[1], targets[-2:] = 0.0, 1.0, torch.nan
    return Predictions(torch.arange(n), targets, logits)


def metrics_for(task: str, classes: int = 4) -> dict[str, Metric]:
    facts = {"num_classes": classes, "class_names": tuple("abcd")[:classes], "task": task}
    names = [name for name in METRICS.names() if task in METRICS.get(name).tasks]
    of_one_class = {"f1", "precision", "recall"}
    return {n: METRICS.build({"type": n, "positive": "b"} if n in of_one_class else n, "", facts) for n in names}


@pytest.mark.parametrize("task", ["single_label", "multi_label", "soft_target"])
@settings(max_examples=15)
@given(
    seed=st.integers(0, 999), sizes=st.lists(st.integers(1, 9), max_size=6), share=st.lists(st.booleans(), min_size=40, max_size=40)
)
def test_metrics_by_batch_and_by_process_are_those_of_all_at_once(task: str, seed: int, sizes: list[int], share: list[bool]):
    found, metrics = made(task, seed), metrics_for(task)
    known = found.at(found.labelled)
    wanted = {f"{v}/{n}".removeprefix("full/"): m(z, known.targets) for v, z in known.logits.items() for n, m in metrics.items()}
    here, there = Measures(metrics), Measures(metrics)
    for batch, is_here in zip(cut(found, sizes), share):
        (here if is_here else there).add(batch)
    at_once = Measures(metrics)
    at_once.add(found)
    assert at_once.values(World()) == pytest.approx(wanted, abs=1e-12)
    both = Both(here, there)
    assert sum(m.num_labelled for m in (here, there)) == 21
    if here.num_labelled and there.num_labelled:
        assert here.values(both) == pytest.approx(wanted, abs=1e-12)  # float64 sums in another order
        assert list(here.values(both)) == list(wanted)


class Both(World):
    """Two processes in one: what the second one would send is taken from it."""

    def __init__(self, first: Measures, second: Measures):
        super().__init__()
        object.__setattr__(self, "shares", (first, second))

    def gather(self, value: object) -> list[object]:
        first, second = self.shares  # type: ignore[attr-defined]
        if value is first._counts:
            return [value, second._counts]
        joined = [torch.cat([p.places for p in second._kept]), torch.cat([p.targets for p in second._kept])]
        views = {v: torch.cat([p.logits[v] for p in second._kept]) for v in ("full", "image")}
        return [value, Predictions(*joined, views)]


def test_only_metrics_that_need_all_at_once_keep_predictions():
    counted = [name for name in METRICS.names() if issubclass(METRICS.get(name), CountedMetric)]
    assert sorted(set(METRICS.names()) - set(counted)) == ["auroc", "average_precision", "ece", "map"]
    measures = Measures({"accuracy": Accuracy()})
    measures.add(made("single_label", 0))
    assert measures._kept == []


def test_a_metric_of_a_users_own_sees_the_whole_split_in_its_order():
    class LastIsRight(Metric):
        tasks = frozenset({"single_label"})

        def __call__(self, logits: Tensor, targets: Tensor) -> float:
            return float(logits[-1].argmax() == targets[-1])

    found = made("single_label", 3)
    found = found.at(found.labelled)
    backwards = Measures({"last": LastIsRight()})
    for batch in reversed(list(cut(found, [5, 5, 5]))):
        backwards.add(batch)
    assert backwards.values(World())["last"] == LastIsRight()(found.logits["full"], found.targets)


def test_two_who_go_through_batches_in_step_see_the_same_ones_and_hold_one():
    class Held:
        pass

    batches = (Held() for _ in range(5))
    first, second = in_step(batches)  # type: ignore[arg-type]
    alive = []
    for ours, theirs in zip(first, second):
        assert ours is theirs
        alive.append(weakref.ref(ours))
        del ours, theirs
        assert [one() is None for one in alive[:-1]] == [True] * (len(alive) - 1)
    assert len(alive) == 5


# in the split's order


@settings(max_examples=30)
@given(
    places=st.lists(st.integers(0, 60), unique=True, max_size=40).map(sorted),
    size=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_what_processes_make_comes_in_the_splits_order_and_early(places: list[int], size: int, seed: int):
    draw = random.Random(seed)
    shares: list[list[list[tuple[int, str]]]] = []
    for rank in range(size):
        mine = [(p, f"at {p}") for p in places[rank::size]]
        batches = []
        while mine:
            n = draw.randint(1, 5)
            batches.append(mine[:n])
            mine = mine[n:]
        shares.append(batches)
    rounds = max(map(len, shares), default=0)

    class Lockstep(World):
        sent = 0

        def gather(self, value: object) -> list[object]:
            Lockstep.sent += 1
            return [value, *(s[Lockstep.sent - 1] if Lockstep.sent <= len(s) else None for s in shares[1:])]

    world = Lockstep()
    assert list(in_order(shares[0], world)) == [f"at {p}" for p in places]
    assert Lockstep.sent == rounds + 1


def test_one_process_hands_on_each_batch_as_it_comes():
    handed = []

    def batches():
        for first in range(0, 6, 2):
            handed.append(first)
            yield [(first, first), (first + 1, first + 1)]

    found = in_order(batches(), World())
    assert [next(found), next(found)] == [0, 1]
    assert handed == [0]
    assert list(found) == [2, 3, 4, 5]
