"""Data of a user's own in JSON-lines and CSV files."""

import csv
import io
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_framework.data.rows import csv_rows
from msd_framework.data.rows import rows as rows_module
from msd_framework.data.rows.csv_rows import CsvFile
from msd_framework.data.rows.row import RowBatch
from msd_framework.data.sets.tables import Table
from msd_framework.errors import ConfigError, DataError
from msd_framework.registry import DATASETS

ROWS = [
    {"name": "007", "caption": "what a day, really", "file": "img/1.png", "mood": "good", "source": "web"},
    {"name": "8", "caption": 'she said "no"\nand left', "file": "img/2.png", "mood": "bad", "source": ""},
    {"name": "é", "caption": "", "file": "img/1.png", "mood": "good", "source": "book"},
]
OPTIONS = {"texts": {"text": "caption"}, "images": {"image": "file"}, "label": "mood", "id_column": "name", "keep": ["source"]}


def write(root: Path, name: str, rows=ROWS) -> None:
    if name.endswith(".jsonl"):
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return
    with (root / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if name.endswith(".tsv") else ",")
        writer.writeheader()
        writer.writerows(rows)


def opened(root: Path, split: str = "train", **options) -> Table:
    return Table(split, str(root), **(OPTIONS | options))


def examples(table: Table) -> list:
    return [table[i] for i in range(len(table))]


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv", "train.tsv"])
def test_rows_become_examples_as_the_options_say(tmp_path, name):
    write(tmp_path, name)
    table = opened(tmp_path)
    found = examples(table)
    assert [e.id for e in found] == ["007", "8", "é"]
    assert [e.inputs["text"] for e in found] == [row["caption"] for row in ROWS]
    assert [e.inputs["image"] for e in found] == [tmp_path / row["file"] for row in ROWS]
    assert [e.target for e in found] == [1, 0, 1]  # bad, good
    assert [e.facts for e in found] == [{"source": row["source"]} for row in ROWS]
    lines = [1, 2, 3] if name.endswith("jsonl") else [2, 3, 5]
    assert [e.source for e in found] == [f"{tmp_path}/{name}:{line}" for line in lines]
    info = Table.describe({"root": str(tmp_path)} | OPTIONS)
    assert (dict(info.modalities), info.class_names, info.task) == (
        {"image": "pixels", "text": "tokens"},
        ("bad", "good"),
        "single_label",
    )


def test_files_may_have_any_name_and_format(tmp_path):
    write(tmp_path, "mine.tsv")
    write(tmp_path, "other.jsonl", ROWS[:1])
    files = {"train": "mine.tsv", "held out": "other.jsonl"}
    assert len(opened(tmp_path, files=files)) == 3
    assert examples(opened(tmp_path, "held out", files=files))[0].target == 1  # classes are those of train


def test_a_pattern_makes_a_path_of_columns(tmp_path):
    write(tmp_path, "train.jsonl", [row | {"number": i} for i, row in enumerate(ROWS)])
    table = opened(tmp_path, images={"image": "{source}/{number}.png"}, keep=[], texts={"text": "caption"}, max_examples=1)
    assert table[0].inputs["image"] == tmp_path / "web/0.png"
    write(tmp_path, "train.jsonl", [row | {"number": i, "source": 1.5} for i, row in enumerate(ROWS)])
    with pytest.raises(DataError, match=r"source is 1.5 .+ wanted an id"):
        opened(tmp_path, images={"image": "{source}/{number}.png"})


def test_other_kinds_of_modalities_are_files(tmp_path):
    write(tmp_path, "train.csv")
    table = opened(tmp_path, images={}, features={"regions": "file"}, audio={"sound": "file"})
    assert set(table[0].inputs) == {"regions", "sound", "text"}
    kinds = Table.describe(
        {"root": str(tmp_path)} | OPTIONS | {"images": {}, "features": {"r": "file"}, "audio": {"s": "file"}}
    ).modalities
    assert kinds == {"r": "features", "s": "waveform", "text": "tokens"}


def test_rows_without_ids_are_called_by_their_lines(tmp_path):
    write(tmp_path, "train.csv")
    assert [e.id for e in examples(opened(tmp_path, id_column=None))] == ["2", "3", "5"]


