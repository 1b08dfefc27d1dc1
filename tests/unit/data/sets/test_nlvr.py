"""NLVR in its publisher's layout, made here; and the real one where it is there."""

import json
from collections import Counter
from pathlib import Path

import pytest

from msd_framework.data.base import Example
from msd_framework.data.processors.images import Pixels
from msd_framework.data.processors.text import Tokenizer
from msd_framework.data.sets.nlvr import NLVR
from msd_framework.errors import DataError

LINES = [
    {"sentence": "There is a tower.", "label": "true", "identifier": "10-0", "directory": "0", "evals": {"r0": "true"}},
    {"sentence": "No box is grey.", "label": "false", "identifier": "11-3", "directory": "1", "structured_rep": [[]]},
    {"sentence": "A circle touches.", "label": "true", "identifier": "12-1", "directory": "1"},
]


@pytest.fixture
def root(tmp_path) -> Path:
    write(tmp_path, *LINES)
    for line, count in zip(LINES, (6, 2, 0)):
        for k in range(count):
            image = tmp_path / f"dev/images/{line['directory']}/dev-{line['identifier']}-{k}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.touch()
    return tmp_path


def write(root: Path, *lines) -> None:
    (root / "dev").mkdir(exist_ok=True)
    (root / "dev" / "dev.json").write_text("\n".join(map(json.dumps, lines)))


def ids(dataset: NLVR) -> list[str]:
    return [dataset[i].id for i in range(len(dataset))]


def test_examples_are_what_the_lines_say(root):
    dataset = NLVR("dev", str(root))
    image = root / "dev/images/1/dev-11-3-0.png"
    assert ids(dataset) == ["10-0-0", "11-3-0", "12-1-0"]
    assert [dataset[i].target for i in range(3)] == [1, 0, 1]
    assert dataset[1] == Example(
        "11-3-0", {"image": image, "text": "No box is grey."}, 0, f"{root}/dev/dev.json:2", {"directory": "1"}
    )


def test_permutations_whose_image_is_there_are_used_and_the_first_always(root):
    assert ids(NLVR("dev", str(root), permutations=3)) == ["10-0-0", "10-0-1", "10-0-2", "11-3-0", "11-3-1", "12-1-0"]


def test_max_examples_counts_permutations(root):
    assert ids(NLVR("dev", str(root), permutations=6, max_examples=4)) == ["10-0-0", "10-0-1", "10-0-2", "10-0-3"]


@pytest.mark.parametrize("hold_out", [["0"], ["1"]])
def test_held_out_and_rest_share_no_directory_and_are_the_whole(root, hold_out):
    rest, held_out = (NLVR(f"dev/{part}", str(root), 6, hold_out) for part in ("rest", "held_out"))
    assert {held_out[i].facts["directory"] for i in range(len(held_out))} == set(hold_out)
    assert sorted(ids(rest) + ids(held_out)) == sorted(ids(NLVR("dev", str(root), 6, hold_out)))
    assert not {x.rsplit("-", 1)[0] for x in ids(rest)} & {x.rsplit("-", 1)[0] for x in ids(held_out)}


def test_a_directory_that_is_nowhere_is_an_error(root):
    with pytest.raises(DataError, match=r"dev.json: no example has the directory '7' of hold_out.+Known: 0, 1"):
        NLVR("dev/rest", str(root), hold_out=["7"])


def test_holding_everything_out_leaves_nothing(root):
    with pytest.raises(DataError, match="no example is left for split 'dev/rest', hold_out lists every directory"):
        NLVR("dev/rest", str(root), hold_out=["0", "1"])


def test_a_cut_needs_its_directories(root):
    assert NLVR.check({"root": str(root)}, "dev/rest") == [
        "split 'dev/rest' needs to know which directories are held out: list them in hold_out."
    ]
    assert NLVR.check({"root": str(root), "hold_out": ["0"]}, "dev/rest") == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"label": True}, r"dev.json:4: label is True \(bool\), wanted one of 'false', 'true'"),
        ({"label": "maybe"}, r"dev.json:4: label is 'maybe' \(str\), wanted one of 'false', 'true'"),
        ({"sentence": None}, r"dev.json:4: sentence is None \(NoneType\), wanted a text"),
        ({"directory": "../../.."}, r"dev.json:4: '.+' does not lie inside"),
        ({"directory": 5}, r"dev.json:4: directory is 5 \(int\), wanted a text"),
        ({"identifier": "/../../../../../x"}, r"dev.json:4: '.+' does not lie inside"),
        ({"identifier": "11-3"}, r"dev.json:4: identifier '11-3' is already that of .+dev.json:2"),
    ],
)
def test_a_bad_line_is_named_or_left_out(root, change, sentence):
    write(root, *LINES, LINES[0] | {"identifier": "13-0"} | change)
    with pytest.raises(DataError, match=sentence):
        NLVR("dev", str(root))
    dataset = NLVR("dev", str(root), on_error="skip")
    assert (len(dataset), len(dataset.skipped)) == (3, 1)


def test_a_missing_file_is_one_sentence_with_the_page_and_the_tree(root):
    (sentence,) = NLVR.check({"root": str(root)}, "test")
    assert all(part in sentence for part in (f"{root}/test/test.json", "https://lil.nlp.cornell.edu/nlvr/", "test/images/"))
    with pytest.raises(DataError, match=r"test.json is missing"):
        NLVR("test", str(root))


def test_an_unknown_split_names_the_nearest(root):
    (sentence,) = NLVR.check({"root": str(root)}, "dev/heldout")
    assert "Did you mean 'dev/held_out'?" in sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"permutations": 7}, "permutations is 7, wanted 1 to 6"),
        ({"permutations": 0}, "permutations is 0, wanted 1 to 6"),
        ({"max_examples": 0}, "max_examples is 0, wanted at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(root, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        NLVR("dev", str(root), **options)


def test_it_is_described_without_being_read():
    info = NLVR.describe({})
    assert (dict(info.modalities), info.num_classes, info.class_names) == (
        {"image": "pixels", "text": "tokens"},
        2,
        ("false", "true"),
    )


@pytest.fixture(scope="module")
def published(shared_data) -> str:
    return str(shared_data / "nlvr")


@pytest.mark.parametrize(
    ("split", "permutations", "num_examples", "num_true"),
    [("dev", 1, 989, 547), ("dev", 6, 5934, 3282), ("test", 1, 990, 556), ("test", 6, 990, 556)],
)
def test_the_published_files_are_read_whole(published, split, permutations, num_examples, num_true):
    dataset = NLVR(split, published, permutations)
    examples = [dataset[i] for i in range(len(dataset))]
    assert len(examples) == len({e.id for e in examples}) == num_examples
    assert Counter(e.target for e in examples) == {1: num_true, 0: num_examples - num_true}
    assert dataset.skipped == []


def test_published_examples_become_a_batch(published):
    dataset = NLVR("dev/held_out", published, permutations=6, hold_out=["5"], max_examples=12)
    examples = [dataset[i] for i in range(len(dataset))]
    tokenizer, pixels = Tokenizer(), Pixels([25, 100])
    tokenizer.fit(e.inputs["text"] for e in examples)
    text = tokenizer.collate([tokenizer.load(e.inputs["text"]) for e in examples])
    image = pixels.collate([pixels.load(e.inputs["image"]) for e in examples])
    assert image.values.shape == (12, 3, 25, 100)
    assert (text.values[:6] == text.values[0]).all()  # six orders of one sentence's boxes
    assert not (image.values[0] == image.values[1]).all()
    assert not (text.values == 1).any()  # no word is unknown to a tokenizer that learnt from them
