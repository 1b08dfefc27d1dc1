"""The projects of the four published data sets: one shape, the published recipes, and pages and quick twins that run."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from msd_framework.cli import main
from msd_framework.config.load import load, resolve
from msd_framework.registry import DATASETS
from msd_framework.run import run
from tests.integration import test_all_configs as all_configs
from tests.integration.test_docs import ROOT, blocks

PROJECTS = ("hateful_memes", "mm_imdb", "snli_ve", "vqa2")
FAMILIES = ("visual_bert", "vilbert", "late_fusion")
TAUGHT = ("kd", "msd", "msd_population", "msd_instance")
METHODS = ("teacher", "ce", *TAUGHT)
TWINS = ("teacher", "ce", "kd", "msd")
READMES = sorted((ROOT / "projects").glob("*/README.md"))

RECIPES: dict[str, dict[str, Any]] = {
    "hateful_memes": {"batch": 64, "updates": 22000, "warmup": 2000, "length": 128, "metric": "auroc", "loss": "kl"},
    "mm_imdb": {"batch": 480, "updates": 60000, "warmup": 2000, "length": 256, "metric": "f1_macro", "loss": "bernoulli_kl"},
    "snli_ve": {"batch": 480, "updates": 60000, "warmup": 6000, "length": 128, "metric": "accuracy", "loss": "kl"},
    "vqa2": {"batch": 480, "updates": 60000, "warmup": 6000, "length": 128, "metric": "vqa_accuracy", "loss": "bernoulli_kl"},
}
"""What MMF publishes of its recipes, and the divergence that goes with each task."""

WEIGHTS = {
    "kd": (["full"], None),
    "msd": (["full", "image", "text"], None),
    "msd_population": (["full", "image", "text"], {"type": "population", "saliency": "drop"}),
    "msd_instance": (["full", "image", "text"], {"type": "instance", "saliency": "drop"}),
}

SIZES = {
    "hateful_memes": "sizes.train=16 sizes.dev_seen=8 sizes.test_seen=8",
    "mm_imdb": "sizes.train=16 sizes.dev=8 sizes.test=8",
    "snli_ve": "sizes.train=16 sizes.dev=8 sizes.test=8",
    "vqa2": "sizes.train2014=16 sizes.val2014=8 sizes.test2015=8",
}
SHORTER = {
    "run": ["training.max_updates=2", "training.batch_size=8", "evaluation.every_updates=2"],
    "cache": ["training.max_updates=2", "training.batch_size=8"],
}
"""What is put behind the commands of a page, so that they take less than a second each."""


TINY = {
    "vilbert": [
        *(f"model.{size}=8" for size in ("hidden_size", "intermediate_size", "image_hidden_size", "image_intermediate_size")),
        *(f"model.{size}=1" for size in ("num_layers", "image_num_layers", "num_connections")),
        *(f"model.{size}=2" for size in ("num_heads", "image_num_heads", "co_num_heads")),
        "model.co_hidden_size=8",
        "model.pretrained=null",
        "data.processors.image.feature_size=null",
    ],
    "late_fusion": [
        "model.encoders.text={type: transformer, hidden_size: 8, num_layers: 1, num_heads: 2}",
        "model.encoders.image={type: patches, hidden_size: 8, num_heads: 2}",
        "model.hidden_size=8",
        "data.processors.image.size=16",
    ],
}
"""The other families at sizes that train at once."""


def folder(project: str) -> Path:
    return ROOT / "projects" / project / "configs"


@cache
def options(project: str, run: str) -> dict[str, Any]:
    """All that a run's file says, its bases included."""
    return resolve(load(folder(project) / f"{run}.yaml")).values