def test_numbers_are_classes_in_their_order(tmp_path):
    write(tmp_path, "train.jsonl", [ROWS[0] | {"name": str(i), "mood": mood} for i, mood in enumerate([10, 9, "10", 9])])
    assert Table.describe({"root": str(tmp_path)} | OPTIONS).class_names == ("9", "10")
    assert [e.target for e in examples(opened(tmp_path))] == [1, 0, 1, 0]
    assert [e.target for e in examples(opened(tmp_path, classes=[10, 9]))] == [0, 1, 0, 1]


def test_true_and_false_are_classes(tmp_path):
    write(tmp_path, "train.jsonl", [ROWS[0] | {"name": str(i), "mood": mood} for i, mood in enumerate([True, False, "true"])])
    assert [e.target for e in examples(opened(tmp_path))] == [1, 0, 1]


@pytest.mark.parametrize("value", [["a", "c"], "a|c", " c | a "])
def test_several_labels_are_a_list_or_a_text(tmp_path, value):
    write(tmp_path, "train.jsonl", [ROWS[0] | {"mood": value}, ROWS[1] | {"mood": ["b"]}, ROWS[2] | {"mood": []}])
    table = opened(tmp_path, task="multi_label")
    assert [e.target for e in examples(table)] == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(("name", "one", "none"), [("train.csv", "1", "0"), ("train.jsonl", 1, 0), ("train.jsonl", True, False)])
def test_several_labels_may_have_a_column_each(tmp_path, name, one, none):
    write(tmp_path, name, [ROWS[0] | {"x": one, "y": none}, ROWS[1] | {"x": none, "y": none}])
    table = opened(tmp_path, label=None, labels=["x", "y"], task="multi_label")
    assert [e.target for e in examples(table)] == [[1, 0], [0, 0]]


@pytest.mark.parametrize("value", [{"good": 0.25, "bad": 1}, [1, 0.25]])
def test_soft_targets_are_a_score_a_class(tmp_path, value):
    write(tmp_path, "train.jsonl", [ROWS[0] | {"mood": value}])
    assert examples(opened(tmp_path, task="soft_target", classes=["bad", "good"]))[0].target == [1, 0.25]


def test_classes_of_soft_targets_are_read_from_mappings(tmp_path):
    write(tmp_path, "train.jsonl", [ROWS[0] | {"mood": {"good": 0.25}}, ROWS[1] | {"mood": {"bad": 0.5}}])
    assert [e.target for e in examples(opened(tmp_path, task="soft_target"))] == [[0, 0.25], [0.5, 0]]


@pytest.mark.parametrize("name", ["test.jsonl", "test.csv"])
def test_rows_of_a_blind_split_may_lack_their_label(tmp_path, name):
    write(tmp_path, "train.jsonl")
    write(tmp_path, name, [ROWS[0] | {"mood": ""}, ROWS[1]])
    assert [e.target for e in examples(opened(tmp_path, "test", blind=["test"]))] == [None, 0]
    with pytest.raises(DataError, match=r"mood is '' \(str\), wanted a text, a whole number, true or false"):
        opened(tmp_path, "test")


BAD = [
    ({"mood": "god"}, r"mood is 'god', which is none of the classes bad, good. Did you mean 'good'\?"),
    ({"file": "../../etc/passwd"}, "'../../etc/passwd' does not lie inside"),
    ({"file": "/etc/passwd"}, "'/etc/passwd' does not lie inside"),
    ({"file": "out.png"}, "'out.png' does not lie inside"),
    ({"name": "007"}, "name '007' is already that of .+; ids must differ"),
    ({"name": ""}, r"name is '' \(str\), wanted an id"),
]


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv"])
@pytest.mark.parametrize(("changes", "sentence"), BAD)
def test_a_wrong_row_is_named_or_left_out(tmp_path, name, changes, sentence):
    (tmp_path / "out.png").symlink_to("/etc/passwd")
    write(tmp_path, name, [ROWS[0], ROWS[1] | changes, ROWS[2]])
    place = "train.jsonl:2" if name.endswith("jsonl") else "train.csv:3"
    with pytest.raises(DataError, match=f"{place}: {sentence}"):
        opened(tmp_path, classes=["bad", "good"])
    table = opened(tmp_path, classes=["bad", "good"], on_error="skip")
    assert ([e.id for e in examples(table)], len(table.skipped)) == (["007", "é"], 1)


