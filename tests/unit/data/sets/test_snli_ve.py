"""SNLI-VE in its publisher's layout and in MMF's, made here."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_framework.data.base import Example
from msd_framework.data.sets.snli_ve import SNLIVE
from msd_framework.errors import DataError

PAIR = {"pairID": "47.jpg#0r1e", "sentence1": "A man.", "sentence2": "Someone.", "gold_label": "entailment", "Flickr30K_ID": "47"}


def line(number: int, **changes) -> dict:
    return PAIR | {"pairID": f"{number}.jpg#0r1e"} | changes


def write(root: Path, split: str, *lines, folder: str = "") -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / f"snli_ve_{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))


def opened(root: Path, **options) -> SNLIVE:
    return SNLIVE("dev", str(root), **options)


def test_an_example_is_what_its_line_says(tmp_path):
    write(tmp_path, "dev", line(1), line(2, gold_label="neutral", decided_by="text"), line(3, gold_label="contradiction"))
    dataset = opened(tmp_path)
    place, image = f"{tmp_path}/snli_ve_dev.jsonl", tmp_path / "flickr30k_images/47.jpg"
    assert dataset[0] == Example("1.jpg#0r1e", {"image": image, "text": "Someone."}, 0, f"{place}:1")
    assert [dataset[i].target for i in range(3)] == [0, 1, 2]
    assert dataset[1].facts == {"decided_by": "text"}
    assert SNLIVE.describe({}).class_names == ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize("key", ["Flickr30K_ID", "Flickr30kID", "Flikr30kID"])
@pytest.mark.parametrize("photo", ["123", "123.jpg", 123])
def test_a_photo_is_found_however_its_key_is_spelled(tmp_path, key, photo):
    record = {k: v for k, v in line(1).items() if k != "Flickr30K_ID"} | {key: photo}
    write(tmp_path, "dev", record)
    assert opened(tmp_path)[0].inputs["image"].name == "123.jpg"


def test_a_photo_is_found_by_the_pair_where_no_key_names_it(tmp_path):
    write(tmp_path, "dev", {k: v for k, v in line(4705552913).items() if k != "Flickr30K_ID"})
    assert opened(tmp_path)[0].inputs["image"].name == "4705552913.jpg"


def test_pairs_without_a_label_are_left_out_without_a_word(tmp_path):
    write(tmp_path, "dev", line(1, gold_label="-"), line(2), line(3, gold_label="-", sentence2=3), line(4))
    dataset = opened(tmp_path)
    assert [dataset[i].id for i in range(len(dataset))] == ["2.jpg#0r1e", "4.jpg#0r1e"]
    assert dataset.skipped == []
    assert len(opened(tmp_path, max_examples=1)) == 1


def test_mmfs_layout_is_read(tmp_path):
    write(tmp_path, "dev", line(1), folder="defaults/annotations")
    assert opened(tmp_path)[0].inputs["image"] == tmp_path / "defaults/images/flickr30k_images/47.jpg"
    assert SNLIVE.check({"root": str(tmp_path)}, "dev") == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gold_label": "maybe"}, "dev.jsonl:2: gold_label is 'maybe'.+wanted one of 'entailment', 'neutral', 'contradiction'"),
        ({"sentence2": None}, r"dev.jsonl:2: sentence2 is None \(NoneType\), wanted a text"),
        ({"Flickr30K_ID": "../../secret"}, r"dev.jsonl:2: '../../secret.jpg' does not lie inside"),
        ({"Flickr30K_ID": 1.5}, r"dev.jsonl:2: Flickr30K_ID is 1.5 \(float\), wanted an id"),
        ({"pairID": "1.jpg#0r1e"}, r"dev.jsonl:2: pairID '1.jpg#0r1e' is already that of .+dev.jsonl:1"),
    ],
)
def test_a_wrong_line_is_named_or_left_out(tmp_path, changes, sentence):
    write(tmp_path, "dev", line(1), line(2, **changes), line(3))
    with pytest.raises(DataError, match=sentence):
        opened(tmp_path)
    dataset = opened(tmp_path, on_error="skip")
    assert ([dataset[i].id[0] for i in range(len(dataset))], len(dataset.skipped)) == (["1", "3"], 1)


@given(length=st.integers(1, len(json.dumps(line(2))) - 1))
def test_a_truncated_line_is_named(tmp_path_factory, length):
    root = tmp_path_factory.getbasetemp() / "snli_cut"
    root.mkdir(exist_ok=True)
    (root / "snli_ve_dev.jsonl").write_text(json.dumps(line(1)) + "\n" + json.dumps(line(2))[:length])
    with pytest.raises(DataError, match=r"snli_ve_dev.jsonl:2: is not JSON"):
        opened(root)


def test_a_missing_file_and_an_unknown_split_are_named(tmp_path):
    with pytest.raises(DataError, match=r"snli_ve_dev.jsonl is missing: download the data set from https://github.com/necla-ml"):
        opened(tmp_path)
    assert SNLIVE.check({}, "tset")[0].startswith("snli_ve has no split 'tset'. Did you mean 'test'?")
    with pytest.raises(ValueError, match="max_examples is 0"):
        opened(tmp_path, max_examples=0)
