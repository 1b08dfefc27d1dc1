"""UTD-MHAD, from recordings that are made here in the publisher's layout, and from the real ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from msd_framework.cli import main
from msd_framework.data.mat_files import read_mat
from msd_framework.data.sets.utd_mhad import ACTIONS, SUBJECTS, UTDMHAD
from msd_framework.errors import DataError
from tests.utd_mhad_files import write_real, write_twin

SHAPES = {"skeleton": (20, 3, 11), "inertial": (22, 6), "depth": (24, 32, 11)}  # of the twin's first recording


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_twin(tmp_path_factory.mktemp("utd_mhad"))


def ids(dataset: UTDMHAD) -> list[str]:
    return [dataset[i].id for i in range(len(dataset))]


def test_an_example_is_a_file_for_each_modality_of_one_recording(root: Path) -> None:
    example = UTDMHAD("train", str(root))[2]
    assert (example.id, example.target, example.facts) == ("a27_s1_t1", 26, {"subject": "1"})
    assert ACTIONS[26] == "squat"
    assert example.inputs["depth"] == root / "Depth" / "a27_s1_t1_depth.mat"
    first = UTDMHAD("train", str(root))[0]
    assert {m: read_mat(file).shape for m, file in first.inputs.items()} == SHAPES


def test_splits_are_by_subject(root: Path) -> None:
    for split, subjects in SUBJECTS.items():
        dataset = UTDMHAD(split, str(root))
        assert Counter(dataset[i].facts["subject"] for i in range(len(dataset))) == dict.fromkeys(map(str, subjects), 3)
    assert {*SUBJECTS["train"], *SUBJECTS["validation"]} == {*SUBJECTS["trainval"]} == {1, 3, 5, 7}
    assert {*SUBJECTS["trainval"], *SUBJECTS["test"]} == {*range(1, 9)}


def test_the_first_examples_have_all_actions_about_as_often(root: Path) -> None:
    assert ids(UTDMHAD("train", str(root), max_examples=4)) == ["a1_s1_t1", "a2_s1_t1", "a27_s1_t1", "a1_s3_t1"]


def test_a_folder_that_no_model_takes_may_be_absent(root: Path, tmp_path: Path) -> None:
    (tmp_path / "Skeleton").symlink_to(root / "Skeleton")
    with pytest.raises(DataError, match=r"allow_roots"):
        UTDMHAD("test", str(tmp_path))
    assert ids(UTDMHAD("test", str(tmp_path), allow_roots=[str(root)])) == ids(UTDMHAD("test", str(root)))


def test_a_fingerprint_is_that_of_the_recordings_wherever_they_lie(root: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").symlink_to(root)
    prints = [UTDMHAD(split, str(root)).fingerprint for split in SUBJECTS]
    assert len({*prints, UTDMHAD("test", str(root), max_examples=3).fingerprint}) == 5
    assert UTDMHAD("train", str(tmp_path / "moved")).fingerprint == prints[0]


def test_what_is_missing_is_told_with_where_to_get_it(tmp_path: Path, root: Path) -> None:
    text = "holds no recordings: download the data set from https://personal.utdallas.edu/~kehtar/UTD-MHAD.html"
    assert text in UTDMHAD.check({"root": str(tmp_path)}, "test")[0]
    with pytest.raises(DataError, match=text):
        UTDMHAD("test", str(tmp_path))
    assert "Did you mean 'test'? Its splits: train, validation, trainval, test." in UTDMHAD.check({"root": str(root)}, "tset")[0]
    with pytest.raises(ValueError, match="max_examples is 0, wanted at least 1"):
        UTDMHAD("test", str(root), max_examples=0)


@pytest.mark.parametrize("name", ["a28_s1_t1_depth", "a0_s1_t1_depth", "a1_s9_t1_depth", "a1_s1_t1_skeleton", "notes"])
def test_a_file_of_another_name_stops_or_is_left_out(tmp_path: Path, name: str) -> None:
    write_twin(tmp_path, actions=[1])
    (tmp_path / "Depth" / f"{name}.mat").touch()
    (tmp_path / "Depth" / "notes.txt").touch()
    text = f"{name}.mat: wanted a name of the form a<1 to 27>_s<1 to 8>_t<trial>_depth.mat"
    with pytest.raises(DataError, match=text):
        UTDMHAD("test", str(tmp_path))
    dataset = UTDMHAD("test", str(tmp_path), on_error="skip")
    assert (len(dataset), len(dataset.skipped)) == (4, 1)
    assert text in dataset.skipped[0]


def test_msd_data_check_reads_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_twin(tmp_path)
    damaged = tmp_path / "Depth" / "a1_s2_t1_depth.mat"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    (tmp_path / "Inertial" / "a1_s1_t1_inertial.mat").unlink()
    assert main(["data", "check", "utd_mhad", f"root={tmp_path}"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "train has 9 examples, and its publisher says 323." in said
    assert "a1_s1_t1_inertial.mat: no such file" in said
    assert "a1_s2_t1_depth.mat: is damaged (it was cut off)" in said
    assert "rows of train too" not in said  # which trainval holds


def test_the_real_recordings_come_out_as_they_are(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "utd_mhad"
    if not source.is_dir():
        pytest.skip(f"no recordings in {source}")
    write_real(source, tmp_path, slice(0, 861, 430))
    held = np.load(source / "utd_mhad_skeleton_inertial.npz")
    dataset = UTDMHAD("train", str(tmp_path))
    assert dataset[0].id == "a1_s1_t1"
    skeleton, inertial, depth = (read_mat(dataset[0].inputs[m]) for m in ("skeleton", "inertial", "depth"))
    np.testing.assert_array_equal(skeleton.transpose(2, 0, 1), held["skeleton"][: held["skeleton_len"][0]])
    np.testing.assert_array_equal(inertial, held["inertial"][: held["inertial_len"][0]])
    assert depth.shape == (240, 320, 16)
    blocks = np.load(source / "utd_mhad_depth16x48x64.npz")["depth"][0]
    assert ((depth[::5, ::5].transpose(2, 0, 1) > 0) == (blocks > 0)).all()
