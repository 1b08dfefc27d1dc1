"""A data set's files: malformed lines, paths that leave the root, and the sentences of what is missing."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_framework.data.files import JsonLine, inside, missing, read_json_lines, unknown_split, write_whole
from msd_framework.errors import DataError

GOOD = {"id": 1, "text": "a meme", "label": 0}


def read(folder: Path, *lines: bytes, **options):
    file = folder / "lines.jsonl"
    file.write_bytes(b"\n".join(lines))
    return read_json_lines(file, "id", lambda line: (line.identifier("id"), line.text("text"), line.place), **options)


def read_or_sentence(folder: Path, *lines: bytes):
    try:
        return read(folder, *lines)[0], ""
    except DataError as error:
        return [], str(error)


def line(**changes) -> bytes:
    return json.dumps(GOOD | changes).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("lines")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "text", "x"]), inner, max_size=3),
    max_leaves=5,
)


def test_entries_name_their_lines_and_empty_lines_do_not_count(folder):
    entries, skipped = read(folder, line(), b"", b"  ", line(id="02"), b"")
    assert entries == [("1", "a meme", f"{folder}/lines.jsonl:1"), ("02", "a meme", f"{folder}/lines.jsonl:4")]
    assert skipped == []


def test_a_byte_order_mark_is_no_part_of_the_first_line(folder):
    assert len(read(folder, b"\xef\xbb\xbf" + line())[0]) == 1


@given(length=st.integers(1, len(line(id=2)) - 1))
def test_a_truncated_line_is_named(folder, length):
    with pytest.raises(DataError, match=r"lines.jsonl:2: is not JSON \(.+\), wanted one object a line"):
        read(folder, line(), line(id=2)[:length])


@given(garbage=st.binary().filter(lambda b: b"\n" not in b))
def test_any_bytes_are_read_or_named(folder, garbage):
    entries, sentence = read_or_sentence(folder, line(), garbage)
    assert sentence.startswith(f"{folder}/lines.jsonl:2: ") or len(entries) == (2 if garbage.strip() else 1)


@given(value=json_values)
def test_any_json_value_is_read_or_named(folder, value):
    entries, sentence = read_or_sentence(folder, line(), json.dumps(value).encode())
    assert sentence.startswith(f"{folder}/lines.jsonl:2: ") or entries[1][:2] == (str(value["id"]), value["text"])


@given(value=json_values)
def test_skipping_leaves_the_other_lines_as_they_are(folder, value):
    bad = json.dumps(value if not isinstance(value, dict) else value | {"text": None}).encode()
    entries, skipped = read(folder, line(), bad, line(id=3), on_error="skip")
    assert [e[0] for e in entries] == ["1", "3"]
    assert len(skipped) == 1
    assert "lines.jsonl:2: " in skipped[0]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (b'{"id": 2, "text": "caf\xe9"}', r":2: is not UTF-8 \(.+ at byte 23\), wanted UTF-8"),
        (json.dumps(GOOD).encode("utf-16"), ":2: is not UTF-8"),
        (b"[" * 100_000, ":2: is not JSON"),
        (b"1" * 5000, r":2: is (not JSON|1\d+\.\.\.\d+ \(int\))"),  # Python 3.10 has no limit of digits
        (b"[1, 2]", r":2: is \[1, 2\] \(list\), wanted an object"),
        (b"{}", ":2: has no 'id', only nothing"),
        (b'{"id": 2, "txt": "a"}', ":2: has no 'text', only 'id', 'txt'. Did you mean 'txt'"),
        (line(id=2, text=3), r":2: text is 3 \(int\), wanted a text"),
        (line(id=2, text="\ud800"), r":2: text is .+ wanted whole Unicode characters"),
        (line(id=True), r":2: id is True \(bool\), wanted an id, a text or a whole number"),
        (line(id=1.0), r":2: id is 1.0 \(float\), wanted an id"),
        (line(id=""), r":2: id is '' \(str\), wanted an id"),
        (line(id="\udfff"), ":2: id is .+ wanted whole Unicode characters"),
        (line(), r":2: id '1' is already that of .+lines.jsonl:1; ids must differ"),
        (line(id="1"), r":2: id '1' is already that of .+lines.jsonl:1; ids must differ"),
    ],
)
def test_what_was_got_and_what_was_wanted_is_said(folder, bad, sentence):
    with pytest.raises(DataError, match=sentence):
        read(folder, line(), bad)


def test_a_long_value_is_shortened_in_the_sentence(folder):
    with pytest.raises(DataError) as error:
        read(folder, line(text=["x" * 10_000]))
    assert len(str(error.value)) < 500


def test_reading_stops_at_the_limit_so_later_lines_may_be_anything(folder):
    assert len(read(folder, line(), line(id=2), b"garbage", limit=2)[0]) == 2


def test_a_file_without_examples_is_an_error(folder):
    with pytest.raises(DataError, match=r"lines.jsonl: holds no example that can be read$"):
        read(folder, b"")
    with pytest.raises(DataError, match=r"lines.jsonl: holds no example that can be read: .+:1: is not JSON"):
        read(folder, b"{", on_error="skip")


@pytest.mark.parametrize(("value", "label"), [(0, 0), (1, 1)])
def test_a_label_is_the_place_of_its_spelling(value, label):
    assert JsonLine({"label": value}, "f:1").label("label", (0, 1)) == label


@pytest.mark.parametrize("value", [2, -1, "1", True, 1.0, None, [], {}])
def test_a_label_of_another_spelling_or_type_is_an_error(value):
    with pytest.raises(DataError, match=r"f:1: label is .+, wanted one of 0, 1"):
        JsonLine({"label": value}, "f:1").label("label", (0, 1))


@pytest.mark.parametrize("relative", ["img/1.png", "img/../1.png", "./a", "img/..png", "link_within/1.png", "loop"])
def test_a_path_within_the_root_is_kept(tmp_path, relative):
    (tmp_path / "img").mkdir()
    (tmp_path / "link_within").symlink_to(tmp_path / "img")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert inside(tmp_path, relative) == tmp_path / relative


@pytest.mark.parametrize(
    "relative", ["../../etc/passwd", "/etc/passwd", "..", ".", "", "img/../../x", "link_out/passwd", "link_file", "../root2/x"]
)
def test_a_path_never_leaves_the_root(tmp_path, relative):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link_out").symlink_to("/etc")
    (root / "link_file").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="does not lie inside"):
        inside(root, relative)


def test_an_absolute_path_is_refused_even_within_the_root(tmp_path):
    with pytest.raises(DataError, match="does not lie inside"):
        inside(tmp_path, str(tmp_path / "1.png"))


def test_a_root_that_is_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "root", "1.png") == tmp_path / "root" / "1.png"


def test_a_path_that_no_file_can_have_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"'a\\x00b' is not a file name"):
        inside(tmp_path, "a\0b")


def test_a_missing_file_says_where_to_get_it_and_what_the_root_holds(tmp_path):
    (sentence,) = missing(tmp_path / "a.jsonl", "https://example.org", ["a.jsonl", "img/"])
    assert sentence == (
        f"{tmp_path}/a.jsonl is missing: download the data set from https://example.org "
        "and unpack it so that its root holds a.jsonl, img/."
    )
    (tmp_path / "a.jsonl").touch()
    assert missing(tmp_path / "a.jsonl", "https://example.org", []) == []


def test_an_unknown_split_names_the_nearest():
    assert unknown_split("nlvr", "dve", ["train", "dev"]) == [
        "nlvr has no split 'dve'. Did you mean 'dev'? Its splits: train, dev."
    ]
    assert unknown_split("nlvr", "dev", ["train", "dev"]) == []


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path):
    for text in ("old", "new"):
        write_whole(tmp_path / "deep" / "file.json", text)
    assert (tmp_path / "deep" / "file.json").read_text() == "new"
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["file.json"]
