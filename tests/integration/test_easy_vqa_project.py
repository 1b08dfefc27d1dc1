"""The easy-VQA project's own configurations, on a folder that its command makes of drawings in the publisher's layout."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from msd_framework.run import run

PROJECT = Path(__file__).parents[2] / "projects" / "easy_vqa"
CONFIGS = PROJECT / "configs"
STUDENTS = ("ce", "ce_masked", "kd", "msd", "msd_other")
COLOURS = {"red": (220, 0, 0), "blue": (0, 0, 220)}
QUICK = ("training.max_epochs=null", "training.max_updates=2", "training.batch_size=8", "env.device=cpu")


def made_by() -> Any:
    """The functions of the project's command."""
    return SimpleNamespace(**runpy.run_path(str(PROJECT / "make.py"), run_name="make_easy_vqa"))


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few drawings of squares, in the arrays of the public file."""
    found: dict[str, Any] = {}
    for split, count in (("train", 8), ("test", 4)):
        images = np.full((count, 64, 64, 3), 230, np.uint8)
        rows = []
        for i in range(count):
            colour = list(COLOURS)[i % 2]
            images[i, 10 + i : 30 + i, 20:40] = COLOURS[colour]
            rows += [(i, "what color is the shape?", colour), (i, "is there a red shape?", "yes" if colour == "red" else "no")]
        ids, questions, answers = zip(*rows)
        found |= {f"image_{split}": images, f"image_id_{split}": np.array(ids, np.int32)}
        found |= {f"question_{split}": np.array(questions), f"answer_{split}": np.array(answers)}
    path = tmp_path_factory.mktemp("arrays") / "easy_vqa.npz"
    np.savez(path, **found)
    return path


@pytest.fixture(scope="module")
def root(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("easy_vqa")
    assert made_by().make(folder, str(arrays)) == {"train": 8, "validation": 8, "test": 8}
    return folder


@pytest.fixture(scope="module")
def teacher(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    run(CONFIGS / "teacher.yaml", [f"data.dataset.root={root}", f"env.save_dir={folder}", *QUICK])
    return folder


def test_no_image_is_asked_about_in_two_splits(root: Path) -> None:
    images = {}
    for split in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (root / f"{split}.jsonl").read_text().splitlines()]
        images[split] = {row["image"] for row in rows}
        assert all((root / image).is_file() for image in images[split])
    assert not images["train"] & images["validation"]
    assert not (images["train"] | images["validation"]) & images["test"]


def test_the_package_gives_the_same_folder(root: Path, arrays: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, package = np.load(arrays), SimpleNamespace()
    for split in ("train", "test"):
        paths = {}
        for i, pixels in enumerate(loaded[f"image_{split}"]):
            paths[i] = str(tmp_path / f"{split}_{i}.png")
            Image.fromarray(pixels).save(paths[i])
        told = tuple(loaded[f"{name}_{split}"].tolist() for name in ("question", "answer", "image_id"))
        setattr(package, f"get_{split}_questions", lambda told=told: told)
        setattr(package, f"get_{split}_image_paths", lambda paths=paths: paths)
    monkeypatch.setitem(sys.modules, "easy_vqa", package)
    made_by().make(tmp_path / "made")
    for file in sorted(root.rglob("*.*")):
        other = tmp_path / "made" / file.relative_to(root)
        assert other.read_bytes() == file.read_bytes()


def test_nothing_is_chosen_by_the_test_split() -> None:
    data = yaml.safe_load((CONFIGS / "teacher.yaml").read_text())["data"]
    assert (data["train"], data["validation"], data["test"]) == ("train", "validation", "test")


def test_every_run_of_the_project_is_tested_here() -> None:
    assert {path.stem for path in CONFIGS.rglob("*.yaml")} == {"teacher", "study", *STUDENTS}


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_trains_on_pixels_and_is_measured_on_every_view(name: str, root: Path, teacher: Path, tmp_path: Path) -> None:
    words = [f"data.dataset.root={root}", f"data.processors_from={teacher}", f"env.save_dir={tmp_path}", *QUICK]
    taught = name in ("kd", "msd", "msd_other")
    report = run(CONFIGS / f"{name}.yaml", [*words, *([f"teacher.checkpoint={teacher}"] if taught else [])])
    assert {f"test/{view}accuracy" for view in ("", "image/", "text/")} <= set(report["metrics"])
    assert ("test/agreement" in report["metrics"]) == taught
    assert report["maskers"]["student"] == "drop"
    assert 2 * report["parameters"] < json.loads((teacher / "report.json").read_text())["parameters"]


def test_the_public_file_is_read_as_its_readme_says(shared_data: Path) -> None:
    images, questions = made_by().from_arrays(str(shared_data / "easy_vqa" / "easy_vqa.npz"), "test")
    assert (len(images), images[0].size, len(questions)) == (1000, (64, 64), 9673)
    assert questions[0] == (0, "what is the red shape?", "triangle")
