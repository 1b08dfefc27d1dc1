"""Splits of one file: by a column, and at random with labels alike, groups whole and copies of a row together."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_framework.data.overlap import shared_rows
from msd_framework.data.sets.tables import Table
from msd_framework.errors import DataError

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
OPTIONS = {"file": "all.csv", "texts": {"text": "text"}, "label": "label"}


def write(root: Path, rows) -> None:
    with (root / "all.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label", "fold", "photo"], *rows])


def texts(table: Table) -> list[str]:
    return [table[i].inputs["text"] for i in range(len(table))]


def opened(root: Path, split: str, **options) -> Table:
    return Table(split, str(root), **(OPTIONS | options))


@pytest.fixture
def root(tmp_path) -> Path:
    write(tmp_path, [(f"t{i}", "ab"[i % 3 == 0], i % 5, f"{i // 2}.png") for i in range(300)])
    return tmp_path


def test_a_column_says_which_rows_are_of_a_split(root):
    values = {"train": [0, 1, 2], "validation": 3, "test": [4]}
    for split, folds in {"train": (0, 1, 2), "validation": (3,), "test": (4,)}.items():
        table = opened(root, split, split_column="fold", split_values=values)
        assert texts(table) == [f"t{i}" for i in range(300) if i % 5 in folds]
    assert texts(opened(root, "train", split_column="fold", split_values=values, max_examples=3)) == ["t0", "t1", "t2"]
    assert len(opened(root, "3", split_column="fold")) == 60


def test_rows_are_dealt_out_once_each_with_labels_alike(root):
    tables = {split: opened(root, split, split_shares=SHARES, split_seed=3) for split in SHARES}
    assert Counter(text for table in tables.values() for text in texts(table)) == Counter(f"t{i}" for i in range(300))
    assert {split: len(table) for split, table in tables.items()} == {"train": 210, "validation": 30, "test": 60}
    for split, table in tables.items():
        labels = Counter(table[i].target for i in range(len(table)))
        assert labels[1] == pytest.approx(len(table) / 3, abs=1), split  # a third is of the label b
    assert texts(opened(root, "test", split_shares=SHARES, split_seed=3)) == texts(tables["test"])
    assert texts(opened(root, "test", split_shares=SHARES, split_seed=4)) != texts(tables["test"])
    assert tables["test"].fingerprint != tables["train"].fingerprint


@settings(max_examples=30)
@given(
    photos=st.lists(st.integers(0, 12), min_size=40, max_size=60),
    seed=st.integers(0, 5),
    stratify=st.booleans(),
    by_group=st.booleans(),
)
def test_groups_and_copies_of_a_row_stay_together(tmp_path_factory, photos, seed, stratify, by_group):
    root = tmp_path_factory.mktemp("groups")
    write(root, [(f"{photo} {i if by_group else ''}", "ab"[photo % 2], "", photo) for i, photo in enumerate(photos)])
    options = {"split_shares": {"train": 0.5, "test": 0.5}, "split_seed": seed, "stratify": stratify}
    if by_group:
        options |= {"group": "photo"}
    try:
        train, test = (opened(root, split, **options) for split in ("train", "test"))
    except (DataError, ValueError) as error:
        assert "fewer than there are splits" in str(error) or "wanted at least two" in str(error)  # noqa: PT017
        return
    seen = [{text.split()[0] for text in texts(table)} for table in (train, test)]
    assert not seen[0] & seen[1]
    assert len(train) + len(test) == len(photos)
    assert shared_rows((train, train.row_keys), (test, test.row_keys)) is None


def test_the_same_rows_are_dealt_out_in_every_process(root, tmp_path):
    import subprocess
    import sys

    code = (
        "from msd_framework.data.sets.tables import Table;"
        f"t = Table('test', {str(root)!r}, **{OPTIONS!r}, split_shares={SHARES!r});"
        "print([t[i].id for i in range(len(t))])"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    here = Table("test", str(root), **OPTIONS, split_shares=SHARES)
    assert elsewhere == f"{[here[i].id for i in range(len(here))]}\n"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "of one file, either split_column .+ or split_shares is wanted"),
        ({"split_column": "fold", "split_shares": SHARES}, "of one file, either split_column"),
        ({"split_shares": {"train": 0.7, "test": 0.7}}, r"split_shares are .+, wanted a positive share for each split, 1 in all"),
        ({"split_shares": SHARES, "split_seed": -1}, "split_seed is -1, wanted 0 or more"),
        ({"split_shares": SHARES, "split_values": {}}, "split_values are values of split_column, which is not given"),
        ({"split_shares": SHARES, "blind": ["test"]}, "rows without a label cannot be dealt out"),
        (
            {"split_shares": {"trian": 0.5, "test": 0.5}},
            r"there is no split 'train'\. Did you mean 'trian'\? Its splits: trian, test",
        ),
        ({"file": None, "split_column": "fold"}, "split_column is about the rows of one file, which is not given; name it in file"),
        ({"files": {"train": "all.csv"}, "split_column": "fold"}, r"wanted files .+ or file .+, got both"),
        ({"split_column": "fold"}, r"all\.csv: no row is of split 'train': fold is never 'train', only '0', '1', .+split_values"),
        ({"split_column": "fodl"}, r"all\.csv:2: has no 'fodl', only .+Did you mean 'fold'"),
        (
            {"split_column": "fold", "split_values": {"train": 0, "test": 1}, "group": "photo"},
            "60 groups of photo have rows in 'train'",
        ),
        ({"split_shares": {"train": 0.999, "test": 0.001}}, "300 rows are too few to be dealt out as split_shares says"),
    ],
)
def test_what_does_not_go_together_is_told(root, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        opened(root, "train", **options)


def test_a_label_that_is_too_rare_to_be_everywhere_is_told(tmp_path):
    write(tmp_path, [(f"t{i}", "ab"[i < 2], "", "") for i in range(50)])
    with pytest.raises(DataError, match=r"label 'b' has 2 rows, fewer than there are splits; .+set data\.dataset\.stratify=false"):
        opened(tmp_path, "train", split_shares=SHARES)
    assert len(opened(tmp_path, "train", split_shares=SHARES, stratify=False)) == 35


def test_rows_of_a_blind_split_may_lack_a_label(tmp_path):
    write(tmp_path, [("x", "a", "train", ""), ("y", "b", "train", ""), ("z", "", "test", "")])
    test = opened(tmp_path, "test", split_column="fold", blind=["test"])
    assert [test[i].target for i in range(len(test))] == [None]
    with pytest.raises(DataError, match=r"all\.csv:4: label is ''"):
        opened(tmp_path, "train", split_column="fold")