@pytest.mark.parametrize(
    ("mood", "options", "sentence"),
    [
        (1.5, {}, r"mood is 1.5 \(float\), wanted a text, a whole number, true or false"),
        ([1.5], {"task": "multi_label"}, r"mood is \[1.5\] \(list\), wanted a list of labels, or a text with '\|' between them"),
        ({"good": 2}, {"task": "soft_target"}, r"mood is .+wanted a score from 0 to 1 for each of 2 classes"),
        ([0.1], {"task": "soft_target"}, r"mood is .+wanted a score from 0 to 1 for each of 2 classes"),
        ([0.1, "x"], {"task": "soft_target"}, "wanted a score from 0 to 1 for each of 2 classes"),
        ({"god": 1}, {"task": "soft_target"}, "mood is 'god', which is none of the classes"),
        (2, {"task": "multi_label", "labels": ["mood"]}, r"mood is 2 \(int\), wanted 0 or 1"),
        ("x", {"task": "soft_target", "labels": ["mood"]}, r"mood is 'x' \(str\), wanted a number from 0 to 1"),
        (None, {"task": "soft_target", "labels": ["mood"]}, "wanted a number from 0 to 1"),
    ],
)
def test_a_wrong_target_is_named(tmp_path, mood, options, sentence):
    write(tmp_path, "train.jsonl", [ROWS[0] | {"mood": mood}])
    columns = {"label": None} if "labels" in options else {"classes": ["bad", "good"]}
    with pytest.raises(DataError, match=sentence):
        opened(tmp_path, **columns, **options)


