"""Image, text and sound through every command, on the project's own configurations, few rows and few updates."""

from __future__ import annotations

import csv
import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from msd_framework.analysis.saliency.scores import run_saliency
from msd_framework.analysis.study.run import run_study
from msd_framework.cli import main
from msd_framework.commands.show import show_config
from msd_framework.errors import ConfigError
from msd_framework.run import run
from msd_framework.worlds import make_world
from tests.integration.test_docs import ROOT, blocks

CONFIGS = ROOT / "projects" / "three_modalities" / "configs"
STUDENTS = sorted(p.stem for p in CONFIGS.glob("*.yaml") if p.stem not in ("teacher", "study"))
MODALITIES = ("audio", "image", "text")
VIEWS = ("audio", "image", "text", "~audio", "~image", "~text")
QUICK = (
    "training.max_epochs=null",
    "training.max_updates=2",
    "training.batch_size=8",
    "evaluation.every_updates=2",
    "evaluation.metrics=[accuracy]",
    "env.device=cpu",
)
SMALL = (
    "model.hidden_size=8",
    "model.num_layers=1",
    "model.num_heads=2",
    "model.intermediate_size=8",
    *(f"model.encoders.{m}.hidden_size=8" for m in MODALITIES),
)


@pytest.fixture(scope="session")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small world and a teacher that has just begun to learn."""
    folder = tmp_path_factory.mktemp("three")
    make_world("talking_cards", folder / "world", sizes={"train": 48, "validation": 16, "test": 24})
    run(CONFIGS / "teacher.yaml", [*words(folder, "teacher"), *SMALL])
    return folder


def words(folder: Path, name: str, *more: str) -> list[str]:
    return [f"data.dataset.root={folder / 'world'}", f"env.save_dir={folder / name}", *QUICK, *more]


def taught(folder: Path, name: str, *more: str) -> list[str]:
    teacher = folder / "teacher"
    return words(folder, name, f"teacher.checkpoint={teacher}", f"teacher.cache_dir={folder / 'caches'}", *more)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_view_of_every_row_is_predicted_and_reported(cards: Path) -> None:
    report = json.loads((cards / "teacher" / "report.json").read_text())
    assert {"test/accuracy", *(f"test/{view}/accuracy" for view in VIEWS)} <= report["metrics"].keys()
    rows = table(cards / "teacher" / "predictions_test.csv")
    assert len(rows) == 24
    assert {"id", "decided_by", "label", "0", "1", *(f"{view}/1" for view in VIEWS)} <= rows[0].keys()
    assert {row["decided_by"] for row in rows} <= {*MODALITIES, "all"}
    assert len({row["~text/1"] for row in rows}) > 20  # sounds and images differ


@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_of_the_project_learns(name: str, cards: Path) -> None:
    given = words(cards, name, f"data.processors_from={cards / 'teacher'}") if name == "ce" else taught(cards, name)
    report = run(CONFIGS / f"{name}.yaml", given)
    assert report["updates"] == 2
    assert ("test/~image/agreement" in report["metrics"]) == (name != "ce")
    logged = [json.loads(line) for line in (cards / name / "metrics.jsonl").read_text().splitlines()]
    weighed = {key.removeprefix("train/weight/") for row in logged for key in row if key.startswith("train/weight/")}
    views = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()).get("objective")
    if isinstance(views, dict) and "views" in views and len(views["views"]) > 1:
        assert weighed == set(views["views"])


@pytest.mark.parametrize(
    "masker",
    ["drop", "attention", "noise", "other", "{type: by_modality, maskers: {text: {type: constant, token: 0}}, otherwise: mean}"],
)
def test_every_masker_hides_a_sound_an_image_and_a_text(masker: str, cards: Path, tmp_path: Path) -> None:
    views = "objective.views=[full, audio, image+text, ~image, {teacher: audio+text, student: image}]"
    quick = ["objective.weighting=uniform", views, f"masker={masker}", f"env.save_dir={tmp_path}", "training.max_updates=1"]
    report = run(CONFIGS / "msd.yaml", [*taught(cards, "unused"), *quick])
    assert report["updates"] == 1


def test_a_run_is_evaluated_and_predicts(cards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The words of the command line, on a run that is done."""
    given = words(cards, "teacher", *SMALL)
    for kind in ("test", "predict"):
        assert main(["run", f"config={CONFIGS / 'teacher.yaml'}", f"run_type={kind}", *given]) == 0, capsys.readouterr().err
    assert main(["run", f"config={CONFIGS / 'teacher.yaml'}", "run_type=check", *given]) == 0


