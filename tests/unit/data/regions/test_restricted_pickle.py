"""Pickles that are read without running them, against pickle itself."""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import pickle
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from msd_framework.data.regions.restricted_pickle import read_pickle, read_pickled_array
from msd_framework.errors import DataError

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    npst.arrays(npst.floating_dtypes(sizes=(16, 32, 64)) | npst.integer_dtypes(), npst.array_shapes(min_dims=0, min_side=0)),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=8,
)


def same(a, b) -> bool:
    if isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(b, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in b)
    return type(a) is type(b) and a == b


@given(VALUES, st.integers(0, 5))
@settings(max_examples=150)
def test_numbers_texts_arrays_and_nests_of_them_are_what_pickle_reads(value, protocol):
    content = pickle.dumps(value, protocol)
    assert same(read_pickle(content, "a"), pickle.loads(content))  # noqa: S301


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.array([{"a": 1}, [2]], dtype=object),
        np.array({"bbox": np.ones((2, 4))}),
        np.float32(1.5),
        np.int64(7),
        np.array(["cat", "tree"]),
        np.arange(3, dtype=">f4"),
    ],
    ids=repr,
)
def test_arrays_of_any_order_objects_and_single_numbers_are_read(value, protocol):
    content = pickle.dumps(value, protocol)
    read, expected = np.asarray(read_pickle(content, "a")), np.asarray(pickle.loads(content))  # noqa: S301
    assert read.dtype == expected.dtype
    assert read.shape == expected.shape
    assert same(read.tolist(), expected.tolist())


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_arrays_of_old_and_new_numpy_are_read(core):
    content = pickle.dumps(np.arange(3.0), 2)
    here = b"numpy._core" if b"numpy._core" in content else b"numpy.core"
    assert read_pickle(content.replace(here, core.encode()), "a").tolist() == [0.0, 1.0, 2.0]


