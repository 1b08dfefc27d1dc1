"""The NLVR project's own configurations: on a folder in NLVR's format that is made here, and on the real one where it is there."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from msd_framework.data.sets.nlvr import NLVR
from msd_framework.run import run

CONFIGS = Path(__file__).parents[2] / "projects" / "nlvr" / "configs"
TAUGHT = ("kd", "msd", "msd_population", "msd_instance")
NAMES = {"teacher", "ce", "text", *TAUGHT}
QUICK = ("training.max_epochs=null", "training.max_updates=3", "training.batch_size=8", "env.device=cpu")
COLOURS = {"yellow": (255, 221, 0, 255), "black": (0, 0, 0, 255), "blue": (0, 153, 255, 255)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories 4 and 5 of dev with all six orders of the boxes, and a test split with the first order alone."""
    root = tmp_path_factory.mktemp("nlvr")
    write_split(root, "dev", directories=("4", "5"), permutations=6)
    write_split(root, "test", directories=("0",), permutations=1)
    return root


def write_split(root: Path, split: str, directories: tuple[str, ...], permutations: int) -> None:
    lines = []
    for directory in directories:
        (root / split / "images" / directory).mkdir(parents=True)
        for number, colour in enumerate(COLOURS):
            for place, label in enumerate(("true", "false")):
                identifier = f"{directory}{number}-{place}"
                sentence = f"There is a {colour} box."
                lines.append({"sentence": sentence, "label": label, "identifier": identifier, "directory": directory})
                for k in range(permutations):
                    drawing = COLOURS[colour] if label == "true" else (0, 0, 0, 0)
                    draw(root / split / "images" / directory / f"{split}-{identifier}-{k}.png", k % 3, drawing)
    (root / split / f"{split}.json").write_text("\n".join(map(json.dumps, lines)))


def draw(file: Path, box: int, colour: tuple[int, int, int, int]) -> None:
    from PIL import Image

    image = Image.new("RGBA", (400, 100), (211, 211, 211, 255))
    image.paste(colour, (150 * box + 40, 40, 150 * box + 60, 60))
    image.save(file)


def quick(name: str, root: Path, runs: Path, *more: str) -> dict[str, Any]:
    """A few updates of one of the project's configurations, everything else of it unchanged."""
    config = CONFIGS / f"{name}.yaml"
    teacher = () if name in ("teacher", "text") else (f"data.processors_from={runs / 'teacher'}",)
    taught = (f"teacher.checkpoint={runs / 'teacher'}",) if name in TAUGHT else ()
    words = (f"data.dataset.root={root}", f"env.save_dir={runs / name}", *teacher, *taught, *QUICK, *more)
    return run(config, words)


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher of three updates in it."""
    folder = tmp_path_factory.mktemp("runs")
    quick("teacher", root, folder)
    return folder


def ids(predictions: Path) -> list[str]:
    with predictions.open(newline="") as file:
        return [row["id"] for row in csv.DictReader(file)]


def test_every_run_of_the_project_is_tested_here() -> None:
    assert {path.stem for path in CONFIGS.rglob("*.yaml")} == NAMES | {"study"}


def test_the_root_is_where_a_user_would_put_the_data() -> None:
    dataset = yaml.safe_load((CONFIGS / "teacher.yaml").read_text())["data"]["dataset"]
    assert dataset["root"] == "data/nlvr"


def test_nothing_is_chosen_by_the_test_split() -> None:
    data = yaml.safe_load((CONFIGS / "teacher.yaml").read_text())["data"]
    assert (data["train"], data["validation"], data.get("test")) == ("dev/rest", "dev/held_out", None)


@pytest.mark.parametrize("name", ["ce", *TAUGHT])
def test_a_student_trains_on_drawings_and_is_measured_on_every_view(name: str, root: Path, runs: Path) -> None:
    report = quick(name, root, runs)
    wanted = {f"validation/{view}{metric}" for view in ("", "image/", "text/") for metric in ("accuracy", "auroc")}
    assert wanted <= set(report["metrics"])
    assert report["updates"] == 3
    assert 2 * report["parameters"] < json.loads((runs / "teacher" / "report.json").read_text())["parameters"]
    assert ("validation/agreement" in report["metrics"]) == (name != "ce")


@pytest.mark.parametrize("family", ["vilbert", "late_fusion"])
def test_another_family_teaches_and_learns_on_drawings(family: str, root: Path, tmp_path: Path) -> None:
    teacher, words = tmp_path / "teacher", (f"data.dataset.root={root}", *QUICK)
    taught = run(CONFIGS / family / "teacher.yaml", [*words, f"env.save_dir={teacher}"])
    found = [f"data.processors_from={teacher}", f"teacher.checkpoint={teacher}", f"env.save_dir={tmp_path / 'msd'}"]
    report = run(CONFIGS / family / "msd.yaml", [*words, *found])
    assert {"validation/image/accuracy", "validation/agreement"} <= set(report["metrics"])
    assert 2 * report["parameters"] < taught["parameters"]


def test_the_text_baseline_trains_without_images(root: Path, tmp_path: Path) -> None:
    report = quick("text", root, tmp_path)
    assert {"validation/accuracy", "validation/auroc"} <= set(report["metrics"])


def test_the_best_checkpoint_is_tested_on_the_first_order_alone(root: Path, runs: Path) -> None:
    report = quick("teacher", root, runs, "run_type=test", "data.test=test", "data.dataset.permutations=1")
    assert {k.partition("/")[0] for k in report["metrics"]} == {"test"}
    tested = ids(runs / "teacher" / "predictions_test.csv")
    assert len(tested) == 6
    assert {name.rpartition("-")[2] for name in tested} == {"0"}


def test_validation_sees_the_held_out_directory_alone(runs: Path) -> None:
    seen = ids(runs / "teacher" / "predictions_dev_held_out.csv")
    assert len(seen) == 36
    assert {name[0] for name in seen} == {"5"}


def test_real_data_trains_a_teacher_and_a_student(shared_data: Path, tmp_path: Path) -> None:
    few = ("data.max_train_examples=24", "data.max_eval_examples=60")
    quick("teacher", shared_data / "nlvr", tmp_path, *few)
    report = quick("msd", shared_data / "nlvr", tmp_path, *few)
    assert report["metrics"]["validation/auroc"] == pytest.approx(0.5, abs=0.5)
    assert report["examples"] == {"validation": 60}


def test_no_order_of_a_held_out_example_of_the_real_data_is_trained_on(shared_data: Path) -> None:
    options = yaml.safe_load((CONFIGS / "teacher.yaml").read_text())["data"]["dataset"] | {"root": str(shared_data / "nlvr")}
    del options["type"]
    rest, held_out = (NLVR(f"dev/{part}", **options) for part in ("rest", "held_out"))
    trained = [rest[i] for i in range(len(rest))]
    chosen = [held_out[i] for i in range(len(held_out))]
    assert (len(trained), len(chosen)) == (826 * 6, 163 * 6)
    assert {e.facts["directory"] for e in trained} == {"0", "1", "2", "3", "4"}
    assert {e.facts["directory"] for e in chosen} == {"5"}
    written = {e.id.split("-")[0] for e in trained}, {e.id.split("-")[0] for e in chosen}  # one number a sentence as it was written
    assert written[0].isdisjoint(written[1])
