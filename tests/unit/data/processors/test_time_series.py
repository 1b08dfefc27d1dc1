"""Time series: steps, medians and blocks against numpy, standardised as scikit-learn does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat
from sklearn.preprocessing import StandardScaler

from msd_framework.data.processors.time_series import TimeSeries
from msd_framework.errors import CheckpointError, DataError

NORMAL = np.random.default_rng(0).normal(3, 5, (7, 4))


@settings(max_examples=30)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_features_are_standardised_over_all_steps_of_training(lengths: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    arrays = [random.normal([0, 1, 50], [1, 9, 0.1], (length, 3)) for length in lengths]
    processor = TimeSeries()
    processor.fit(arrays)
    theirs = StandardScaler().fit(np.concatenate(arrays))
    for array in arrays:
        wanted = array - theirs.mean_ if sum(lengths) == 1 else theirs.transform(array)
        np.testing.assert_allclose(processor.load(array).numpy(), wanted, atol=2e-4)  # squares of 50 by a deviation of 0.1
    assert processor.facts == {"feature_size": 3}


def test_a_feature_that_never_changes_is_zero() -> None:
    processor = TimeSeries()
    processor.fit([np.full((5, 2), 7.0)])
    assert not processor.load(np.full((3, 2), 7.0)).any()


def test_nothing_is_not_learned_from() -> None:
    with pytest.raises(DataError, match="no training example has a time series, whose means and deviations are to be learned"):
        TimeSeries(feature_size=3).fit([])


def test_what_does_not_move_is_taken_off() -> None:
    joints = np.random.default_rng(0).normal(size=(20, 3, 6))
    found = TimeSeries(time_axis=2, subtract_median=True).load(joints).numpy().reshape(6, 20, 3)
    np.testing.assert_allclose(found, joints.transpose(2, 0, 1) - np.median(joints, 2), atol=1e-6)  # float32
    moved = TimeSeries(time_axis=2, subtract_median=True).load(joints + np.arange(20)[:, None, None])
    np.testing.assert_allclose(moved.numpy().reshape(6, 20, 3), found, atol=1e-5)


def test_frames_are_means_of_blocks_row_by_row() -> None:
    frames = np.random.default_rng(0).integers(0, 4000, (6, 8, 5)).astype(np.uint16)
    found = TimeSeries(time_axis=-1, grid=[3, 2]).load(frames).numpy()
    for step in range(5):
        wanted = [frames[r : r + 2, c : c + 4, step].mean() for r in (0, 2, 4) for c in (0, 4)]
        np.testing.assert_allclose(found[step], wanted, rtol=1e-6)  # float32


@pytest.mark.parametrize(("length", "kept"), [(3, [0, 1, 2]), (4, [0, 1, 2, 3]), (7, [0, 2, 4, 6]), (10, [0, 3, 6, 9])])
def test_steps_that_are_kept_are_spaced_evenly(length: int, kept: list[int]) -> None:
    processor = TimeSeries(max_steps=4)
    array = np.arange(length)[:, None] * 1.0
    assert processor.load(array).flatten().tolist() == kept
    assert processor.length(array) == len(kept)


def test_a_file_of_matlab_is_read(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"d_iner": NORMAL})
    for value in (tmp_path / "a.mat", str(tmp_path / "a.mat"), torch.tensor(NORMAL), NORMAL.astype(">f8")):
        np.testing.assert_allclose(TimeSeries().load(value).numpy(), NORMAL, atol=1e-5)  # float32
    with pytest.raises(DataError, match=r"b.mat: cannot be read: No such file"):
        TimeSeries().load(tmp_path / "b.mat")


def test_a_batch_is_padded_to_its_longest() -> None:
    processor = TimeSeries(feature_size=4)
    batch = processor.collate([processor.load(NORMAL[:2]), processor.load(NORMAL[:5]), processor.blank()])
    assert batch.mask.sum(1).tolist() == [2, 5, 1]
    assert (batch.values.shape, batch.values.dtype) == ((3, 5, 4), torch.float32)
    assert not batch.values[~batch.mask].any()
    assert processor.is_present(NORMAL)


@pytest.mark.parametrize(
    ("options", "array", "text"),
    [
        ({}, np.zeros(3), "an array of float64 [3], wanted numbers with two or more axes"),
        ({}, np.zeros((0, 3)), "an array of float64 [0, 3], wanted numbers"),
        ({}, np.array([["a"]]), "an array of <U1 [1, 1], wanted numbers"),
        ({"grid": [2, 2]}, np.zeros((4, 3)), "an array of float64 [4, 3], wanted numbers with 3 axes"),
        ({"grid": [2, 2]}, np.zeros((4, 2, 3)), "[4, 2, 3], whose images the grid [2, 2] does not divide"),
        ({"time_axis": 2}, np.zeros((4, 2)), "[4, 2], which has no axis 2 for time_axis"),
        ({"feature_size": 3}, np.zeros((4, 2)), "[4, 2], wanted finite numbers with 3 features at each step"),
        ({}, np.full((4, 2), np.inf), "[4, 2], wanted finite numbers with D features at each step"),
    ],
)
def test_anything_else_is_told(options: dict[str, Any], array: np.ndarray[Any, Any], text: str) -> None:
    with pytest.raises(DataError, match=re.escape(text)):
        TimeSeries(**options).load(array)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_steps": 0}, "max_steps must be above 0"),
        ({"grid": [2]}, "grid must be two numbers above 0, got [2]"),
        ({"grid": [2, 0]}, "grid must be two numbers above 0, got [2, 0]"),
    ],
)
def test_options_out_of_range_are_told(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        TimeSeries(**options)


def test_what_was_learned_comes_back_to_the_bit(tmp_path: Path) -> None:
    fitted, restored = TimeSeries(), TimeSeries()
    fitted.fit([NORMAL])
    fitted.save(tmp_path)
    restored.restore(tmp_path)
    assert torch.equal(fitted.load(NORMAL), restored.load(NORMAL))
    assert fitted.fingerprint == restored.fingerprint != TimeSeries().fingerprint
    other = TimeSeries()
    other.fit([NORMAL[:3]])
    assert other.fingerprint != fitted.fingerprint


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", r"time_series.json: cannot be read \(KeyError"),
        ("[", r"time_series.json: cannot be read \(JSONDecodeError"),
        ('{"feature_size": 2, "mean": [0], "std": [1]}', "wanted 2 finite means and as many deviations above 0"),
        ('{"feature_size": 1, "mean": [0], "std": [0]}', "wanted 1 finite means and as many deviations above 0"),
        ('{"feature_size": 1, "mean": [NaN], "std": [1]}', "wanted 1 finite means"),
    ],
)
def test_an_edited_file_is_told(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "time_series.json").write_text(text)
    with pytest.raises(CheckpointError, match=sentence):
        TimeSeries().restore(tmp_path)
