"""Batches do not depend on the number of processes, on workers, or on an interruption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msd_framework.data.base import Example, MultimodalDataset, Processor
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.loader import EvaluationBatches, TrainingBatches
from msd_framework.data.batches.plan import EvaluationPlan, TrainingPlan
from msd_framework.data.batches.reader import DecodedInputs, ExampleReader
from msd_framework.errors import DataError
from msd_framework.structures import DatasetInfo, ModalityInputs


class Numbers(MultimodalDataset):
    splits = ("all",)

    def __init__(self, length: int, broken: Sequence[int] = ()):
        self.length, self.broken, self.reads = length, broken, Counter()

    @classmethod
    def describe(cls, options):
        return DatasetInfo({"number": "features"}, 10, "single_label")

    @classmethod
    def check(cls, options, split):
        return []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.reads[index] += 1
        return Example(str(index), {"number": -1 if index in self.broken else index}, index % 10, f"numbers:{index + 1}")


class Float(Processor):
    kind = "features"

    def load(self, value):
        if value < 0:
            raise DataError("wanted a number from 0")
        return torch.tensor([float(value)])

    def collate(self, loaded):
        values = torch.stack(list(loaded))[:, None]
        return ModalityInputs(values, torch.ones(len(loaded), 1, dtype=torch.bool))


class Noisy(Float):
    random = True

    def load(self, value):
        return super().load(value) + torch.rand(1)


INFO = Numbers.describe({})


def reader(length=10, processor=None, **options):
    broken = options.pop("broken", ())
    return ExampleReader(Numbers(length, broken), {"number": processor or Float()}, **options)


def plan(length=10, batch_size=4, num_updates=7, accumulate=1, rank=0, size=1, seed=0):
    return TrainingPlan(length, batch_size, num_updates, accumulate, rank, size, seed)


@given(
    length=st.integers(1, 30), width=st.integers(1, 4), accumulate=st.integers(1, 3), size=st.integers(1, 3), seed=st.integers(0, 9)
)
def test_processes_and_parts_share_out_the_batches_of_one_process(length, width, accumulate, size, seed):
    batch_size, updates = width * accumulate * size, 6
    alone = plan(length, batch_size, updates, seed=seed)
    ranks = [list(plan(length, batch_size, updates, accumulate, rank, size, seed)) for rank in range(size)]
    for update in range(updates):
        together = [i for rank in ranks for part in rank[update * accumulate : (update + 1) * accumulate] for i in part.indices]
        assert Counter(together) == Counter(alone.batch(update))
        assert len(together) == batch_size


@given(length=st.integers(1, 30), batch_size=st.integers(1, 40), seed=st.integers(0, 9))
def test_every_epoch_holds_each_example_once(length, batch_size, seed):
    updates = -(-3 * length // batch_size)
    stream = [i for u in range(updates) for i in plan(length, batch_size, updates, seed=seed).batch(u)]
    for epoch in range(3):
        assert sorted(stream[epoch * length : (epoch + 1) * length]) == list(range(length))


def test_epochs_and_seeds_have_other_orders():
    a, b = (plan(100).order(epoch).tolist() for epoch in (0, 1))
    assert a != b
    assert plan(100, seed=1).order(0).tolist() != a


def test_an_order_of_a_million_examples_takes_4_megabytes_and_no_list_of_numbers():
    million = plan(1_000_000, 32, 40_000)
    assert million.batch(31_249) + million.batch(31_250)  # over the end of the first epoch
    assert million.order(1).nbytes == 4_000_000
    assert not [name for name, value in vars(million).items() if isinstance(value, (list, tuple, dict))]


def test_the_parts_of_an_evaluation_are_made_as_they_are_asked_for():
    parts = EvaluationPlan(10**12, 1000)
    assert len(parts) == 10**9
    assert next(iter(parts)).indices == tuple(range(1000))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_starts_later_sees_the_same_batches(workers):
    def batches(start):
        made = TrainingBatches(reader(processor=Noisy()), Collator({"number": Noisy()}, INFO), plan(), workers)
        return [b.inputs["number"].values for b in made.starting_at(start)]

    whole, later = batches(0), batches(3)
    assert len(whole) == 7
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], later, strict=True))


def test_workers_read_the_batches_of_the_process_itself():
    def batches(workers):
        made = TrainingBatches(reader(processor=Noisy()), Collator({"number": Noisy()}, INFO), plan(), workers)
        return [(b.ids, b.inputs["number"].values.tolist()) for b in made.starting_at(0)]

    assert batches(0) == batches(2)


def test_reading_draws_nothing_from_the_runs_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(TrainingBatches(reader(processor=Noisy()), Collator({"number": Noisy()}, INFO), plan()).starting_at(0))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_evaluation_sees_each_example_once_over_all_processes(size):
    seen = []
    for rank in range(size):
        for batch in EvaluationBatches(reader(), Collator({"number": Float()}, INFO), 3, rank, size):
            seen += batch.ids
    assert sorted(seen, key=int) == [str(i) for i in range(10)]


def test_random_transforms_are_never_kept():
    noisy = reader(processor=Noisy(), decoded=DecodedInputs(1))
    assert not torch.equal(noisy(3)[1]["number"], noisy(3)[1]["number"])


def test_an_example_that_cannot_be_read_stops_with_its_line():
    made = EvaluationBatches(reader(broken=[6]), Collator({"number": Float()}, INFO), 4)
    with pytest.raises(DataError, match="numbers:7: wanted a number from 0"):
        list(made)


@pytest.mark.parametrize("workers", [0, 2])
def test_examples_that_cannot_be_read_are_left_out_and_told_if_asked(workers):
    made = EvaluationBatches(reader(broken=[1, 6], skip_errors=True), Collator({"number": Float()}, INFO), 4, workers=workers)
    assert [i for b in made for i in b.ids] == ["0", "2", "3", "4", "5", "7", "8", "9"]
    assert sorted(made.reader.skipped.values()) == ["numbers:2: wanted a number from 0", "numbers:7: wanted a number from 0"]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_example_takes_the_place_of_one_that_is_left_out_so_that_batches_stay_full(workers):
    made = TrainingBatches(reader(broken=[3, 4], skip_errors=True), Collator({"number": Float()}, INFO), plan(), workers)
    seen = [tuple(map(int, batch.ids)) for batch in made.starting_at(0)]
    whole = [tuple(5 if i in (3, 4) else i for i in plan().batch(u)) for u in range(7)]
    assert seen == whole
    assert len(made.reader.skipped) == 2


def test_a_split_of_which_nothing_can_be_read_stops_even_if_errors_are_skipped():
    broken = reader(broken=range(10), skip_errors=True)
    with pytest.raises(DataError, match="no example of a batch could be read: numbers:"):
        next(TrainingBatches(broken, Collator({"number": Float()}, INFO), plan()).starting_at(0))


def test_reading_does_not_touch_the_random_numbers_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU was seeded"))
    list(EvaluationBatches(reader(processor=Noisy()), Collator({"number": Noisy()}, INFO), 4))


def test_targets_are_read_as_the_task_says():
    examples = [Example("a", {}, 2, ""), Example("b", {}, None, "")]
    assert Collator({}, INFO).targets(examples).tolist() == [2, -100]
    soft = DatasetInfo({}, 2, "soft_target")
    found = Collator({}, soft).targets([Example("a", {}, [0.25, 1.0], ""), Example("b", {}, None, "")])
    assert found[0].tolist() == [0.25, 1.0]
    assert found[1].isnan().all()