@pytest.mark.parametrize("project", PROJECTS)
def test_all_projects_have_the_same_files(project: str) -> None:
    runs = {f"{family}/{method}.yaml" for family in FAMILIES for method in METHODS}
    twins = {f"quick/{method}.yaml" for method in TWINS}
    assert {str(p.relative_to(folder(project))) for p in folder(project).rglob("*.yaml")} == runs | twins | {"study.yaml"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("project", PROJECTS)
def test_a_teacher_has_the_published_recipe_and_so_have_its_students(project: str, family: str) -> None:
    recipe = RECIPES[project]
    teacher = options(project, f"{family}/teacher")
    assert {key: teacher["training"][key] for key in ("batch_size", "max_updates")} == {
        "batch_size": recipe["batch"],
        "max_updates": recipe["updates"],
    }
    assert teacher["scheduler"] == {"type": "warmup_linear", "warmup": recipe["warmup"]}
    rate = 1e-5 if (project, family) == ("hateful_memes", "vilbert") else 5e-5
    assert teacher["optimizer"] == {"type": "adamw", "lr": rate}
    assert teacher["data"]["processors"]["text"].get("max_length", 128) == recipe["length"]
    assert teacher["evaluation"].get("metrics", ["accuracy"])[0] == recipe["metric"]
    for method in METHODS[1:]:
        student = options(project, f"{family}/{method}")
        same = ("training", "scheduler", "optimizer", "data", "evaluation", "seed")
        assert {key: student[key] for key in same} == {key: teacher[key] for key in same}, method


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("project", PROJECTS)
def test_students_differ_in_their_objective_alone(project: str, family: str) -> None:
    teacher, ce = options(project, f"{family}/teacher"), options(project, f"{family}/ce")
    assert teacher["objective"] == ce["objective"] == "supervised"
    for method in TAUGHT:
        student = options(project, f"{family}/{method}")
        views, weighting = WEIGHTS[method]
        assert student["objective"] == {
            "type": "distillation",
            "views": views,
            "distill_weight": 0.5,
            "distill_loss": {"type": RECIPES[project]["loss"], "temperature": 2},
            **({"weighting": weighting} if weighting else {}),
        }
        assert student["model"] == ce["model"]
        assert student["teacher"] == {"checkpoint": teacher["env"]["save_dir"], "cache": True}
        assert student["env"]["save_dir"] == f"runs/{project}/{family}/{method}/seed_0"


@pytest.mark.parametrize(("family", "teacher", "student"), [("visual_bert", 111.5, 15.2), ("vilbert", 236.8, 19.8)])
def test_models_have_the_published_sizes_and_regions(family: str, teacher: float, student: float, monkeypatch: Any) -> None:
    """The millions of parameters that the pages say; VisualBERT's are 12 layers of 768 and 4 of 312 on 2,048 features a region."""
    monkeypatch.setattr(all_configs, "STAND_INS", {**all_configs.STAND_INS, "vocab_size": 30522})
    built = [all_configs.build_on_nothing(folder("hateful_memes") / f"{family}/{run}.yaml") for run in ("teacher", "ce")]
    counts = [round(sum(p.numel() for p in model.parameters()) / 1e6, 1) for model in built]
    assert counts == [teacher, student]
    image = options("hateful_memes", f"{family}/ce")["data"]["processors"]["image"]
    assert (image["type"], image["feature_size"], image.get("boxes", False)) == ("region_features", 2048, family == "vilbert")


@pytest.mark.parametrize("project", PROJECTS)
def test_a_quick_twin_has_the_objective_of_what_it_is_a_twin_of(project: str) -> None:
    for method in TWINS:
        twin, real = options(project, f"quick/{method}"), options(project, f"visual_bert/{method}")
        assert twin["objective"] == real["objective"]
        assert twin["model"].keys() >= {"type", "hidden_size"}
        assert twin["evaluation"].get("metrics") == real["evaluation"].get("metrics")
        assert twin["data"]["train"] == real["data"]["train"]
    teacher = options(project, "quick/teacher")["env"]["save_dir"]
    assert [options(project, f"quick/{m}")["teacher"]["checkpoint"] for m in ("kd", "msd")] == [teacher, teacher]


def commands(page: Path) -> list[list[str]]:
    """What a page tells a user to type, word by word."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", READMES, ids=lambda p: p.parent.name)
def test_every_file_that_a_command_of_a_project_names_is_there(page: Path) -> None:
    named = {word.partition("=")[2] for words in commands(page) for word in words if word.startswith("config=")}
    mentioned = set(re.findall(r"\b(?:projects|configs|tools)/[\w/]+\.(?:yaml|py)\b", page.read_text()))
    assert [file for file in named | mentioned if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize("project", PROJECTS)
def test_a_page_names_every_run_of_its_main_family(project: str) -> None:
    said = commands(ROOT / "projects" / project / "README.md")
    trained = [Path(words[2]).stem for words in said if words[:2] == ["msd", "run"] and "/visual_bert/" in words[2]]
    assert trained == list(METHODS)
    checks = [words[3] for words in said if words[:3] == ["msd", "data", "check"]]
    assert checks == [project]
    assert project in DATASETS.names()


@pytest.mark.parametrize("project", PROJECTS)
def test_the_quick_twin_can_be_followed_as_its_page_says(
    project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "projects" / project / "README.md"
    (block,) = (block for block in blocks(page, "bash") if "make-world" in block)
    for line in block.splitlines():
        program, verb, *words = shlex.split(line)
        shorter = SIZES[project].split() if verb == "make-world" else SHORTER.get(verb, [])
        assert (program, main([verb, *words, *shorter])) == ("msd", 0), f"{line}\n{capsys.readouterr().err}"
    metric = RECIPES[project]["metric"]
    for method in TWINS:
        report = json.loads((tmp_path / "runs" / project / "quick" / method / "seed_0" / "report.json").read_text())
        assert {f"test/{metric}", f"test/image/{metric}", f"test/text/{metric}"} <= set(report["metrics"])
        assert ("test/image/agreement" in report["metrics"]) == (method in TAUGHT)


@pytest.mark.parametrize("family", TINY)
def test_the_other_families_run_on_the_same_data(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["make-world", "layout=hateful_memes", "folder=made", *SIZES["hateful_memes"].split()]) == 0
    if family == "vilbert":
        network = ["backbone=torchvision:resnet18", "layer=layer2", "weights=random", "image_size=32"]
        assert main(["extract-features", "images=made/img", "store=features/hateful_memes", *network]) == 0
    words = ["data.dataset.root=made", "data.processors.text.name=null", *TINY[family], *SHORTER["run"]]
    run(folder("hateful_memes") / family / "teacher.yaml", words)
    report = run(
        folder("hateful_memes") / family / "msd_instance.yaml",
        [*words, f"data.processors_from=runs/hateful_memes/{family}/teacher/seed_0"],
    )
    assert report["updates"] == 2
    assert "test/text/agreement" in report["metrics"]
