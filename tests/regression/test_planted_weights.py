"""Learned weights find a teacher's view that is noise, and examples on which it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from msd_framework.analysis.experiment import run_experiment

ROOT = Path(__file__).parents[2]


def rows(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[dict[str, float]]:
    monkeypatch.chdir(ROOT)
    path = ROOT / "projects" / "planted_weights" / "configs" / f"{name}.yaml"
    small = ["seeds=[20]", "expected=null", f"env.save_dir={folder}"]
    found = run_experiment(path, [*small, *words])["rows"]
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("order", ["after", "before"])
def test_the_weight_of_a_view_that_is_noise_falls_below_half_of_the_other_s(order, tmp_path, monkeypatch) -> None:
    for row in rows("noise", tmp_path, monkeypatch, "experiment.num_updates=80", "experiment.lr=3e-3", f"experiment.order={order}"):
        assert row["wrong"] < 0.5 * row["right"]


def test_weights_of_examples_tell_those_on_which_the_teacher_is_wrong(tmp_path, monkeypatch) -> None:
    for row in rows("corrupted", tmp_path, monkeypatch, "experiment.num_updates=300"):
        assert row["auroc"] >= 0.9


@pytest.mark.parametrize("fault", ["noise", "corrupted"])
def test_weights_keep_most_of_the_harm_of_a_wrong_view_from_a_student(fault: str, tmp_path, monkeypatch) -> None:
    methods = "experiment.methods=[uniform,instance,learned]"
    for row in rows(f"accuracy_{fault}", tmp_path, monkeypatch, "experiment.num_updates=300", methods):
        assert row["uniform"] + 1 < row["instance"]
        assert row["uniform"] + 1 < row["learned"]
