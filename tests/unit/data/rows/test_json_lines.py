"""JSON-lines files: what is read, what is said of lines that cannot be, and how little is kept of a million of them."""

import gc
import hashlib
import json
import multiprocessing
import os
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_framework.data.files import DataFolder, inside
from msd_framework.data.rows import rows
from msd_framework.data.rows.json_lines import JsonLines
from msd_framework.data.rows.row import Row, RowBatch
from msd_framework.errors import DataError, did_you_mean
from msd_framework.reading import not_utf8
from msd_framework.testing import start_method

GOOD = {"id": 1, "text": "a meme", "label": 0}


def check(rows: RowBatch) -> None:
    rows.texts("text")


def opened(folder: Path, *lines: bytes, **options) -> JsonLines:
    file = folder / "lines.jsonl"
    file.write_bytes(b"\n".join(lines))
    return JsonLines(file).open("id", check, **options)


def entries(lines: JsonLines) -> list[tuple[str, str, str]]:
    return [(line.identifier("id"), line.text("text"), line.place) for line in lines]


def read(folder: Path, *lines: bytes, **options):
    found = opened(folder, *lines, **options)
    return entries(found), found.skipped


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
    found, skipped = read(folder, line(), b"", b"  ", line(id="02"), b"")
    assert found == [("1", "a meme", f"{folder}/lines.jsonl:1"), ("02", "a meme", f"{folder}/lines.jsonl:4")]
    assert skipped == []


def test_a_line_is_found_from_either_end_and_none_beyond(folder):
    lines = opened(folder, line(), line(id=2), line(id=3))
    assert [lines[i].number for i in (0, 1, 2, -1, -3)] == [1, 2, 3, 3, 1]
    with pytest.raises(IndexError):
        lines[3]


def test_a_byte_order_mark_is_no_part_of_the_first_line(folder):
    assert len(read(folder, b"\xef\xbb\xbf" + line())[0]) == 1


@pytest.mark.parametrize("end", [b"\r", b" ", b"\t\r "])
def test_white_space_around_a_line_is_no_part_of_it(folder, end):
    assert [e[0] for e in read(folder, b" " + line() + end, line(id=2) + end)[0]] == ["1", "2"]


@given(length=st.integers(1, len(line(id=2)) - 1))
def test_a_truncated_line_is_named(folder, length):
    with pytest.raises(DataError, match=r"lines.jsonl:2: is not JSON \(.+\), wanted one object a line"):
        read(folder, line(), line(id=2)[:length])


@given(garbage=st.binary().filter(lambda b: b"\n" not in b))
def test_any_bytes_are_read_or_named(folder, garbage):
    found, sentence = read_or_sentence(folder, line(), garbage)
    assert sentence.startswith(f"{folder}/lines.jsonl:2: ") or len(found) == (2 if garbage.strip() else 1)


@given(value=json_values)
def test_any_json_value_is_read_or_named(folder, value):
    found, sentence = read_or_sentence(folder, line(), json.dumps(value).encode())
    assert sentence.startswith(f"{folder}/lines.jsonl:2: ") or found[1][:2] == (str(value["id"]), value["text"])


@given(value=json_values)
def test_skipping_leaves_the_other_lines_as_they_are(folder, value):
    bad = json.dumps(value if not isinstance(value, dict) else value | {"text": None}).encode()
    found, skipped = read(folder, line(), bad, line(id=3), on_error="skip")
    assert [e[0] for e in found] == ["1", "3"]
    assert len(skipped) == 1
    assert "lines.jsonl:2: " in skipped[0]


def reference(file: Path, limit: int | None) -> tuple[list[tuple[str, str, str]], list[str]]:
    """What a reader finds that keeps everything in memory: entries, and what is wrong with each other line, in order."""
    taken: dict[str, tuple[str, str, str]] = {}
    wrong: list[str] = []
    for number, raw in enumerate(file.read_bytes().split(b"\n"), 1):
        if len(taken) == limit:
            break
        place = f"{file}:{number}"
        if raw.strip():
            try:
                name, text = named(raw, place)
                if name in taken:
                    raise DataError(f"{place}: id {name!r} is already that of {taken[name][2]}; ids must differ")
                taken[name] = (name, text(), place)
            except DataError as error:
                wrong.append(str(error))
    return list(taken.values()), wrong


def named(raw: bytes, place: str):
    try:
        record = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(place, error)) from error
    except ValueError as error:
        raise DataError(f"{place}: is not JSON ({error}), wanted one object a line") from error
    if not isinstance(record, dict):
        raise DataError(f"{place}: is {record!r} ({type(record).__name__}), wanted an object")

    def get(key, kinds, wanted):
        if key not in record:
            found = ", ".join(map(repr, record)) or "nothing"
            raise DataError(f"{place}: has no {key!r}, only {found}.{did_you_mean(key, record)}")
        if type(record[key]) not in kinds or (key == "id" and record[key] == ""):
            raise DataError(f"{place}: {key} is {record[key]!r} ({type(record[key]).__name__}), wanted {wanted}")
        return record[key]

    return str(get("id", (str, int), "an id, a text or a whole number")), lambda: get("text", (str,), "a text")


