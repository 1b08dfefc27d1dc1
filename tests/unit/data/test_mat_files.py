"""Files of MATLAB: arrays come out as they were written, and anything else is a sentence with the file's name."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from scipy.io import savemat

from msd_framework.data import mat_files
from msd_framework.data.mat_files import NUMBERS, read_mat
from msd_framework.errors import DataError

FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
DTYPES = [{"single": "float32", "double": "float64"}.get(kind, kind) for kind in NUMBERS]


@FILE
@given(array=nps.arrays(st.sampled_from(DTYPES), nps.array_shapes(min_dims=2, max_dims=3)), packed=st.booleans())
def test_an_array_comes_out_as_it_was_written(tmp_path: Path, array: np.ndarray[Any, Any], packed: bool) -> None:
    savemat(tmp_path / "a.mat", {"x": array}, do_compression=packed)
    found = read_mat(tmp_path / "a.mat")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@FILE
@given(data=st.data(), packed=st.booleans())
def test_a_file_that_was_cut_or_changed_is_read_or_told(tmp_path: Path, data: st.DataObject, packed: bool) -> None:
    file = tmp_path / "a.mat"
    savemat(file, {"x": np.arange(60.0).reshape(20, 3)}, do_compression=packed)
    raw = bytearray(file.read_bytes())
    for place in data.draw(st.lists(st.integers(100, len(raw) - 1), max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    file.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    told = ""
    try:
        assert read_mat(file).dtype.kind in "iufc"
    except DataError as error:
        told = str(error)
    assert not told or told.startswith(f"{file}: ")


@pytest.mark.parametrize("length", [0, 5, 100, 128, 130, 300])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_was_cut_off_is_told(tmp_path: Path, length: int, packed: bool) -> None:
    file = tmp_path / "a.mat"
    savemat(file, {"x": np.random.default_rng(0).normal(size=(20, 3))}, do_compression=packed)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(DataError, match=r"a.mat: (is no such file|is damaged|holds nothing).*, wanted one array of numbers"):
        read_mat(file)


@pytest.mark.parametrize(
    ("variables", "held"),
    [
        ({}, "nothing"),
        ({"x": np.eye(2), "y": np.eye(3)}, r"'x' \(double\), 'y' \(double\)"),
        ({"x": "a text"}, r"'x' \(char\)"),
        ({"x": {"field": 1}}, r"'x' \(struct\)"),
        ({"x": np.array([[1, "b"]], dtype=object)}, r"'x' \(cell\)"),
    ],
)
def test_anything_but_one_array_of_numbers_is_refused(tmp_path: Path, variables: dict[str, Any], held: str) -> None:
    savemat(tmp_path / "a.mat", variables)
    with pytest.raises(DataError, match=f"a.mat: holds {held}, wanted one array of numbers in a file of MATLAB's level 5"):
        read_mat(tmp_path / "a.mat")


@pytest.mark.parametrize("kind", [3, 16, 17])  # an object, a function, and what classes of MATLAB are kept in
def test_objects_and_functions_are_refused_unread(tmp_path: Path, kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.mat"
    savemat(file, {"x": np.eye(2)})
    raw = bytearray(file.read_bytes())
    raw[144] = kind  # the class, in the flags of the first array
    file.write_bytes(raw)
    monkeypatch.setattr("scipy.io.loadmat", None)
    with pytest.raises(DataError, match=r"a.mat: (holds|is damaged)"):
        read_mat(file)


def test_a_small_file_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.mat"
    savemat(file, {"x": np.zeros((1000, 1000))}, do_compression=True)
    assert file.stat().st_size < 20_000
    monkeypatch.setattr(mat_files, "MOST_BYTES", 1_000_000)
    with pytest.raises(DataError, match="it unpacks to more than 1,000,000 bytes"):
        read_mat(file)


def packed(content: bytes) -> bytes:
    """An element of a file, packed."""
    content = zlib.compress(content)
    return struct.pack("<II", 15, len(content)) + content


def test_what_is_packed_twice_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.mat"
    savemat(file, {"x": np.zeros((1000, 1000))}, do_compression=True)
    head, bomb = file.read_bytes()[:128], file.read_bytes()[128:]
    savemat(file, {"y": np.eye(2)})
    small = file.read_bytes()[128:]
    longer = small[:4] + struct.pack("<I", len(small)) + small[8:]  # as if it went on for 8 bytes, after which a bomb comes
    monkeypatch.setattr(mat_files, "MOST_BYTES", 1_000_000)
    for content in (packed(bomb), packed(longer) + packed(b"\0" * 8 + bomb)):
        file.write_bytes(head + content)
        with pytest.raises(DataError, match=r"a\.mat: is damaged \(a packed element holds no whole one that is not packed\)"):
            read_mat(file)
    file.write_bytes(head + packed(small + bomb))
    np.testing.assert_array_equal(read_mat(file), np.eye(2))  # what comes after the one element is left out, as a reader does


def test_an_array_is_no_larger_than_a_file_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.mat"
    savemat(file, {"x": np.eye(4)})
    raw = bytearray(file.read_bytes())
    struct.pack_into("<ii", raw, 160, 2**20, 2**10)  # its sizes
    file.write_bytes(raw)
    monkeypatch.setattr("scipy.io.loadmat", None)
    with pytest.raises(
        DataError, match=r"a\.mat: holds 'x' \[1048576, 1024\] \(double\), which has more than 536,870,912 bytes, w"
    ):
        read_mat(file)


def test_a_matrix_that_claims_more_than_it_holds_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.mat"
    savemat(file, {"x": np.eye(4)}, do_compression=True)
    raw = file.read_bytes()
    matrix = bytearray(zlib.decompress(raw[136:]))
    struct.pack_into("<ii", matrix, 32, 2**10, 2**10)  # its sizes
    packed = zlib.compress(bytes(matrix))
    file.write_bytes(raw[:128] + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(DataError, match=r"a.mat: is damaged \(.*, wanted one array"):
        read_mat(file)


@pytest.mark.parametrize(("version", "mark"), [(0x0200, b"IM"), (0x0100, b"MI")])
def test_other_levels_are_told(tmp_path: Path, version: int, mark: bytes) -> None:
    raw = b"MATLAB".ljust(124) + struct.pack("<H", version) + mark + b"\0" * 600
    (tmp_path / "a.mat").write_bytes(raw)
    with pytest.raises(DataError, match=r"a.mat: is .*, wanted one array of numbers in a file of MATLAB's level 5"):
        read_mat(tmp_path / "a.mat")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no.mat: cannot be read: No such file or directory"):
        read_mat(tmp_path / "no.mat")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mat")
    with pytest.raises(DataError, match=r"a.mat: is no regular file"):
        read_mat(tmp_path / "a.mat")
