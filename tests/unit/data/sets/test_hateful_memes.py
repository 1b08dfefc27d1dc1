"""Hateful Memes in its publisher's layout, made here."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch

from msd_framework.cli import main
from msd_framework.data.base import Example
from msd_framework.data.sets.hateful_memes import HatefulMemes
from msd_framework.errors import ConfigError, DataError
from msd_framework.registry import DATASETS

LINES = [
    {"id": 42953, "img": "img/42953.png", "label": 0, "text": "its their character not their color that matters"},
    {"id": "08291", "img": "img/08291.png", "label": 1, "text": "look", "decided_by": "both"},
    {"id": 8291, "img": "img/8291.png", "label": 1, "text": ""},
]


@pytest.fixture
def root(tmp_path) -> Path:
    write(tmp_path, "train", *LINES)
    write(tmp_path, "test_unseen", *({k: v for k, v in line.items() if k != "label"} for line in LINES))
    return tmp_path


def write(root: Path, split: str, *lines) -> None:
    (root / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_examples_are_what_the_lines_say(root):
    dataset = HatefulMemes("train", str(root))
    assert [dataset[i] for i in range(len(dataset))] == [
        Example("42953", {"image": root / "img/42953.png", "text": LINES[0]["text"]}, 0, f"{root}/train.jsonl:1"),
        Example("08291", {"image": root / "img/08291.png", "text": "look"}, 1, f"{root}/train.jsonl:2", {"decided_by": "both"}),
        Example("8291", {"image": root / "img/8291.png", "text": ""}, 1, f"{root}/train.jsonl:3"),
    ]


def test_a_blind_test_has_no_targets(root):
    dataset = HatefulMemes("test_unseen", str(root))
    assert [dataset[i].target for i in range(3)] == [None] * 3


def test_a_training_line_without_label_is_an_error(root):
    write(root, "train", {k: v for k, v in LINES[0].items() if k != "label"})
    with pytest.raises(DataError, match=r"train.jsonl:1: has no 'label'"):
        HatefulMemes("train", str(root))


def test_the_first_rows_of_the_file_are_taken(root):
    dataset = HatefulMemes("train", str(root), max_examples=2)
    assert [dataset[i].id for i in range(len(dataset))] == ["42953", "08291"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"label": 2}, r"train.jsonl:4: label is 2 \(int\), wanted one of 0, 1"),
        ({"label": "1"}, r"train.jsonl:4: label is '1' \(str\), wanted one of 0, 1"),
        ({"label": True}, r"train.jsonl:4: label is True \(bool\), wanted one of 0, 1"),
        ({"img": "../../etc/passwd"}, r"train.jsonl:4: '../../etc/passwd' does not lie inside"),
        ({"img": "/etc/passwd"}, r"train.jsonl:4: '/etc/passwd' does not lie inside"),
        ({"img": "img/out.png"}, r"train.jsonl:4: 'img/out.png' does not lie inside"),
        ({"img": None}, r"train.jsonl:4: img is None \(NoneType\), wanted a text"),
        ({"text": ["a"]}, r"train.jsonl:4: text is \['a'\] \(list\), wanted a text"),
        ({"decided_by": 1}, r"train.jsonl:4: decided_by is 1 \(int\), wanted a text"),
        ({"id": "08291"}, r"train.jsonl:4: id '08291' is already that of .+train.jsonl:2"),
    ],
)
def test_a_bad_line_is_named_or_left_out(root, change, sentence):
    (root / "img").mkdir()
    (root / "img" / "out.png").symlink_to("/etc/passwd")
    write(root, "train", *LINES, {"id": 4, "img": "img/4.png", "label": 0, "text": "x"} | change, LINES[2] | {"id": 5})
    with pytest.raises(DataError, match=sentence):
        HatefulMemes("train", str(root))
    dataset = HatefulMemes("train", str(root), on_error="skip")
    assert [dataset[i].id for i in range(len(dataset))] == ["42953", "08291", "8291", "5"]
    assert len(dataset.skipped) == 1


def test_a_missing_file_is_one_sentence_with_the_page_and_the_tree(tmp_path):
    (sentence,) = HatefulMemes.check({"root": str(tmp_path)}, "dev_seen")
    assert all(part in sentence for part in (f"{tmp_path}/dev_seen.jsonl", "https://hatefulmemeschallenge.com", "img/<id>.png"))
    with pytest.raises(DataError, match=r"dev_seen.jsonl is missing"):
        HatefulMemes("dev_seen", str(tmp_path))


def test_the_root_has_a_default():
    assert HatefulMemes.check({}, "train")[0].startswith("data/hateful_memes/train.jsonl is missing")


def test_an_unknown_split_names_the_nearest(root):
    (sentence,) = HatefulMemes.check({"root": str(root)}, "dev_sen")
    assert sentence.startswith("hateful_memes has no split 'dev_sen'. Did you mean 'dev_seen'?")


def test_what_is_there_has_no_problem(root):
    assert HatefulMemes.check({"root": str(root)}, "train") == []


def test_max_examples_must_be_positive(root):
    with pytest.raises(ValueError, match="max_examples is 0, wanted at least 1"):
        HatefulMemes("train", str(root), max_examples=0)


def test_a_yaml_builds_it_and_its_typos_are_found(root):
    assert len(DATASETS.build({"type": "hateful_memes", "root": str(root), "max_examples": 1}, split="train")) == 1
    with pytest.raises(ConfigError, match="Did you mean 'max_examples'"):
        DATASETS.build({"type": "hateful_memes", "max_example": 1}, split="train")


def test_it_is_described_without_being_read():
    info = HatefulMemes.describe({})
    assert (dict(info.modalities), info.num_classes, info.task, info.class_names) == (
        {"image": "pixels", "text": "tokens"},
        2,
        "single_label",
        ("benign", "hateful"),
    )


def test_mmfs_layout_is_read(tmp_path):
    folder = tmp_path / "defaults/annotations"
    folder.mkdir(parents=True)
    write(folder, "train", LINES[0])
    assert HatefulMemes.check({"root": str(tmp_path)}, "train") == []
    assert HatefulMemes("train", str(tmp_path))[0].inputs["image"] == tmp_path / "defaults/images/img/42953.png"


@pytest.mark.parametrize(
    ("uses", "wrong"),
    [
        ({"validation": "dev_seen", "test": "dev_unseen"}, {"test"}),
        ({"train": "dev_unseen", "validation": "dev_seen", "test": "test_seen"}, {"validation"}),
        ({"validation": "dev", "test": "dev_seen"}, {"test"}),
        ({"validation": "test", "test": "test_seen"}, {"test"}),
        ({"train": "train", "validation": "dev_seen", "test": "test_seen"}, set()),
        ({"validation": "dev_unseen", "test": "test_unseen"}, set()),
    ],
)
def test_splits_that_share_memes_are_refused_unless_that_is_wanted(uses, wrong):
    found = HatefulMemes.check_together({}, uses)
    assert set(found) == wrong
    assert all("has memes in common with" in text and "allow_overlap=true" in text for text in found.values())
    assert HatefulMemes.check_together({"allow_overlap": True}, uses) == {}


def test_a_submission_is_what_the_challenge_takes(root):
    dataset = HatefulMemes("test_unseen", str(root))
    entries = dataset.submission_entries([1, 0], torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    file = dataset.submission
    rows = list(csv.DictReader(io.StringIO(file.begin + file.between.join(entries) + file.end)))
    assert file.name == "submission_test_unseen.csv"
    assert [(row["id"], row["label"]) for row in rows] == [("08291", "1"), ("42953", "0")]
    assert float(rows[0]["proba"]) == pytest.approx(1 / (1 + torch.e**-1), abs=1e-6)


def test_a_run_that_uses_splits_with_memes_in_common_is_refused(tiny_config, tmp_path, capsys):
    words = ["run", f"config={tiny_config}", "data.test=dev_unseen", "run_type=check", f"env.save_dir={tmp_path / 'run'}"]
    assert main(words) == 2
    assert "data.test: dev_unseen has memes in common with dev_seen, which is data.validation" in capsys.readouterr().err
    assert main([*words, "data.dataset.allow_overlap=true"]) == 2
    assert "in common" not in capsys.readouterr().err  # only that its file is not there


def test_a_run_writes_its_submission(tiny_teacher):
    rows = (tiny_teacher / "submission_test_seen.csv").read_text().splitlines()
    assert (rows[0], len(rows)) == ("id,proba,label", 13)
