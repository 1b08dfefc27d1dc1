"""What the pages tell a user to type works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from msd_framework.cli import main
from msd_framework.run import run
from tests.integration.test_run import student, teacher, world  # noqa: F401  (fixtures)

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "projects").glob("*/README.md")),
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_first_steps_can_be_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks(ROOT / "docs" / "first_steps.md", "bash") for line in block.splitlines()]
    assert len(commands) >= 8
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "msd"
        assert main(words) == 0, f"{command}\n{capsys.readouterr().err}"


def test_the_page_of_the_input_path_can_be_followed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "input_path.md"
    commands = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert len(commands) == 2
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, f"{command}\n{capsys.readouterr().err}"
    code = blocks(page, "python")
    assert len(code) == 2
    exec("\n".join(code), {"__name__": "page"})  # noqa: S102


def test_the_page_of_studies_can_be_followed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "studies.md"
    (study,) = blocks(page, "yaml")
    Path("my_study.yaml").write_text(study.replace("seeds: 2", "seeds: 1"))
    short = "training: {max_epochs: null, max_updates: 3}\nevaluation: {every_updates: 3}\n"
    for name in ("teacher", "kd", "msd"):
        Path(f"{name}.yaml").write_text(f"base: {ROOT}/projects/quickstart/configs/{name}.yaml\n{short}")
    commands = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert len(commands) == 2
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, f"{command}\n{capsys.readouterr().err}"
    said = Path("runs/my_study/summary.md").read_text()
    for title in ("With a modality missing", "As the teacher says", "What each modality is to the teacher", "Differences"):
        assert f"## {title}" in said
    for name in ("msd-attention", "msd-constant", "msd-by_image", "msd-instance"):
        assert f"| {name} | " in said


def test_components_of_a_users_own_take_one_file_each_and_one_line_of_yaml(tmp_path, world, teacher):  # noqa: F811
    page = ROOT / "CONTRIBUTING.md"
    names = re.findall(r"In `my_components/(\w+\.py)`", page.read_text())
    code = blocks(page, "python")
    assert len(names) == len(code) == 2
    (tmp_path / "my_components").mkdir()
    for name, text in zip(names, code):
        (tmp_path / "my_components" / name).write_text(text)
    (yaml_text,) = blocks(page, "yaml")
    yaml_text = yaml_text.replace("base: projects", f"base: {ROOT}/projects").replace("user_dir: ", f"user_dir: {tmp_path}/")
    (tmp_path / "mine.yaml").write_text(yaml_text)
    report = run(tmp_path / "mine.yaml", student(world, teacher, tmp_path / "out"))
    assert "test/accuracy" in report["metrics"]
    weights = [line for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines() if '"train/weight/image"' in line]
    assert weights
    assert '"train/weight/full": 1.0' in weights[0]  # the overlap of a prediction with itself


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
