"""Which other row an example meets: never itself, by its id alone, each of them once before one comes again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_framework.data.base import Example, MultimodalDataset, Processor
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.loader import EvaluationBatches, TrainingBatches
from msd_framework.data.batches.partners import PartnerReader
from msd_framework.data.batches.plan import TrainingPlan
from msd_framework.data.batches.reader import ExampleReader, NotMade
from msd_framework.data.batches.subset import Subset
from msd_framework.errors import DataError
from msd_framework.structures import Batch, DatasetInfo, ModalityInputs


class Number(Processor):
    kind = "features"

    def load(self, value):
        if value == "broken":
            raise DataError("wanted a number")
        return torch.tensor([[float(value)]])

    def collate(self, loaded):
        return ModalityInputs(torch.stack(list(loaded)), torch.ones(len(loaded), 1, dtype=torch.bool))

    def blank(self):
        return torch.zeros(1, 1)


class Pairs(MultimodalDataset):
    """Row i holds the numbers i and 100 + i, the second but for some rows."""

    splits = ("all",)

    def __init__(self, length: int, lacking: tuple[int, ...] = (), broken: tuple[int, ...] = ()):
        self.length, self.lacking, self.broken = length, lacking, broken

    @classmethod
    def describe(cls, options):
        return DatasetInfo({"a": "features", "b": "features"}, 2, "single_label")

    @classmethod
    def check(cls, options, split):
        return []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        b = None if index in self.lacking else "broken" if index in self.broken else 100 + index
        return Example(f"row {index}", {"a": index, "b": b}, index % 2, f"pairs:{index + 1}")


INFO = Pairs.describe({})
PROCESSORS = {"a": Number(), "b": Number()}


def read_by(dataset: MultimodalDataset, skip: bool = False) -> ExampleReader:
    return ExampleReader(dataset, PROCESSORS, skip_errors=skip)


def training(
    dataset: MultimodalDataset, num_turns: int | None = 3, batch_size: int = 4, epochs: int = 6, size: int = 1, rank: int = 0
) -> list[Batch]:
    updates = epochs * len(dataset) // batch_size
    plan = TrainingPlan(len(dataset), batch_size, updates, 1, rank, size, seed=5)
    partners = PartnerReader(read_by(dataset), INFO, {"*": ["b"], "**": ["b"]}, num_turns, 0)
    return list(TrainingBatches(read_by(dataset), Collator(PROCESSORS, INFO), plan, partners=partners).starting_at(0))


def met(batches: list[Batch]) -> dict[str, list[tuple[int, str, str]]]:
    """The rows that each example meets, with its turn, in the order of the epochs."""
    by_example: dict[str, list[tuple[int, str, str]]] = {}
    for batch in batches:
        for example, turn, first, second in zip(batch.ids, batch.turns, batch.others["*"].ids, batch.others["**"].ids):
            by_example.setdefault(example, []).append((turn, first, second))
    return by_example


@settings(max_examples=25)
@given(st.integers(8, 30), st.integers(1, 7), st.integers(1, 3))
def test_an_example_meets_a_few_rows_in_turn_and_never_itself(length: int, batch_size: int, num_turns: int) -> None:
    for example, rows in met(training(Pairs(length), num_turns, batch_size)).items():
        first_round = rows[:num_turns]
        others = [row for _, *both in first_round for row in both]
        assert example not in others
        assert len(set(others)) == len(others)
        assert [turn for turn, *_ in rows] == [epoch % num_turns for epoch in range(len(rows))]
        assert all(row == first_round[row[0]] for row in rows)


def test_the_rows_are_those_that_are_read_for_a_cache_however_that_is_cut() -> None:
    dataset = Pairs(11)
    wanted = {(example, turn): row for example, rows in met(training(dataset)).items() for turn, row, _ in rows}
    some = Subset(dataset, [7, 2, 3])
    partners = PartnerReader(read_by(dataset), INFO, {"*": ["b"], "**": ["b"]}, 3, 0)
    for batch in EvaluationBatches(read_by(some), Collator(PROCESSORS, INFO), 2, partners=partners):
        for turn in range(3):
            assert batch.others[f"*@{turn}"].ids == tuple(wanted[example, turn] for example in batch.ids)
            values = batch.others[f"*@{turn}"].inputs["b"].values.flatten().tolist()
            assert values == [100.0 + int(wanted[example, turn].split()[1]) for example in batch.ids]


def test_two_processes_read_what_one_does() -> None:
    dataset, together = Pairs(10), met(training(Pairs(10)))
    halves = [met(training(dataset, size=2, rank=rank)) for rank in range(2)]
    for example, rows in together.items():
        assert sorted(rows) == sorted(halves[0].get(example, []) + halves[1].get(example, []))


def test_new_rows_come_in_each_epoch_where_nothing_limits_them() -> None:
    rows = met(training(Pairs(40), num_turns=None, epochs=8))
    assert all(len({first for _, first, _ in of}) == 8 for of in rows.values())


def test_rows_that_lack_what_is_wanted_are_not_met_and_broken_ones_count_as_lacking_it() -> None:
    dataset = Pairs(9, lacking=(1, 4), broken=(6,))
    partners = PartnerReader(read_by(dataset, skip=True), INFO, {"*": ["b"]}, 8, 0)
    batches = EvaluationBatches(read_by(dataset, skip=True), Collator(PROCESSORS, INFO), 9, partners=partners)
    (batch,) = batches
    others = {name: rows for name, rows in batch.others.items() if name.startswith("*")}
    assert not {"row 1", "row 4"} & {row for rows in others.values() for row in rows.ids}
    for rows in others.values():
        having = rows.having.get("b", torch.ones(len(rows), dtype=torch.bool))
        assert having.tolist() == [row != "row 6" for row in rows.ids]


@given(st.sets(st.integers(0, 29), max_size=20))
def test_rows_that_lack_what_is_wanted_make_no_row_come_twice(lacking: set[int]) -> None:
    for example, rows in met(training(Pairs(30, tuple(lacking)), num_turns=4, epochs=4)).items():
        others = [row for _, *both in rows for row in both]
        assert not {f"row {number}" for number in lacking} & set(others)
        assert example not in others
        assert len(set(others)) == 8  # 10 rows or more have it, the example among them


def test_two_other_rows_are_two_where_each_is_wanted_for_another_modality() -> None:
    partners = PartnerReader(read_by(Pairs(30, tuple(range(20)))), INFO, {"*": ["a"], "**": ["b"]}, 4, 0)
    for batch in EvaluationBatches(read_by(Pairs(30)), Collator(PROCESSORS, INFO), 8, partners=partners):
        for turn in range(4):
            assert not set(zip(batch.ids, batch.others[f"*@{turn}"].ids)) & set(zip(batch.ids, batch.others[f"**@{turn}"].ids))
            assert all(one != other for one, other in zip(batch.others[f"*@{turn}"].ids, batch.others[f"**@{turn}"].ids))


def test_which_row_is_met_does_not_hang_on_what_was_found_broken_before() -> None:
    dataset = Pairs(9, broken=(2, 6))
    read = read_by(dataset, skip=True)
    partners = PartnerReader(read, INFO, {"*": ["a"]}, 8, 0)
    batches = EvaluationBatches(read, Collator(PROCESSORS, INFO), 3, partners=partners)
    first, second = list(batches), list(batches)  # by the second time all broken rows are known
    assert set(read.skipped) == {2, 6}
    for once, again in zip(first, second):
        for name, rows in once.others.items():
            assert rows.ids == again.others[name].ids
            assert not rows.having


@pytest.mark.parametrize("kind", ["features", "tokens"])
def test_what_a_mixture_has_is_said_of_it_also_where_a_cached_teacher_s_tensors_are_not_made(kind: str) -> None:
    class Made(Number):
        pass

    Made.kind = kind  # type: ignore[assignment]
    dataset, processors, key = Pairs(9, lacking=(1, 4)), {"a": Number(), "b": Made()}, ("b", (0,))
    reader = ExampleReader(dataset, processors, teacher_overrides={key: NotMade(Made())})
    partners = PartnerReader(reader, INFO, {"^": ["b"]}, 8, 0)
    collator = Collator(processors, INFO, teacher_overrides=reader.teacher_overrides)
    (batch,) = EvaluationBatches(reader, collator, 9, partners=partners)
    for turn in range(8):
        rows, everyone = batch.others[f"^@{turn}"], torch.ones(9, dtype=torch.bool)
        assert rows.own_share is not None
        own = batch.having["b"]  # all rows that are met have it
        wanted = torch.where(rows.own_share >= 0.5, own, everyone) if kind == "tokens" else everyone
        assert torch.equal(rows.having["b"], wanted)
        assert torch.equal(rows.teacher_having[key], wanted)


def test_only_what_views_want_is_read_of_other_rows() -> None:
    (first, *_) = training(Pairs(8))
    assert list(first.others["*"].inputs) == ["b"]


def test_a_split_without_another_row_that_has_it_is_a_sentence() -> None:
    dataset = Pairs(3, lacking=(0, 1))
    partners = PartnerReader(read_by(dataset), INFO, {"*": ["b"]}, 2, 0)
    batches = EvaluationBatches(read_by(dataset), Collator(PROCESSORS, INFO), 3, partners=partners)
    with pytest.raises(DataError, match=r"pairs:3: no other row of the split has b, which a view takes from another row\."):
        list(batches)
