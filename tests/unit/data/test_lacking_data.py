"""Rows that lack a modality, from files to batches: what is taken for missing, what is refused, and what stands in its place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msd_framework.data.base import Example, MultimodalDataset, Processor
from msd_framework.data.batches.collate import Collator, collate
from msd_framework.data.batches.reader import ExampleReader
from msd_framework.data.overlap import shared_rows, survey
from msd_framework.data.processors.features import RegionFeatures
from msd_framework.data.processors.vectors import Vectors
from msd_framework.data.regions.convert import convert, plan_of
from msd_framework.data.regions.draft import StoreDraft
from msd_framework.data.regions.open import open_features
from msd_framework.data.sets.tables import Table
from msd_framework.errors import DataError
from msd_framework.registry import PROCESSORS
from msd_framework.structures import DatasetInfo
from tests.unit.data.regions.test_feature_readers import image, write_hdf5, write_lmdb, write_npy

COLUMNS: dict[str, Any] = {"texts": {"text": "caption"}, "images": {"image": "photo"}, "label": "mood", "classes": ["bad", "good"]}
ROWS = [{"caption": "what a day", "photo": "a.png", "mood": "good"}, {"caption": "oh no", "photo": "b.png", "mood": "bad"}]
WITHOUT = {
    "null": ROWS[0] | {"photo": None},
    "absent": {"caption": "no photo", "mood": "bad"},
    "empty": ROWS[0] | {"photo": ""},
}


def table(root: Path, rows: list[dict[str, Any]], suffix: str = "jsonl", **options: Any) -> Table:
    if suffix == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = "caption,photo,mood\n" + "".join(",".join(str(row[k] or "") for k in ROWS[0]) + "\n" for row in rows)
    (root / f"train.{suffix}").write_text(text)
    return Table("train", root=str(root), **{**COLUMNS, **options})


@pytest.mark.parametrize("missing", WITHOUT)
def test_a_row_of_json_lacks_a_file_that_is_null_absent_or_empty(tmp_path: Path, missing: str) -> None:
    found = table(tmp_path, [ROWS[0], WITHOUT[missing], *ROWS])
    assert [found[i].inputs["image"] is None for i in range(4)] == [False, True, False, False]
    assert found[1].inputs["text"] == WITHOUT[missing]["caption"]


def test_a_row_of_csv_lacks_a_file_whose_cell_is_empty_and_has_a_text_that_is(tmp_path: Path) -> None:
    found = table(tmp_path, [ROWS[0] | {"caption": ""}, WITHOUT["null"]], "csv")
    assert [found[i].inputs["image"] is None for i in range(2)] == [False, True]
    assert found[0].inputs["text"] == ""


def test_a_row_lacks_a_text_that_is_null_and_one_of_nothing_is_a_text(tmp_path: Path) -> None:
    found = table(tmp_path, [ROWS[0] | {"caption": None}, ROWS[1] | {"caption": ""}])
    assert [found[i].inputs["text"] for i in range(2)] == [None, ""]


def test_a_pattern_lacks_what_one_of_its_columns_lacks(tmp_path: Path) -> None:
    found = table(tmp_path, [*ROWS, WITHOUT["null"], WITHOUT["absent"]], images={"image": "photos/{photo}"})
    assert [found[i].inputs["image"] is None for i in range(4)] == [False, False, True, True]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_column_that_no_row_has_is_a_misspelling(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError, match=r"train\.\w+:\d: has no 'foto', only .*Did you mean 'photo'\?"):
        table(tmp_path, ROWS, suffix, images={"image": "foto"})


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_row_with_nothing_in_it_is_refused_or_left_out(tmp_path: Path, suffix: str) -> None:
    rows = [ROWS[0], {"caption": None, "photo": None, "mood": "bad"}]
    if suffix == "csv":  # where an empty cell is a text of nothing
        assert table(tmp_path, rows, suffix)[1].inputs == {"text": "", "image": None}
        return
    with pytest.raises(DataError, match=r"train\.jsonl:2: has no image and no text, so there is nothing to look at"):
        table(tmp_path, rows)
    assert len(table(tmp_path, rows, on_error="skip").skipped) == 1


def test_a_row_without_all_that_a_model_takes_is_refused_with_its_line(tmp_path: Path) -> None:
    reader = ExampleReader(table(tmp_path, [WITHOUT["null"], ROWS[0]]), {"image": PROCESSORS.build({"type": "pixels", "size": 4})})
    with pytest.raises(DataError, match=r"train\.jsonl:1: the example '1' has no image, and nothing else is read of it"):
        reader(0)
    with pytest.raises(DataError, match=r"train\.jsonl:1: the example '1' has no image"):
        reader.length(0)


# Batches


class Listed(MultimodalDataset):
    """Examples that are given."""

    def __init__(self, values: list[dict[str, Any]]):
        self.values = values

    @classmethod
    def describe(cls, options: Any) -> DatasetInfo:
        raise NotImplementedError

    @classmethod
    def check(cls, options: Any, split: str) -> list[str]:
        return []

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Example:
        return Example(str(index), self.values[index], 0, f"here:{index}")


def made(name: str) -> Processor:
    processor: Processor = PROCESSORS.build(
        {
            "tokenizer": {"type": "tokenizer", "max_length": 8},
            "token_ids": {"type": "token_ids", "num_words": 9},
            "vectors": {"type": "vectors", "feature_size": 3},
            "pixel_array": {"type": "pixel_array", "size": 2},
        }[name]
    )
    if name == "tokenizer":
        processor.fit(["what a day", "oh no"])
    return processor


VALUES = {
    "tokenizer": ["what a day", "oh no"],
    "token_ids": [[0, 1, 2], [4]],
    "vectors": [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [7.0, 8.0, 9.0]],
    "pixel_array": [np.ones((2, 2)), np.full((2, 2), 2.0)],
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("lacking", [(1,), (0, 1, 2)])
def test_what_is_missing_has_no_position_but_special_ones_and_the_others_are_as_ever(name: str, lacking: tuple[int, ...]) -> None:
    processor = made(name)
    values: list[Any] = [VALUES[name][0], None, VALUES[name][1]]
    values = [None if i in lacking else value for i, value in enumerate(values)]
    batch = collate(processor, values, [None if v is None else processor.load(v) for v in values])
    assert batch.present.tolist() == [v is not None for v in values]
    assert (batch.mask & ~batch.special)[list(lacking)].sum() == 0
    assert batch.mask.shape[1] >= 1
    if batch.values.is_floating_point():
        assert batch.values[list(lacking)].eq(0).all()
    given = [v for v in values if v is not None]
    if given:
        alone = collate(processor, given, [processor.load(v) for v in given])
        torch.testing.assert_close(batch.values[[0, 2]], alone.values, rtol=0, atol=0)
        assert torch.equal(batch.mask[[0, 2]], alone.mask)


def test_a_missing_text_is_its_special_tokens_at_the_front() -> None:
    tokenizer = made("tokenizer")
    batch = collate(tokenizer, ["what a day", None], [tokenizer.load("what a day"), None])
    facts = tokenizer.facts
    assert batch.values[1, :2].tolist() == [facts["cls_id"], facts["sep_id"]]
    assert batch.mask[1].tolist() == [True, True, False, False, False]
    assert batch.num_special == 2


def test_examples_without_the_same_modality_are_the_same_input() -> None:
    vectors = made("vectors")
    batch = collate(vectors, [None, [1.0, 2.0, 3.0], None, None], [None, vectors.load([1.0, 2.0, 3.0]), None, None])
    assert batch.distinct is None  # vectors have no name
    tokenizer = made("tokenizer")
    batch = collate(tokenizer, ["oh no", None, None, None], [tokenizer.load("oh no"), None, None, None])
    assert batch.distinct is not None
    assert batch.distinct.of.tolist() == [0, 1, 1, 1]


def test_a_batch_says_who_has_what_only_where_somebody_lacks_it() -> None:
    processors = {"image": made("vectors"), "text": made("tokenizer")}
    values = [{"image": [1.0, 2.0, 3.0], "text": "oh no"}, {"image": None, "text": "what"}, {"image": [], "text": "a day"}]
    reader = ExampleReader(Listed(values), processors)
    loaded = [x for x in map(reader, range(3)) if x is not None]
    batch = Collator(processors, DatasetInfo({"image": "features", "text": "tokens"}, 2, "single_label"))(loaded)
    assert {m: x.tolist() for m, x in batch.having.items()} == {"image": [True, False, False]}
    assert batch.shown("full", ["image", "text"]) is None
    assert batch.shown("text", ["image", "text"]) is None
    shown = batch.shown("image", ["image", "text"])
    assert shown is not None
    assert shown.tolist() == [True, False, False]


def test_a_processor_of_a_users_own_without_a_blank_is_told() -> None:
    class Own(Vectors):
        blank = Processor.blank

    with pytest.raises(DataError, match="an example lacks what Own makes tensors of, which has no `blank` to stand in"):
        collate(Own(3), [None], [None])


# Images in which nothing was found


@pytest.mark.parametrize("write", [write_npy, write_lmdb, write_hdf5])
@pytest.mark.parametrize("boxes", [False, True])
def test_an_image_without_a_region_is_one_of_nothing_in_every_file(tmp_path: Path, write: Any, boxes: bool) -> None:
    nothing = image(0, 2) | {"features": np.zeros((0, 6), np.float32), "bbox": np.zeros((0, 4), np.float32), "num_boxes": 0}
    folder = write(tmp_path / "x", {"a": image(0, 3), "none": nothing})
    features = RegionFeatures(folder, boxes=boxes)
    features.fit(["none.png", "a.png"])
    batch = features.collate([features.load("a.png"), features.load("none.png")])
    assert batch.mask.tolist() == [[True] * 3, [False] * 3]
    assert batch.values[1].eq(0).all()
    assert features.length("none.png") == 0
    assert all(x.isfinite().all() for x in batch.extras.values())
    alone = features.collate([features.load("none.png")])
    assert alone.mask.tolist() == [[False]]
    assert all(x.isfinite().all() for x in alone.extras.values())
    plan = plan_of(open_features(folder), "fp32", None)
    draft = StoreDraft(tmp_path / "store", plan)
    assert not convert(open_features(folder), draft).skipped
    stored = RegionFeatures(str(tmp_path / "store"), boxes=boxes)
    stored.fit(["a.png"])
    assert torch.equal(stored.collate([stored.load("a.png"), stored.load("none.png")]).mask, batch.mask)


@pytest.mark.parametrize("shape", [(0,), (0, 0)])
def test_an_empty_array_without_a_width_is_an_image_without_a_region(tmp_path: Path, shape: tuple[int, ...]) -> None:
    folder = write_npy(tmp_path / "x", {"a": image(0, 3)})
    np.save(Path(folder) / "none.npy", np.zeros(shape, np.float32))
    features = RegionFeatures(folder)
    features.fit(["none.png", "a.png"])
    assert features.load("none.png").features.shape == (0, 6)


def test_features_of_which_nobody_knows_the_size_are_told(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0, 0), np.float32))
    features = RegionFeatures(str(tmp_path))
    features.fit(["none.png"])
    with pytest.raises(DataError, match=re.escape("how long they are; give feature_size")):
        features.blank()


# Splits


def test_rows_of_two_splits_that_lack_a_modality_are_the_same_only_if_all_of_them_is(tmp_path: Path) -> None:
    def split(name: str, rows: list[dict[str, Any]]) -> Table:
        (tmp_path / name).mkdir(exist_ok=True)
        return table(tmp_path / name, rows, id_column="id")

    def shared(first: MultimodalDataset, second: MultimodalDataset) -> int:
        info = DatasetInfo({"image": "pixels", "text": "tokens"}, 2, "single_label")
        keys = [one.row_keys or survey(one, info) for one in (first, second)]
        found = shared_rows((first, keys[0]), (second, keys[1]))
        return 0 if found is None else found.count

    post = {"caption": "lol", "photo": None, "mood": "good"}
    train = split("train", [post | {"id": "a"}, ROWS[0] | {"id": "b"}])
    assert shared(train, split("test", [post | {"id": "c"}, ROWS[1] | {"id": "d"}])) == 0
    assert shared(train, split("test", [post | {"id": "a"}, ROWS[1] | {"id": "d"}])) == 1
    assert shared(train, split("test", [post | {"id": "c"}, ROWS[0] | {"id": "d"}])) == 1
    made = Listed([{"image": None, "text": "lol"}, {"image": [1.0], "text": "lol"}])
    assert shared(made, Listed([{"image": [2.0], "text": "a"}, {"image": None, "text": "lol"}])) == 0
    assert shared(made, Listed([{"image": None, "text": "lol"}])) == 1
