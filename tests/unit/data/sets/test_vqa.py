"""VQA v2 in its publisher's layout, made here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msd_framework.data.rows.json_array import JsonArray
from msd_framework.data.sets.vqa2 import VQA2
from msd_framework.data.sets.vqa_answers import answer_score
from msd_framework.errors import DataError

PEOPLE = {
    10: ["Two."] * 4 + ["2"] * 3 + ["many"] * 3,
    20: ["yes"] * 10,
    30: ["no"] * 8 + ["No!", "a cat"],
    40: ["yes"] * 9 + ["no"],
}


def question(number: int, **changes) -> dict:
    return {"image_id": number // 10, "question": f"what is {number}?", "question_id": number} | changes


def annotation(number: int, **changes) -> dict:
    answers = [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(PEOPLE[number], 1)]
    commonest = max(PEOPLE[number], key=PEOPLE[number].count)
    record = {"question_id": number, "image_id": number // 10, "question_type": "what", "answer_type": "other"}
    return record | {"multiple_choice_answer": commonest, "answers": answers} | changes


def write(root: Path, split: str, questions, annotations=None) -> None:
    head = {"info": {"year": 2017}, "license": {}}
    (root / f"v2_OpenEnded_mscoco_{split}_questions.json").write_text(json.dumps(head | {"questions": questions}))
    if annotations is not None:
        (root / f"v2_mscoco_{split}_annotations.json").write_text(json.dumps(head | {"annotations": annotations, "data_type": "x"}))


@pytest.fixture
def root(tmp_path) -> Path:
    numbers = sorted(PEOPLE)
    write(tmp_path, "train2014", [question(n) for n in numbers], [annotation(n) for n in reversed(numbers)])
    write(tmp_path, "test-dev2015", [question(n) for n in numbers])
    return tmp_path


def opened(root: Path, split: str = "train2014", **options) -> VQA2:
    return VQA2(split, str(root), min_count=options.pop("min_count", 1), **options)


def test_examples_are_what_the_files_say_in_the_order_of_the_questions(root):
    dataset = opened(root)
    examples = [dataset[i] for i in range(len(dataset))]
    assert [e.id for e in examples] == ["10", "20", "30", "40"]
    assert examples[0].inputs == {"image": root / "train2014/COCO_train2014_000000000001.jpg", "text": "what is 10?"}
    assert examples[0].source == f"{root}/v2_OpenEnded_mscoco_train2014_questions.json:questions:1"
    assert examples[0].facts == {"question_type": "what", "answer_type": "other"}


def test_targets_are_the_official_accuracy_of_each_answer_of_the_list(root):
    dataset = opened(root)
    assert dataset.answers == ("yes", "2", "no")  # 2 of 4 questions, then by letters
    for i, number in enumerate(sorted(PEOPLE)):
        wanted = [answer_score(answer, PEOPLE[number]) for answer in dataset.answers]
        assert list(dataset[i].target) == pytest.approx(wanted, abs=1e-7)  # float32
    assert opened(root, min_count=1).describe({"root": str(root), "min_count": 1}).class_names == dataset.answers


def test_an_answer_of_the_list_is_normalised_like_a_submitted_one_unless_all_people_agree(root):
    (root / "answers_vqa2.txt").write_text("Two!\n2\nYES\nyes\n")
    dataset = opened(root)
    for i, number in enumerate(sorted(PEOPLE)):
        wanted = [answer_score(answer, PEOPLE[number]) for answer in dataset.answers]
        assert list(dataset[i].target) == pytest.approx(wanted, abs=1e-7)
    assert [list(dataset[i].target) for i in (0, 1)] == [[1, 1, 0, 0], [0, 0, 0, 1]]


def test_a_list_of_answers_is_made_once_and_then_kept(root):
    assert VQA2.describe({"root": str(root), "min_count": 2}).class_names == ("yes",)
    assert (root / "answers_vqa2.txt").read_text() == "yes\n"
    (root / "v2_mscoco_train2014_annotations.json").unlink()
    assert VQA2.describe({"root": str(root)}).class_names == ("yes",)


def test_answers_are_counted_once_normalised_over_training_and_validation(root):
    write(root, "val2014", [question(50)], [annotation(10, question_id=50, multiple_choice_answer="2")])
    assert VQA2.describe({"root": str(root), "min_count": 2}).class_names == ("2", "yes")


def test_mmfs_list_of_answers_is_read_without_its_unknown(root):
    (root / "answers_vqa.txt").write_text("<unk>\nyes\nno\n")
    assert VQA2.describe({"root": str(root), "answers": "answers_vqa.txt"}).class_names == ("yes", "no")


def test_a_byte_order_mark_is_no_part_of_the_commonest_answer(root):
    (root / "answers_vqa2.txt").write_bytes(b"\xef\xbb\xbfyes\r\nno\r\n")
    assert opened(root).answers == ("yes", "no")
    assert VQA2.describe({"root": str(root)}).class_names == ("yes", "no")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"yes\n\nno\n", r"answers_vqa2.txt:2: is '', wanted an answer a line"),
        (b"yes\nno\nyes\n", r"answers_vqa2.txt:1: is 'yes', wanted an answer a line, each another one"),
        (b"caf\xe9\n", r"answers_vqa2.txt: is not UTF-8 \(.+ at byte 4\)"),
        (b"<unk>\n", r"answers_vqa2.txt: has no answers, wanted one a line"),
    ],
)
def test_a_damaged_list_of_answers_is_named(root, content, sentence):
    (root / "answers_vqa2.txt").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        opened(root)


def test_a_list_of_answers_that_cannot_be_made_is_an_error(root, monkeypatch):
    with pytest.raises(DataError, match=r"no answer is given 9 times in .+lower data.dataset.min_count"):
        VQA2.describe({"root": str(root)})
    (root / "none").touch()
    with pytest.raises(DataError, match=r"none/x/a.txt: cannot be written \(.+\); name another file"):
        VQA2.describe({"root": str(root), "answers": "none/x/a.txt", "min_count": 1})
    with pytest.raises(ValueError, match="min_count is 0, wanted at least 1"):
        VQA2.describe({"root": str(root), "min_count": 0})


def test_a_test_split_is_blind_and_its_photos_are_those_of_the_whole_test(root):
    opened(root)  # makes the list of answers
    dataset = opened(root, "test-dev2015")
    assert dataset[3].target is None
    assert dataset[3].inputs["image"] == root / "test2015/COCO_test2015_000000000004.jpg"


def test_a_submission_is_what_the_evaluation_server_takes(root):
    dataset = opened(root)
    entries = dataset.submission_entries([2, 0], torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]]))
    file = dataset.submission
    assert file.name == "submission_train2014.json"
    told = json.loads(file.begin + file.between.join(entries) + file.end)
    assert told == [{"question_id": 30, "answer": "2"}, {"question_id": 10, "answer": "yes"}]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"question": 3}, r"questions:3: question is 3 \(int\), wanted a text"),
        ({"question_id": "x"}, r"questions:3: question_id is 'x' \(str\), wanted a whole number"),
        ({"question_id": -1}, r"questions:3: question_id is -1 \(int\), wanted a whole number"),
        ({"image_id": True}, r"questions:3: image_id is True \(bool\), wanted a whole number"),
        ({"question_id": 20}, r"questions:3: question_id '20' is already that of .+questions:2; ids must differ"),
        ({"question_id": 33}, r"questions:3: question 33 has no answers in .+annotations.json"),
        ({"image_id": 9}, r"questions:3: question 30 is about image 9, and in .+annotations:2 about 3"),
    ],
)
def test_a_wrong_question_is_named_or_left_out(root, changed, sentence):
    write(root, "train2014", [question(10), question(20), question(30, **changed), question(40)])
    with pytest.raises(DataError, match=sentence):
        opened(root)
    dataset = opened(root, on_error="skip")
    assert [dataset[i].id for i in range(len(dataset))] == ["10", "20", "40"]
    assert len(dataset.skipped) == 1


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"answers": []}, r"annotations:1: answers is \[\] \(list\), wanted a list of \{answer: text\}"),
        ({"answers": [{"answer": 3}]}, r"annotations:1: answers is .+ wanted a list of \{answer: text\}"),
        ({"answer_type": 3}, r"annotations:1: answer_type is 3 \(int\), wanted a text"),
        ({"image_id": None}, r"annotations:1: image_id is None \(NoneType\), wanted a whole number"),
    ],
)
def test_wrong_answers_are_named_or_their_question_is_left_out(root, changed, sentence):
    numbers = sorted(PEOPLE)
    write(root, "train2014", [question(n) for n in numbers], [annotation(10, **changed), *map(annotation, numbers[1:])])
    with pytest.raises(DataError, match=sentence):
        opened(root)
    dataset = opened(root, on_error="skip")
    assert [dataset[i].id for i in range(len(dataset))] == ["20", "30", "40"]
    assert len(dataset.skipped) == 2  # the answers, and the question that lacks them


def test_a_missing_file_is_named_with_the_page(root, tmp_path):
    (sentence,) = VQA2.check({"root": str(root)}, "val2014")[:1]
    assert "val2014_questions.json is missing: download the data set from https://visualqa.org" in sentence
    write(root, "val2014", [question(10)])
    with pytest.raises(DataError, match=r"annotations.json is missing"):
        opened(root, "val2014")
    assert VQA2.check({"root": str(root)}, "val2015")[0].startswith("vqa2 has no split 'val2015'. Did you mean 'val2014'?")
    with pytest.raises(ValueError, match="max_examples is 0"):
        opened(root, max_examples=0)


def test_mmfs_pickle_is_refused_and_never_opened(tmp_path):
    folder = tmp_path / "defaults/annotations"
    folder.mkdir(parents=True)
    np.save(folder / "imdb_train2014.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (sentence,) = VQA2.check({"root": str(tmp_path)}, "train2014")
    assert "imdb_train2014.npy is MMF's, a pickle, which runs code when it is read: docs/datasets.md has the lines" in sentence


@pytest.mark.parametrize("text", ["b", "é", "a: b"])
def test_an_object_of_a_list_with_a_key_twice_is_named_and_can_be_skipped(tmp_path, text):
    file = tmp_path / "list.json"
    file.write_text(f'{{"list": [{{"id": 1, "text": "{text}"}}, {{"id": 2, "text": "a", "text": "b"}}]}}', encoding="utf-8")
    with pytest.raises(DataError, match=r"list\.json:list:2: has the key 'text' twice, wanted it once"):
        array_of(file)
    assert len(array_of(file, on_error="skip")) == 1


def array_of(file: Path, **options) -> JsonArray:
    return JsonArray(file, "list").open("id", lambda rows: rows.texts("text"), **options)


records = st.lists(
    st.builds(lambda text, extra: {"text": text} | extra, st.text(max_size=9), st.just({}) | st.just({"x": [1, {"y": "]}"}]})),
    max_size=30,
).map(lambda rows: [{"id": i} | row for i, row in enumerate(rows)])


@given(
    rows=records,
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    block=st.sampled_from([1, 9, 1 << 17]),
    group=st.integers(1, 9),
)
def test_a_list_in_a_json_file_is_read_as_json_reads_it(tmp_path_factory, rows, ascii_only, indent, block, group):
    from msd_framework.data.rows import json_array
    from msd_framework.data.rows import rows as rows_module

    file = tmp_path_factory.getbasetemp() / "list.json"
    document = {"before": [1, "]"], "list": rows, "after": {}}
    file.write_text(json.dumps(document, ensure_ascii=ascii_only, indent=indent), encoding="utf-8", errors="surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "BLOCK_BYTES", block)
        patch.setattr(json_array, "OBJECTS", group)
        good = [row for row in rows if not any("\ud800" <= c <= "\udfff" for c in row["text"])]
        if not good:
            with pytest.raises(DataError, match="holds no example that can be read"):
                array_of(file, on_error="skip")
            return
        found = array_of(file, on_error="skip")
    assert [row.record for row in found] == good
    assert [row.number for row in found] == [row["id"] + 1 for row in good]


WHOLE = json.dumps({"info": 12, "list": [{"id": i, "text": f"t{i}"} for i in range(3)], "z": 1})


@given(length=st.integers(0, len(WHOLE) - 10))
def test_a_truncated_json_file_is_named(tmp_path_factory, length):
    file = tmp_path_factory.getbasetemp() / "cut.json"
    file.write_text(WHOLE[:length])
    with pytest.raises(DataError, match=r"cut.json(:list)?(:\d+)?: (is not JSON|has the end of the file at byte)"):
        array_of(file, on_error="skip")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"lst": []}', r"has no list 'list', only 'lst'. Did you mean 'lst'\?|has no list 'list', only 'lst'"),
        ("[]", r"has '\[' at byte 1, wanted '\{'"),
        ('{"list": {}}', r"has '\{' at byte 10, wanted '\['"),
        ('{"list": []}', "holds no example that can be read"),
        ('{"list": [{"id": 1, "text": "a"} {"id": 2}]}', r"has '\{' at byte \d+, wanted ',' or '\]'"),
        ('{"list": [{"id": 1, "text": "a"}], "list": []}', r"x\.json: has the key 'list' twice, wanted it once"),
        ('{"info": {"a": 1, "a": 2}, "list": [{"id": 1, "text": "a"}]}', r"x\.json: has a key twice in 'info', wanted it once"),
        ('{"list": [{"id": 1, "text": "a"}], "z": {"a": 1, "a": 2}}', r"x\.json: has a key twice in 'z', wanted it once"),
        ('{"list": [7]}', r"list:1: is 7 \(int\), wanted an object"),
    ],
)
def test_another_json_file_is_named(tmp_path, content, sentence):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=sentence):
        array_of(tmp_path / "x.json")
