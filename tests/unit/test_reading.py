"""Text files of users: one reader, which takes a byte order mark and tells anything that is not UTF-8 as what it is."""

import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_framework.data.processors.text import Tokenizer
from msd_framework.errors import DataError
from msd_framework.reading import keys_are_once, read_json, read_text

TEXT = "answer,ö\nyes,1\n"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_text_is_the_same_whatever_its_mark_and_line_ends(tmp_path, mark, end):
    file = tmp_path / "a.txt"
    file.write_bytes(mark + TEXT.replace("\n", end).encode())
    assert read_text(file) == TEXT


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_wide_text_is_told_with_a_command_that_mends_it(tmp_path, encoding):
    file = tmp_path / "a file.txt"
    file.write_bytes(TEXT.encode(encoding))
    with pytest.raises(DataError, match=r"a file\.txt: is not UTF-8 but UTF-(16|32)") as caught:
        read_text(file)
    subprocess.run(str(caught.value).partition("run: ")[2], shell=True, check=True, cwd=tmp_path)  # noqa: S602 -- as a user would
    assert read_text(tmp_path / "utf8.txt") == TEXT


def test_another_encoding_is_told_with_line_and_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes("yes\nMünchen\n".encode("latin-1"))
    wanted = r"a\.txt: is not UTF-8 \(invalid start byte 0xFC in line 2 at byte 6\).+Windows-1252.+München.+save the file as UTF-8"
    with pytest.raises(DataError, match=wanted):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"\x1f\x8b\x08\x00", r"\xff|is (compressed|not UTF-8)"),
        (b"{", r"is not JSON"),
        (b"[1]", r"is \[1\] \(list\), wanted an object"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "has the key 'c' twice, wanted it once"),
    ],
)
def test_what_is_no_json_object_is_told(tmp_path, raw, told):
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(DataError, match=rf"a\.json: {told}"):
        read_json(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"gone\.json: cannot be read: No such file"):
        read_json(tmp_path / "gone.json")


def spelled(pairs, space: str) -> str:
    inside = [f"{json.dumps(k)}{space}: {spelled(v, space) if isinstance(v, list) else json.dumps(v)}" for k, v in pairs]
    return "{" + ",".join(inside) + "}"


def is_repeated(pairs) -> bool:
    return len(dict(pairs)) < len(pairs) or any(is_repeated(v) for _, v in pairs if isinstance(v, list))


TEXTS = st.text('a":, \\', max_size=4)
PAIRS = st.recursive(
    st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3),
    lambda of: st.lists(st.tuples(TEXTS, TEXTS | of), min_size=1, max_size=3),
)


@given(pairs=PAIRS, space=st.sampled_from(["", " ", "\t\n"]))
def test_a_key_that_is_there_twice_is_found_whatever_the_texts_hold(pairs, space):
    text = spelled(pairs, space)
    assert keys_are_once(text, [json.loads(text)]) != is_repeated(pairs)


def test_a_tokenizer_with_a_mark_is_the_same_tokenizer(tmp_path):
    plain = Tokenizer()
    plain.fit(["yes no"])
    plain.save(tmp_path)
    marked = tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + (tmp_path / "tokenizer.json").read_bytes())
    assert Tokenizer(str(marked)).load("no yes").tolist() == plain.load("no yes").tolist()


def test_a_vocabulary_that_transformers_would_misread_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"\xef\xbb\xbf[PAD]\n[UNK]\n[CLS]\n[SEP]\nyes\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    with pytest.raises(DataError, match=r"vocab\.txt: begins with a byte order mark"):
        Tokenizer(str(tmp_path)).fit([])