names = st.integers(0, 5) | st.sampled_from(["0", "1", "05", "", "é"]) | st.none() | st.just(True)
records = st.fixed_dictionaries({}, optional={"id": names, "text": st.sampled_from(["a", "日本", 3, None]), "x": st.just(0)})
spelled = st.builds(lambda record, ascii_only: json.dumps(record, ensure_ascii=ascii_only).encode(), records, st.booleans())
fine = st.builds(lambda i: line(id=i), st.integers(0, 9))
broken = st.builds(lambda raw, cut: raw[:cut], spelled, st.integers(0, 20))
odd = st.sampled_from([b"", b" ", b"\r", b"\xff", b"[]", b"7", b"\xef\xbb\xbf{}", b'{"id": 1}{"id": 2}', b'{"id": 1},', b"\xc3("])
any_lines = st.lists(fine | spelled | broken | odd | spelled.map(lambda raw: raw + b"\r"), max_size=12)


@given(
    lines=any_lines,
    limit=st.none() | st.integers(1, 4),
    clash=st.booleans(),
    block=st.sampled_from([1, 7, 60, 1 << 17]),
)
def test_every_file_is_read_as_by_a_reader_that_keeps_all_of_it(folder, lines, limit, clash, block):
    file = folder / "any.jsonl"
    file.write_bytes(b"\n".join(lines))
    wanted, wrong = reference(file, limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK_BYTES", block)
        if clash:  # what two names that have one hash would do
            patch.setattr(rows, "_HASH", lambda name: 7)
        if not wanted:
            with pytest.raises(DataError) as caught:
                JsonLines(file).open("id", check, "skip", limit)
            assert str(caught.value) == f"{file}: holds no example that can be read" + (f": {wrong[0]}" if wrong else "")
        else:
            found = JsonLines(file).open("id", check, "skip", limit)
            assert (entries(found), found.skipped) == (wanted, wrong)
        if wrong:
            with pytest.raises(DataError) as caught:
                JsonLines(file).open("id", check, "raise", limit)
            assert str(caught.value) == wrong[0]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (b'{"id": 2, "text": "caf\xe9"}', r":2: is not UTF-8 \(.+ at byte 23\), wanted UTF-8"),
        (json.dumps(GOOD).encode("utf-16"), ":2: is not UTF-8"),
        (b"[" * 100_000, ":2: is not JSON"),
        (b"1" * 5000, r":2: is (not JSON|1\d+\.\.\.\d+ \(int\))"),  # Python 3.10 has no limit of digits
        (b"[1, 2]", r":2: is \[1, 2\] \(list\), wanted an object"),
        (b"{}", ":2: has no 'id', only nothing"),
        (b'{"id": 2, "text": "a", "text": "b"}', ":2: has the key 'text' twice, wanted it once"),
        (b'{"id": 2} {"id": 3}', r":2: is not JSON \(Extra data"),
        (b'{"id": 2, "txt": "a"}', ":2: has no 'text', only 'id', 'txt'. Did you mean 'txt'"),
        (line(id=2, text=3), r":2: text is 3 \(int\), wanted a text"),
        (line(id=2, text=None), r":2: text is None \(NoneType\), wanted a text"),
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


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none.jsonl: cannot be read \(No such file or directory\)"):
        JsonLines(tmp_path / "none.jsonl").open("id", check)


@pytest.mark.parametrize("value", [2, -1, "1", True, 1.0, None, [], {}])
def test_a_label_of_another_spelling_or_type_is_an_error(value):
    with pytest.raises(DataError, match=r"f:1: label is .+, wanted one of 0, 1"):
        RowBatch([{"label": value}], "f", [1]).labels("label", (0, 1))


def test_a_path_that_leaves_the_folder_is_an_error_of_its_line(tmp_path):
    with pytest.raises(DataError, match=r"f:1: '../x' does not lie inside"):
        Row({}, "f", 1).path(DataFolder(tmp_path), "../x")


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A file of 200,000 lines."""
    file = tmp_path_factory.mktemp("many") / "many.jsonl"
    file.write_text("".join(f'{{"id": "{i:06}", "text": "example number {i}", "label": {i % 2}}}\n' for i in range(200_000)))
    return file


def test_an_example_takes_less_than_20_bytes_and_none_is_an_object(many):
    lines = JsonLines(many).open("id", check)
    assert len(lines) == 200_000
    assert len(pickle.dumps(lines)) < 20 * len(lines)  # two numbers of 8 bytes
    gc.collect()
    before = len(gc.get_objects())
    tracemalloc.start()  # which is slow
    try:
        lines = JsonLines(many).open("id", check, limit=40_000)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 20 * len(lines)  # with room for an array to grow
    assert peak < 60 * len(lines) + 20 * rows.BLOCK_BYTES  # a hash twice, sorted; and the block that is looked at, as objects
    gc.collect()
    assert len(gc.get_objects()) - before < 100


def test_ids_that_differ_are_told_apart_and_one_that_is_repeated_is_found_however_many_there_are(many, tmp_path):
    file = tmp_path / "again.jsonl"
    file.write_bytes(many.read_bytes() + b'{"id": "123456", "text": ""}\n')
    with pytest.raises(DataError, match=r"again.jsonl:200001: id '123456' is already that of .+again.jsonl:123457;"):
        JsonLines(file).open("id", check)


def _said(lines: JsonLines, start: int, queue) -> None:
    queue.put([lines[i].text("text") for i in range(start, 200_000, 997)])


@pytest.mark.parametrize("method", ["fork", start_method()])
def test_processes_that_share_a_file_read_the_same(many, method):
    lines, context = JsonLines(many).open("id", check), multiprocessing.get_context(method)
    queue = context.Queue()
    processes = [context.Process(target=_said, args=(lines, 3, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    here = [f"example number {i}" for i in range(3, 200_000, 997)]
    assert [lines[i].text("text") for i in range(3, 200_000, 997)] == here  # while the others read
    assert [queue.get(timeout=60) for _ in processes] == [here, here]
    for process in processes:
        process.join()


def test_threads_read_the_same(many):
    lines = JsonLines(many).open("id", check, limit=2000)
    with ThreadPoolExecutor(4) as pool:
        assert [line.number for line in pool.map(lines.__getitem__, range(2000))] == list(range(1, 2001))


def longer(file: Path) -> None:
    with file.open("ab") as opened_file:
        opened_file.write(line(id=9))


def shorter(file: Path) -> None:
    os.truncate(file, 10)


def rewritten(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"a meme", b"a joke"))
    os.utime(file, ns=(0, 0))


@pytest.mark.parametrize("change", [longer, shorter, rewritten])
def test_a_file_that_changes_while_it_is_in_use_is_noticed(folder, change):
    lines = opened(folder, line(), line(id=2))
    assert lines[1].record["id"] == 2
    change(folder / "lines.jsonl")
    for reader in (lines, pickle.loads(pickle.dumps(lines))):  # noqa: S301
        with pytest.raises(DataError, match=r"lines.jsonl: has changed since it was opened"):
            reader[1]


def test_a_file_that_another_takes_the_place_of_is_read_on_here_and_refused_elsewhere(folder):
    lines = opened(folder, line(), line(id=2))
    (folder / "new.jsonl").write_bytes(line(id=3))
    (folder / "new.jsonl").replace(folder / "lines.jsonl")
    assert lines[1].record["id"] == 2
    with pytest.raises(DataError, match=r"lines.jsonl: has changed since it was opened"):
        pickle.loads(pickle.dumps(lines))[1]  # noqa: S301


def test_a_fingerprint_is_that_of_what_is_read(folder):
    lines = opened(folder, line(), line(id=2))
    content = (folder / "lines.jsonl").read_bytes()
    (folder / "new.jsonl").write_bytes(line(id=3))
    (folder / "new.jsonl").replace(folder / "lines.jsonl")
    assert lines.fingerprint == hashlib.sha256(content).hexdigest()


def test_a_file_is_closed_when_its_lines_are_no_longer_wanted(folder):
    lines = opened(folder, line())
    descriptor = lines._descriptor
    os.fstat(descriptor)
    del lines
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with links that lead out of it, into it, and nowhere."""
    root = tmp_path_factory.mktemp("outside") / "root"
    (root / "img" / "deep").mkdir(parents=True)
    (root.parent / "secret").touch()
    (root / "img" / "1.png").touch()
    for name, target in {
        "img/out.png": root.parent / "secret",
        "img/up": root.parent,
        "img/in.png": root / "img" / "1.png",
        "same": root / "img",
        "loop": root / "loop",
    }.items():
        (root / name).symlink_to(target)
    return root


names_of_parts = ["img", "deep", "1.png", "out.png", "in.png", "up", "same", "loop", "..", ".", "", "none", "secret", "a\0b"]


@given(relative=st.lists(st.sampled_from(names_of_parts), max_size=5).map("/".join))
def test_a_folder_that_is_looked_at_once_says_of_each_path_what_resolving_it_does(root, relative):
    def answer(decide) -> str:
        try:
            decide(relative)
        except DataError as error:
            return str(error)
        return ""

    folder = DataFolder(root)
    wanted = answer(lambda path: inside(root, path))
    assert answer(folder.check) == wanted
    assert answer(folder.check) == wanted  # now from what it has seen


def test_what_was_seen_of_many_folders_is_not_kept_for_ever(root):
    folder = DataFolder(root)
    for i in range(5000):
        folder.check(f"{i}/1.png")
    assert len(folder._doubtful) <= 1025
    with pytest.raises(DataError, match="does not lie inside"):
        folder.check("img/out.png")
