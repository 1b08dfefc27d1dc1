"""Three modalities without text: the project on a twin of UTD-MHAD that is made here, and on the real recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from msd_framework.errors import DataError
from msd_framework.run import run
from tests.integration.test_docs import ROOT
from tests.utd_mhad_files import write_real, write_twin

CONFIGS = ROOT / "projects" / "utd_mhad" / "configs"
VIEWS = {
    "": ("depth", "inertial", "skeleton", "~depth", "~inertial", "~skeleton"),
    "two_": ("depth", "inertial"),
    "depth_": (),
}
BUILT = ("kd_tuned", "msd_tuned", "msd_recombined")  # by test_all_configs alone: their parts are in others
TAUGHT = ("kd", "msd", "labels_on_views", "recombined", "two_kd", "two_msd", "depth_kd", "depth_msd", "depth_of_skeleton")
STUDENTS = ("ce", "two_ce", "depth_ce", *TAUGHT)
QUICK = ("training.max_updates=3", "training.batch_size=4", "evaluation.every_updates=null", "env.device=cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a twin of the data, and the run of the teacher."""
    folder = tmp_path_factory.mktemp("utd_mhad")
    write_twin(folder / "data")
    quick("teacher", folder)
    return folder


def quick(name: str, folder: Path, *more: str) -> dict[str, Any]:
    """A few updates of one of the project's configurations, everything else of it unchanged."""
    words = [f"data.dataset.root={folder / 'data'}", f"env.save_dir={folder / name}", *QUICK]
    words += [f"data.processors_from={folder / 'teacher'}"] if name in STUDENTS else []
    words += [f"teacher.checkpoint={folder / 'teacher'}", f"teacher.cache_dir={folder / 'caches'}"] if name in TAUGHT else []
    return run(CONFIGS / f"{name}.yaml", [*words, *more])


def test_every_configuration_of_the_project_is_tested_here() -> None:
    studies = ("study", "study_without", "evidence", "tune_kd")
    assert {path.stem for path in CONFIGS.rglob("*.yaml")} == {*STUDENTS, *BUILT, "teacher", "teacher_without", *studies}
    for study in ("study", "study_without"):
        methods = yaml.safe_load((CONFIGS / f"{study}.yaml").read_text())["methods"]
        assert {name: f"{name}.yaml" for name in methods} == methods


def test_nothing_is_chosen_by_the_test_split() -> None:
    data = yaml.safe_load((CONFIGS / "depth_ce.yaml").read_text())["data"]
    assert (data["train"], data["validation"], data["test"]) == ("train", "validation", "test")
    assert data["dataset"]["root"] == "data/utd_mhad"


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_is_measured_on_what_it_has(name: str, runs: Path) -> None:
    report = quick(name, runs)
    prefix = next((of for of in VIEWS if of and name.startswith(of)), "")
    measured = {key.split("/")[1] for key in report["metrics"] if key.startswith("test/") and key.endswith("/accuracy")}
    assert {view for view in measured if view != "accuracy"} == set(VIEWS[prefix])
    assert ("test/agreement" in report["metrics"]) == (name in TAUGHT)
    assert (runs / name / "predictions_test.csv").read_text().startswith("id,subject,label,prediction,")


def test_a_student_of_depth_reads_no_other_folder(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "Depth").symlink_to(runs / "data" / "Depth")
    words = (f"data.dataset.root={tmp_path}", f"data.dataset.allow_roots=[{runs / 'data'}]")
    assert "test/accuracy" in quick("depth_ce", runs, *words, f"env.save_dir={tmp_path / 'alone'}")["metrics"]
    with pytest.raises(DataError, match=r"Inertial/a1_s1_t1_inertial.mat: cannot be read: No such file"):
        quick("depth_kd", runs, *words, f"env.save_dir={tmp_path / 'taught'}")


def test_a_teacher_without_dropout_is_built(runs: Path) -> None:
    assert quick("teacher_without", runs)["parameters"] == quick("teacher", runs, f"env.save_dir={runs / 'again'}")["parameters"]


def test_the_real_recordings_teach_a_student_of_depth(shared_data: Path, tmp_path: Path) -> None:
    if not (shared_data / "utd_mhad").is_dir():
        pytest.skip(f"no recordings in {shared_data}")
    write_real(shared_data / "utd_mhad", tmp_path / "data", slice(0, 64), pixels=1)
    quick("teacher", tmp_path)
    report = quick("depth_of_skeleton", tmp_path)
    assert report["examples"] == {"validation": 8, "test": 32}