def test_a_text_of_python_2_is_read_as_latin_1():
    assert read_pickle(b"S'caf\\xe9'\n.", "a") == "caf\xe9"


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path, function=Path.touch):
        self.file, self.function = file, function

    def __reduce__(self):
        return self.function, (self.file,)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "around", [lambda x: x, lambda x: [1, x], lambda x: {"features": x}, lambda x: np.array([x, 1], dtype=object)]
)
def test_a_bomb_does_not_go_off_wherever_it_lies(tmp_path, protocol, around):
    content = pickle.dumps(around(Touch(tmp_path / "was_run")), protocol)
    with pytest.raises(
        DataError, match=r"a\.lmdb: wants to load (pathlib|builtins|__builtin__)\.\S+, which is refused, for it could run any code"
    ):
        read_pickle(content, "a.lmdb")
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (os.system, r"(posix|nt)\.system"),
        (eval, r"builtins\.eval"),
        (functools.partial(print), r"functools\.partial"),
        (collections.OrderedDict(a=1), r"collections\.OrderedDict"),
        (collections.defaultdict(list), r"collections\.defaultdict"),
        (complex(1, 2), r"builtins\.complex"),
        (Path("a"), r"pathlib\.\S+"),
        ({1, 2}, r"an object by EMPTY_SET"),
        (frozenset([1]), r"an object by FROZENSET"),
        (np.random.default_rng(0), r"numpy\.random\.\S+"),
        (np.zeros(2, "M8[s]"), "numbers of the type"),
        (np.zeros(2, complex), "numbers of the type complex128"),
        (np.zeros(2, [("a", "f4")]), "numbers of the type"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_anything_else_is_refused_by_name(value, named):
    with pytest.raises(DataError, match=rf"a: wants to load {named}.*, which is refused, .* wanted numpy arrays, str, int, float"):
        read_pickle(pickle.dumps(value, 4), "a")


DTYPE = b"cnumpy\ndtype\n(S'O8'\nI00\nI01\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"cnumpy\nload\n(S'a.npy'\nI00\nI01\ntR.", r"wants to load numpy\.load"),
        (b"cnumpy.core.multiarray\nscalar\n(" + DTYPE + b"S'12345678'\ntR.", "wants to load objects by their address"),
        (
            b"cnumpy.core.numeric\n_frombuffer\n(S'12345678'\n" + DTYPE + b"(I1\ntS'C'\ntR.",
            "wants to load objects by their address",
        ),
        (ARRAY + b"(I1\n(I1\nt" + DTYPE + b"I00\nS'12345678'\ntb.", "has other contents"),
        (ARRAY + b"(I1\n(I9\nt" + DTYPE + b"I00\n(Nltb.", "has other contents"),
        (ARRAY + b"(I1\n(I-1\nI-1\nt" + DTYPE + b"I00\n(Nltb.", "has other contents"),
        (b"cnumpy\ndtype\n(S'f4'\nI00\nI01\ntR(I3\nS'<'\n(S'f4'\n(I2\ntt(S'a'\ntN" + b"I-1\nI-1\nI0\ntb.", "an array of records"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(dS'__code__'\nNsb.", "the inside of a function"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(N(dS'_call'\nNstb.", "the inside of a function"),
        (b"c_codecs\nencode\n(Vabc\nS'rot13'\ntR.", "the encoding 'rot13'"),
        (b"cnumpy\ndtype\n(I5\ntR.", "5 is no text"),
        (b"cnumpy.core.multiarray\nscalar\n(S'f4'\nS'1234'\ntR.", "'f4' is no type of numbers"),
        (b"\xffabc.", r"no pickle says b'\\xff'"),
        (b"P1\n.", "an object by PERSID"),
        (b"(cos\nsystem\nS'ls'\no.", r"os\.system"),
        (b"(S'ls'\nios\nsystem\n.", "an object by INST"),
        (b"\x82\x01.", "an object by EXT1"),
        (b"", "is no pickle that can be read"),
    ],
)
def test_a_forged_pickle_is_refused(content, sentence):
    with pytest.raises(DataError, match=rf"^a: .*{sentence}"):
        read_pickle(content, "a")


@pytest.mark.parametrize(
    "content",
    [
        b"N" + b"r" + struct.pack("<I", 2**32 - 1) + b".",  # a memo of 4 thousand million entries
        b"\x8e" + struct.pack("<Q", 2**60) + b"abc.",
        b"B" + struct.pack("<I", 2**31) + b"abc.",
        b"\x8b" + struct.pack("<i", 2**30) + b"abc.",
        b"\x95" + struct.pack("<Q", 2**50) + b"N.",
    ],
)
def test_a_length_that_is_not_there_takes_no_memory(content):
    before = peak()
    with contextlib.suppress(DataError):
        read_pickle(content, "a")
    assert peak() - before < 2**28


def peak() -> int:
    """The most memory that this process has taken, in bytes on Linux."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@given(st.integers(0, 5), st.data())
@settings(max_examples=150)
def test_a_damaged_pickle_is_read_or_refused_and_nothing_else(protocol, data):
    content = bytearray(pickle.dumps({"features": np.ones((2, 3), np.float32), "image_width": 3, "objects": [1, "a"]}, protocol))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_pickle(bytes(content[: data.draw(st.integers(0, len(content)))]), "a")
    except DataError as error:
        assert str(error).startswith("a: ")  # noqa: PT017


def test_a_dict_that_numpy_has_saved_is_read(tmp_path):
    np.save(tmp_path / "a_info.npy", {"bbox": np.ones((2, 4)), "image_width": 640})
    read = read_pickled_array(tmp_path / "a_info.npy")
    assert read["bbox"].tolist() == [[1.0] * 4] * 2
    assert read["image_width"] == 640


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda file: None, "cannot be read"),
        (lambda file: file.write_bytes(b""), "is no file of numpy's"),
        (lambda file: file.write_bytes(pickle.dumps({"a": 1})), "is no file of numpy's"),
        (lambda file: np.save(file, np.ones(3)), r"holds an array of float64 \[3\], wanted one pickled dict"),
        (lambda file: np.save(file, np.array([1, "a"], dtype=object)), r"holds an array of object \[2\], wanted one pickled dict"),
        (lambda file: file.write_bytes(b"\x93NUMPY\x03\x00" + bytes(200)), "is of a version that numpy does not write for objects"),
    ],
)
def test_another_file_than_a_saved_dict_is_told(tmp_path, write, sentence):
    write(tmp_path / "a_info.npy")
    with pytest.raises(DataError, match=rf"a_info\.npy: {sentence}|a_info\.npy: is no file of numpy's \(it {sentence}"):
        read_pickled_array(tmp_path / "a_info.npy")


def test_a_bomb_in_a_saved_dict_does_not_go_off(tmp_path):
    np.save(tmp_path / "a_info.npy", {"bbox": Touch(tmp_path / "was_run")}, allow_pickle=True)
    with pytest.raises(DataError, match=r"a_info\.npy: wants to load "):
        read_pickled_array(tmp_path / "a_info.npy")
    assert not (tmp_path / "was_run").exists()