def test_a_row_without_its_label_is_named(tmp_path):
    row = {key: value for key, value in ROWS[1].items() if key != "mood"}
    write(tmp_path, "train.jsonl", [ROWS[0], row])
    with pytest.raises(DataError, match=r"train\.jsonl:2: has no 'mood', only"):
        opened(tmp_path, classes=["bad", "good"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"texts": {}, "images": {}}, "no column is a modality; name some in texts, images, features, audio"),
        ({"images": {"text": "file"}}, "'text' is a modality of two kinds, one of them in images"),
        ({"label": None}, "wanted one of label .+ and labels"),
        ({"labels": ["a"]}, "wanted one of label .+ and labels"),
        ({"label": None, "labels": ["a", "b"]}, "labels are a column a class, for task multi_label or soft_target"),
        ({"classes": ["a"]}, "the classes are a; wanted at least 2, each another one"),
        ({"classes": ["a", "b", "a"]}, "the classes are a, b, a; wanted at least 2, each another one"),
        ({"max_examples": 0}, "max_examples is 0, wanted at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_named(tmp_path, options, sentence):
    write(tmp_path, "train.jsonl")
    with pytest.raises(ValueError, match=sentence):
        opened(tmp_path, **options)


def test_files_that_are_not_there_or_of_another_format_are_named(tmp_path):
    write(tmp_path, "all.csv")
    check = Table.check
    (sentence,) = check({"root": str(tmp_path)}, "train")
    assert sentence == (
        f"{tmp_path}/train.jsonl is missing, wanted the rows of split 'train' as .jsonl, .csv, .tsv. "
        "It holds all.csv: name the file of each split in data.dataset.files."
    )
    (sentence,) = check({"files": {"train": "a.csv"}}, "tain")
    assert sentence == "files has no split 'tain'. Did you mean 'train'? Its splits: train."
    assert "has the suffix '.xlsx', wanted one of" in check({"files": {"train": "a.xlsx"}}, "train")[0]
    with pytest.raises(DataError, match=r"train.jsonl is missing, wanted the rows"):
        opened(tmp_path)
    with pytest.raises(DataError, match=r"train.jsonl is missing, so the classes cannot be read from it"):
        Table.describe({"root": str(tmp_path), **OPTIONS})


@pytest.mark.parametrize(
    ("moods", "task", "sentence"),
    [
        (["a"] * 3, "single_label", r"train.jsonl: mood has the labels \['a'\], wanted at least two different ones"),
        (range(10_002), "single_label", "train.jsonl: mood has over 10,000 different values, which are no labels"),
        ([[0.5]] * 2, "soft_target", "holds no example that can be read: .+wanted a mapping of class to score; give the classes"),
    ],
)
def test_a_column_that_holds_no_classes_is_named(tmp_path, moods, task, sentence):
    write(tmp_path, "train.jsonl", [{"mood": mood} for mood in moods])
    with pytest.raises(DataError, match=sentence):
        Table.describe({"root": str(tmp_path), "texts": {"text": "mood"}, "label": "mood", "task": task})


def test_a_yaml_names_it_by_its_format_and_its_typos_are_found(tmp_path):
    write(tmp_path, "train.csv")
    for name in ("csv", "jsonl"):
        assert len(DATASETS.build({"type": name, "root": str(tmp_path), **OPTIONS}, split="train")) == 3
    with pytest.raises(ConfigError, match="Did you mean 'texts'"):
        DATASETS.build({"type": "csv", "text": {"text": "caption"}, "label": "mood"}, split="train")


def test_one_fingerprint_is_one_file_read_in_one_way(tmp_path):
    write(tmp_path, "train.csv")
    assert opened(tmp_path).fingerprint == opened(tmp_path, keep=[]).fingerprint
    assert opened(tmp_path).fingerprint != opened(tmp_path, texts={"text": "source"}).fingerprint


def check(rows: RowBatch) -> None:
    rows.texts("text")


cells = st.text(st.sampled_from(list('ab"\n\r,;é日 ')), max_size=5)


@given(
    rows=st.lists(st.tuples(cells, cells), max_size=12),
    block=st.sampled_from([1, 7, 1 << 17]),
    group=st.integers(1, 5),
    mark=st.booleans(),
)
def test_csv_is_read_as_the_csv_module_reads_it(tmp_path_factory, rows, block, group, mark):
    file = tmp_path_factory.getbasetemp() / "any.csv"
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("text", "other"), *rows])
    file.write_bytes(b"\xef\xbb\xbf" * mark + text.getvalue().encode())
    wanted = list(csv.DictReader(io.StringIO(text.getvalue(), newline="")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "BLOCK_BYTES", block)
        patch.setattr(csv_rows, "ROWS", group)
        if not rows:
            with pytest.raises(DataError, match=r"any.csv: holds no example that can be read"):
                CsvFile(file).open(None, check)
            return
        found = CsvFile(file).open(None, check)
    assert [row.record for row in found] == wanted
    assert [row.number for row in found] == [2 + sum(1 + "".join(r).count("\n") for r in rows[:i]) for i in range(len(rows))]


@given(garbage=st.binary(max_size=30))
def test_any_bytes_of_a_csv_file_are_read_or_named(tmp_path_factory, garbage):
    file = tmp_path_factory.getbasetemp() / "garbage.csv"
    file.write_bytes(b"text,other\na,b\n" + garbage)
    try:
        CsvFile(file).open(None, check)
    except DataError as error:
        assert str(error).startswith(f"{file}:")  # noqa: PT017
    assert next(iter(CsvFile(file).open(None, check, "skip"))).record == {"text": "a", "other": "b"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"text,other\na\n", r":2: has 1 values, wanted 2, one for each of text, other"),
        (b"text,other\na,b,c\n", r":2: has 3 values, wanted 2"),
        (b'text,other\na,"b"c\n', r":2: is not CSV \(.+\), wanted a row of 2 values"),
        (b'text,other\na,"b\n', r":2: is not CSV \(unexpected end of data\), wanted a row of 2 values"),
        (b"text,other\na,caf\xe9\n", r":2: is not UTF-8 \(.+ at byte 6\), wanted UTF-8"),
        ("text,other\na,b\n".encode("utf-16"), r": is not UTF-8 but UTF-16 text; save it as UTF-8, or run: iconv"),
        (b"text,text\na,b\n", r":1: is \['text', 'text'\], wanted the names of the columns, each another one"),
        (b"", r":1: is \[\], wanted the names of the columns"),
        (b'"text"x\n', r":1: is not CSV \(.+\), wanted the names of the columns"),
        (b"other\na\n", r":2: has no 'text', only 'other'"),
        (b"text,other\ra,b\r", r":1: is not CSV \(its lines end with a carriage return alone, save the file with"),
        (b"text,other\na,b\rc,d\n", r":2: is not CSV \(its lines end with a carriage return alone, save the file with"),
        (b'text,other\na,"' + b"b" * (1 << 24) + b'bb"\n', r":2: is not CSV \(a value of more than 16,777,216 letters; is a quot"),
        (b"PK\x03\x04" + bytes(99), ": is a zip archive or an Excel workbook"),
    ],
)
def test_a_damaged_csv_file_is_named(tmp_path, content, sentence):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(DataError, match=f"x.csv{sentence}"):
        CsvFile(tmp_path / "x.csv").open(None, check)


