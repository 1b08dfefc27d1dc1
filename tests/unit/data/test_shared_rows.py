"""Two splits that share rows are found: in CSV files, JSON lines and data sets in code, against a comparison of every pair."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_framework.build.splits import shared_problems
from msd_framework.config.schema import DataConfig
from msd_framework.data.base import Example, MultimodalDataset
from msd_framework.data.overlap import shared_rows, survey
from msd_framework.data.sets.hateful_memes import HatefulMemes
from msd_framework.data.sets.tables import Table
from msd_framework.errors import DataError
from msd_framework.structures import DatasetInfo

INFO = DatasetInfo({"image": "pixels", "text": "tokens"}, 2, "single_label", ("0", "1"))
COLUMNS = ("id", "text", "image", "label")
OPTIONS = {"texts": {"text": "text"}, "images": {"image": "image"}, "label": "label", "classes": ["0", "1"]}


class Made(MultimodalDataset):
    """Rows in memory."""

    splits = ("train", "test")

    def __init__(self, rows):
        self.rows = rows

    @classmethod
    def describe(cls, options):
        return INFO

    @classmethod
    def check(cls, options, split):
        return []

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        name, text, image, label = self.rows[index]
        inputs = {"text": text, "image": np.frombuffer(image.encode().ljust(4), np.uint8)}
        return Example(name, inputs, int(label), f"row {index}")


def in_code(folder: Path, split: str, rows) -> MultimodalDataset:
    return Made(rows)


def in_csv(folder: Path, split: str, rows) -> MultimodalDataset:
    with (folder / f"{split}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return Table(split, str(folder), files={split: f"{split}.csv"}, id_column="id", **OPTIONS)


def in_lines(folder: Path, split: str, rows) -> MultimodalDataset:
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(dict(zip(COLUMNS, row))) + "\n" for row in rows))
    return Table(split, str(folder), files={split: f"{split}.jsonl"}, id_column="id", **OPTIONS)


def keyed(dataset):
    return dataset, dataset.row_keys or survey(dataset, INFO)


@st.composite
def splits(draw):
    """Rows of two splits, ids that differ within each: real names, or the places of rows."""
    contents = st.tuples(st.sampled_from("abcd"), st.sampled_from(["1.png", "2.png", "é.png"]))
    found = []
    is_counted = draw(st.booleans())
    for _ in range(2):
        rows = draw(st.lists(contents, min_size=1, max_size=6))
        names = [str(i) for i in range(len(rows))]
        if not is_counted:
            names = draw(
                st.lists(
                    st.sampled_from(["x7", "yy", "z", "q", "r1s", "ü", "w", "v"]),
                    min_size=len(rows),
                    max_size=len(rows),
                    unique=True,
                )
            )
        found.append([(name, *row, draw(st.sampled_from("01"))) for name, row in zip(names, rows)])
    return is_counted, *found


@pytest.mark.parametrize("made", [in_csv, in_lines, in_code])
@settings(max_examples=60)
@given(drawn=splits())
def test_rows_that_two_splits_share_are_found_and_no_others(tmp_path_factory, made, drawn):
    is_counted, first, second = drawn
    folder = tmp_path_factory.mktemp("rows")
    found = shared_rows(keyed(made(folder, "train", first)), keyed(made(folder, "test", second)))
    same_content = sum(any(row[1:3] == other[1:3] for other in first) for row in second)
    same_id = sum(any(row[0] == other[0] for other in first) for row in second)
    if same_content:
        assert found is not None
        assert (found.by, found.count) == ("content", same_content)
    elif same_id and not is_counted and made is not in_code:  # whose ids need differ within a split alone
        assert found is not None
        assert (found.by, found.count) == ("ids", same_id)
    else:
        assert found is None


def rows(words, start=0):
    return [(f"name-{word}", word, f"{word}.png", str(i % 2)) for i, word in enumerate(words, start)]


@pytest.mark.parametrize("made", [in_csv, in_lines, in_code])
def test_a_problem_names_the_rows_and_the_option_that_allows_them(tmp_path, made):
    uses = {"train": made(tmp_path, "train", rows("abcdef")), "validation": made(tmp_path, "validation", rows("gh"))}
    assert not shared_problems(DataConfig("csv", {}), uses, INFO)
    uses["test"] = made(tmp_path, "test", rows("fbaexy"))
    (problem,) = shared_problems(DataConfig("csv", {}), uses, INFO)
    assert problem.path == "data.test"
    assert problem.message.startswith("4 of its 6 rows are rows of data.train too ('name-f' at ")
    assert problem.message.count(" and 'name-") == 3
    assert "set data.shared_rows=true" in problem.message
    assert not shared_problems(DataConfig("csv", {}, shared_rows=True), uses, INFO)


@pytest.mark.parametrize("made", [in_csv, in_lines, in_code])
@pytest.mark.parametrize("text", ["so  what ", " so what", "so\twhat\n", "so what"])
@pytest.mark.parametrize("image", ["./x.png", "img/../x.png", "x.png"])
def test_rows_of_another_spelling_are_the_same(tmp_path, made, text, image):
    first, second = ([(name, *row, "0")] for name, row in [("a7", ("so what", "x.png")), ("b8", (text, image))])
    image_is_array = made is in_code and image != "x.png"  # whose numbers are compared
    found = shared_rows(keyed(made(tmp_path, "train", first)), keyed(made(tmp_path, "test", second)))
    assert found is None if image_is_array else found is not None


@pytest.mark.parametrize("image", ["./x.png", "img/../x.png", "x.png"])
def test_rows_that_lack_a_modality_are_the_same_however_their_paths_are_spelled(tmp_path, image):
    def opened(split, path):
        row = {"id": "a7", "text": None, "image": path, "label": "0"}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row))
        return Table(split, str(tmp_path), **OPTIONS)

    assert shared_rows(keyed(opened("train", "x.png")), keyed(opened("test", image))) is not None


def test_a_path_in_code_is_the_same_however_it_is_spelled():
    class OfFiles(Made):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            return replace(example, inputs={**example.inputs, "image": Path(self.rows[index][2])})

    one, other = OfFiles([("a7", "so", "img/x.png", "0")]), OfFiles([("b8", "so ", "img/../img/./x.png", "0")])
    assert shared_rows(keyed(one), keyed(other)) is not None


def test_the_same_ids_of_other_rows_are_told_unless_each_split_counts_its_rows(tmp_path):
    changed = [(name, text + "!", *rest) for name, text, *rest in rows("abc")]
    uses = {"train": in_lines(tmp_path, "train", rows("abc")), "test": in_lines(tmp_path, "test", changed)}
    (problem,) = shared_problems(DataConfig("csv", {}), uses, INFO)
    assert "3 of its 3 ids are ids of data.train too, for rows of another content" in problem.message


@pytest.mark.parametrize("numbers", [range(5), range(1, 6), [3, 0, 4, 2, 1]])
def test_splits_that_each_count_their_rows_are_different(tmp_path, numbers):
    first, second = ([(str(n), f"{word}{n}", "x.png", "0") for n in numbers] for word in "ab")
    assert shared_rows(keyed(in_csv(tmp_path, "train", first)), keyed(in_csv(tmp_path, "test", second))) is None


def test_hateful_memes_share_only_where_that_is_allowed(tmp_path):
    line = {"id": 42953, "img": "img/42953.png", "label": 0, "text": "look"}
    for split in ("dev_seen", "dev_unseen"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line | {"id": 1, "text": split}) + "\n")
    for allowed in (False, True):
        uses = {
            use: HatefulMemes(split, str(tmp_path), allow_overlap=allowed)
            for use, split in {"validation": "dev_seen", "test": "dev_unseen"}.items()
        }
        assert len(shared_problems(DataConfig("hateful_memes", {}), uses, INFO)) == (not allowed)


@pytest.mark.parametrize("target", [2, -1, True, 0.5, "1", [1.0, 0.0]])
def test_a_target_in_code_that_is_no_class_is_told(target):
    class Wrong(Made):
        def __getitem__(self, index):
            return replace(super().__getitem__(index), target=target if index == 3 else 1)

    with pytest.raises(DataError, match=r"row 3: the target of example 'name-d' is .+, wanted a class from 0 to 1, or None"):
        survey(Wrong(rows("abcdef")), INFO)


@pytest.mark.parametrize("target", [[1.0], [0.0, 2.0], [0.0, float("nan")], 1, None, "ab"])
def test_scores_in_code_that_are_none_are_told(target):
    class Wrong(Made):
        def __getitem__(self, index):
            return replace(super().__getitem__(index), target=target if index == 1 else [0.0, 1.0])

    info = replace(INFO, task="multi_label")
    if target is None:
        survey(Wrong(rows("ab")), info)
        with pytest.raises(DataError, match="the training example 'name-b' has no label"):
            survey(Wrong(rows("ab")), info, needs_labels=True)
    else:
        with pytest.raises(DataError, match="wanted 2 numbers from 0 to 1, one a class"):
            survey(Wrong(rows("ab")), info)