def test_saliency_of_three_modalities_stands_beside_the_truth(cards: Path, tmp_path: Path) -> None:
    options = ["split=test", "examples=2", "resamples=2", f"folder={tmp_path}"]
    told = run_saliency(CONFIGS / "teacher.yaml", [*words(cards, "teacher"), *options])["test"]
    assert told["modalities"] == list(MODALITIES)
    assert {"drop", "keep", "loss", "gap", "shapley", "shapley loss", "gradient_x_input", "attention_rollout"} <= told[
        "scores"
    ].keys()
    decided_by = {row["decided_by"] for row in table(cards / "teacher" / "predictions_test.csv")}
    for found in told["scores"].values():
        assert set(found["classes"]["all"]) == set(found["oracle"]) == set(MODALITIES)
        assert set(found["truth"]) == decided_by | {"mean"}
    assert set(told["picked"]) == {*MODALITIES, "all"}
    labels = [json.loads(line)["label"] for line in (cards / "world" / "train.jsonl").read_text().splitlines()]
    prior = [(labels.count(c) + 1) / (len(labels) + 2) for c in (0, 1)]
    answers = {row["id"]: [float(row["0"]), float(row["1"])] for row in table(cards / "teacher" / "predictions_test.csv")}
    for row in table(tmp_path / "scores_test.csv"):  # Shapley values add up to the whole effect: from the prior to the full answer
        effect = sum(p * math.log(p / q) for p, q in zip(answers[row["id"]], prior))
        assert sum(float(row[f"shapley/{m}"]) for m in MODALITIES) == pytest.approx(effect, abs=1e-4)  # float32
    page = (tmp_path / "saliency_test.md").read_text()
    assert "Decided by all together" in page
    assert "Decided by audio" in page
    assert (tmp_path / "examples_test.html").read_text().count("data:image/png;base64,") == 8


def test_a_teacher_of_three_modalities_is_asked_once(cards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = f"config={CONFIGS / 'msd_all.yaml'}"
    given = taught(cards, "cached", "teacher.cache=true")
    for command in ("build", "verify"):
        assert main(["cache", command, config, *given]) == 0, capsys.readouterr().err
    live, cached = run(CONFIGS / "msd_all.yaml", taught(cards, "live")), run(CONFIGS / "msd_all.yaml", given)
    for view in ("", *(f"{v}/" for v in VIEWS)):
        wanted = live["metrics"][f"test/{view}kl"]
        assert cached["metrics"][f"test/{view}kl"] == pytest.approx(wanted, rel=0.05, abs=1e-3)  # kept in float16


def test_a_study_has_a_table_of_all_seven_views(forked_workers: None, tmp_path: Path) -> None:
    study = yaml.safe_load((CONFIGS / "study.yaml").read_text())
    study |= {"seeds": 1, "jobs": 1, "env": {"save_dir": str(tmp_path / "study")}, "saliency": ["drop", "shapley"]}
    study["world"]["sizes"] = {"train": 32, "validation": 16, "test": 16}
    quick = {"training": {"max_epochs": None, "max_updates": 2, "batch_size": 8}, "evaluation": {"every_updates": 2}}
    study["teacher"], study["methods"] = "teacher.yaml", {"msd": "msd.yaml"}
    study["baselines"], study["densities"] = [], ["teacher", "msd"]
    for name in ("teacher", "msd"):
        small = {"base": str(CONFIGS / f"{name}.yaml"), **quick}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(small))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    run_study(tmp_path / "study.yaml")
    page = (tmp_path / "study" / "summary.md").read_text()
    assert f"|  | full | {' | '.join(VIEWS)} |" in page
    assert "audio first | image first | text first" in page
    assert (tmp_path / "study" / "densities.png").stat().st_size > 5000


def test_options_are_shown_and_a_modality_that_is_not_there_is_told(cards: Path) -> None:
    shown = show_config(CONFIGS / "msd.yaml", taught(cards, "shown"))
    assert "model.encoders.audio.num_bands" in shown
    with pytest.raises(ConfigError, match="view 'sound' names 'sound', which is not one of the modalities audio, image, text"):
        run(CONFIGS / "msd.yaml", [*taught(cards, "wrong"), "objective.views=[full, sound]"])
    with pytest.raises(
        ConfigError, match=r"encoders.audio: patches takes pixels, and the values of 'audio' are waveform. Take one of"
    ):
        run(CONFIGS / "ce.yaml", [*words(cards, "wrong"), "model.encoders.audio=patches"])


def test_an_encoder_of_transformers_takes_the_place_of_the_small_one(cards: Path) -> None:
    """And the student is told apart from its teacher by its own encoder; the checkpoint is rebuilt without any hub."""
    (block,) = (b for b in blocks(ROOT / "docs" / "third_modality.md", "yaml") if "model_type" in b)
    audio: dict[str, Any] = yaml.safe_load(block)["model"]["encoders"]["audio"]
    given = taught(cards, "wav2vec2", f"model.encoders.audio={json.dumps(audio)}")
    run(CONFIGS / "late_fusion.yaml", given)
    assert main(["run", f"config={CONFIGS / 'late_fusion.yaml'}", "run_type=test", *given]) == 0


def test_the_page_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks(ROOT / "docs" / "third_modality.md", "bash") for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        program, verb, *rest = shlex.split(command)
        sizes = ["sizes={train: 16, validation: 16, test: 16}"] if verb == "make-world" else []
        quick = [] if verb in ("make-world", "saliency") else [*QUICK]
        small = [*SMALL] if "teacher.yaml" in command else []
        assert (program, main([verb, *rest, *sizes, *quick, *small])) == ("msd", 0), f"{command}\n{capsys.readouterr().err}"