def test_empty_lines_of_a_csv_file_do_not_count(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"text\n\na\n\r\n\nb\n\n")
    assert [(row.record["text"], row.number) for row in CsvFile(tmp_path / "x.csv").open(None, check)] == [("a", 3), ("b", 6)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("shape", ["{}", "{0}{1}", "{1}{0}"], ids=["plain", "ends with a delimiter", "index without a name"])
def test_a_csv_file_is_read_as_programs_save_it(tmp_path, delimiter, mark, end, shape):
    lines = [shape.format(delimiter.join(cells), delimiter) for cells in (["text", " other "], ["a b", "c"], ["d", "e"])]
    (tmp_path / "x.csv").write_bytes(mark + end.join([*lines, ""]).encode())
    assert [(row.record["text"], row.record["other"]) for row in CsvFile(tmp_path / "x.csv").open(None, check)] == [
        ("a b", "c"),
        ("d", "e"),
    ]


def test_a_long_text_is_read_from_csv(tmp_path):
    write(tmp_path, "train.csv", [ROWS[0] | {"caption": "warm, " * 40_000}, ROWS[1]])
    assert opened(tmp_path)[0].inputs["text"] == "warm, " * 40_000


def test_a_delimiter_can_be_named(tmp_path):
    (tmp_path / "train.csv").write_text("name, and more^mood\na^good\nb^bad\n")
    options = {"root": str(tmp_path), "texts": {"text": "name, and more"}, "label": "mood"}
    assert examples(Table("train", **options, delimiter="^"))[1].inputs == {"text": "b"}
    with pytest.raises(ValueError, match=r"delimiter is ';;', wanted one character"):
        Table("train", **options, delimiter=";;")


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv", "train.tsv"])
@pytest.mark.parametrize("encoding", ["cp1252", "gbk", "utf-16", "utf-16-be", "UTF_32"])
def test_a_file_of_a_named_encoding_is_the_file_in_utf8(tmp_path, name, encoding):
    (tmp_path / "plain").mkdir()
    rows = [row | {"caption": f"é {row['caption']}"} for row in ROWS] * 700
    write(tmp_path / "plain", name, [row | {"name": f"{i}é"} for i, row in enumerate(rows)])
    text = (tmp_path / "plain" / name).read_bytes().decode().replace("\\u00e9", "é")
    (tmp_path / "plain" / name).write_bytes(text.encode())
    (tmp_path / name).write_bytes(text.encode(encoding))
    plain, table = opened(tmp_path / "plain"), opened(tmp_path, encoding=encoding)
    copied = pickle.loads(pickle.dumps(table))  # noqa: S301
    assert plain.fingerprint == table.fingerprint
    for i in (0, 1, 1321, 2099):
        one, other = plain[i], table[i]
        assert (one.id, one.inputs["text"], one.target, one.facts) == (other.id, other.inputs["text"], other.target, other.facts)
        assert copied[i] == other


def test_a_file_of_another_encoding_than_is_named_is_told(tmp_path):
    text = "caption,file,mood,name,source\né,1.png,good,1,\nü,1.png,bad,2,\n"
    for encoding, named, told in (
        ("utf-8", "cp1252", r"is UTF-8, wanted cp1252, in which it would be other letters; leave data\.dataset\.encoding out"),
        ("utf-8-sig", "utf-16", r"is UTF-8, wanted utf-16"),
        ("utf-16", "cp1252", r"is not cp1252 but UTF-16 text; set data\.dataset\.encoding=utf-16, save it as UTF-8, or run: iconv"),
        ("utf-16", "utf-8", r"is not UTF-8 but UTF-16 text; set data\.dataset\.encoding=utf-16, save it as UTF-8, or run: iconv"),
        ("cp1252", "utf-8", r"save the file as UTF-8, or name its encoding, such as data\.dataset\.encoding=cp1252"),
        (
            "cp1252",
            "shift_jis",
            r"is not shift_jis \(after byte 0: 'shift_jis' codec .+ 0xe9 in position 30: .+\); name what it is in data\.",
        ),
        ("utf-16-le", "utf-16", r"is not utf-16 but UTF-16LE text; set data\.dataset\.encoding=utf-16le, save"),
        ("cp1252", "utf-16", r"is not utf-16 \(after byte 0: .+ does not start with BOM\); name what"),
    ):
        (tmp_path / "train.csv").write_bytes(text.encode(encoding))
        with pytest.raises(DataError, match=rf"train\.csv.*: {told}" if "save the file" not in told else told):
            opened(tmp_path, encoding=named)


def test_a_file_that_has_changed_or_cannot_be_copied_is_told(tmp_path, monkeypatch):
    (tmp_path / "train.csv").write_bytes("caption,mood\né,good\nü,bad\n".encode("cp1252"))
    options = {"texts": {"text": "caption"}, "label": "mood", "encoding": "cp1252"}
    table = Table("train", str(tmp_path), **options)
    (tmp_path / "train.csv").write_text("caption,mood\n")
    with pytest.raises(DataError, match="has changed since it was opened"):
        table[0]
    (tmp_path / "train.csv").write_bytes(b"caption,mood\n\xe9,good\n\xfc,bad\n")
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(
        DataError, match=r"train\.csv: cannot be copied into .+ as UTF-8 \(No space left on device\); make room there"
    ):
        Table("train", str(tmp_path), **options)


def test_a_number_with_a_comma_is_told(tmp_path):
    (tmp_path / "train.csv").write_text("text;a;b\nx;0,5;1\n")
    with pytest.raises(DataError, match=r"train\.csv:2: a is '0,5' \(str\), wanted a number with a point, 0\.5"):
        Table("train", str(tmp_path), texts={"text": "text"}, labels=["a", "b"], task="soft_target")


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv"])
@pytest.mark.parametrize("allowed", [None, ["disk/img"], ["disk"], ["elsewhere"]])
def test_links_are_followed_to_folders_that_are_allowed(tmp_path, name, allowed):
    root, disk = tmp_path / "data", tmp_path / "disk"
    root.mkdir()
    (disk / "img").mkdir(parents=True)
    (root / "img").symlink_to(disk / "img")
    write(root, name)
    roots = None if allowed is None else [str(tmp_path / folder) for folder in allowed]
    if allowed in (None, ["elsewhere"]):
        with pytest.raises(DataError, match=rf"{name}:.+'img/1\.png' does not lie inside .+: a link leads to .+allow_roots=\["):
            opened(root, allow_roots=roots)
    else:
        assert [e.inputs["image"] for e in examples(opened(root, allow_roots=roots))] == [root / row["file"] for row in ROWS]


def test_an_absolute_path_may_lie_in_a_folder_that_is_allowed(tmp_path):
    write(tmp_path, "train.jsonl", [row | {"file": f"/mnt/photos/{i}.png"} for i, row in enumerate(ROWS)])
    assert opened(tmp_path, allow_roots=["/mnt/photos"])[1].inputs["image"] == Path("/mnt/photos/1.png")
    with pytest.raises(DataError, match=r"'/mnt/photos/0\.png' does not lie inside"):
        opened(tmp_path, allow_roots=["/mnt/other"])


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv"])
@pytest.mark.parametrize("pattern", ["file", "{file}"])
def test_paths_as_windows_writes_them_are_read(tmp_path, name, pattern):
    write(tmp_path, name, [row | {"file": row["file"].replace("/", "\\")} for row in ROWS])
    table = opened(tmp_path, images={"image": pattern})
    assert [e.inputs["image"] for e in examples(table)] == [tmp_path / row["file"] for row in ROWS]
    write(tmp_path, name, [row | {"file": "..\\secret.png"} for row in ROWS])
    with pytest.raises(DataError, match=r"'\.\./secret\.png' does not lie inside"):
        opened(tmp_path, images={"image": pattern})
