"""What the pages tell a user to type works."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from msd_framework.cli import main
from msd_framework.registry import MODELS, TASK_LOSSES
from msd_framework.run import run
from msd_framework.structures import ModalityInputs, ModelOutput
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


def test_every_file_and_folder_that_the_page_of_the_architecture_names_is_there():
    page = (ROOT / "docs" / "architecture.md").read_text()
    tree = page[page.index("msd_framework/\n") : page.index("## Rules")]
    named = {*re.findall(r"`([a-z_/]+\.py)`", page), *re.findall(r"[a-z_]+\.py", tree)}
    folders = {
        *re.findall(r"->  ([a-z]+)/", page),
        *re.findall(r"`([a-z]+)/`", page),
        *re.findall(r"^  ([a-z]+)/", tree, re.MULTILINE),
    }
    package = ROOT / "msd_framework"
    assert len(named) > 20
    assert [name for name in named if not (package / name).is_file() and not (ROOT / name).is_file()] == []
    assert len(folders) > 15
    assert [name for name in folders if not (package / name).is_dir()] == []


def test_the_first_steps_can_be_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks(ROOT / "docs" / "first_steps.md", "bash") for line in block.splitlines()]
    assert len(commands) >= 8
    for command in commands:
        program, *words = shlex.split(command)
        few = ["sizes.train=96", "sizes.dev_seen=24", "sizes.test_seen=24"] if words[0] == "make-world" else []
        assert program == "msd"
        assert main([*words, *few]) == 0, f"{command}\n{capsys.readouterr().err}"


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


def test_the_page_of_studies_can_be_followed(forked_workers, tmp_path, monkeypatch, capsys):
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


@pytest.fixture(scope="module")
def own_components(own_names, tmp_path_factory) -> list[Path]:
    """The YAMLs of CONTRIBUTING.md, beside the files that it shows."""
    page, folder = ROOT / "CONTRIBUTING.md", tmp_path_factory.mktemp("own")
    names, code = re.findall(r"`my_components/(\w+\.py)`:", page.read_text()), blocks(page, "python")
    assert len(names) == len(set(names)) == len(code) == 8
    (folder / "my_components").mkdir()
    for name, text in zip(names, code):
        (folder / "my_components" / name).write_text(text)
    written = []
    for i, text in enumerate(blocks(page, "yaml")):
        text = text.replace("base: projects", f"base: {ROOT}/projects").replace("user_dir: ", f"user_dir: {folder}/")
        written.append(folder / f"mine{i}.yaml")
        written[-1].write_text(text)
    return written


def test_components_of_a_users_own_take_one_file_each_and_one_line_of_yaml(own_components, tmp_path, world, teacher):  # noqa: F811
    report = run(own_components[0], student(world, teacher, tmp_path / "out"))
    assert "test/accuracy" in report["metrics"]
    weights = [line for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines() if '"train/weight/image"' in line]
    assert weights
    assert '"train/weight/full": 1.0' in weights[0]  # the overlap of a prediction with itself


def test_a_run_may_be_made_of_components_of_ones_own(own_components, tmp_path, world):  # noqa: F811
    words = [f"data.dataset.root={world}", f"env.save_dir={tmp_path / 'out'}", "training.max_epochs=null", "training.max_updates=6"]
    report = run(own_components[1], [*words, "evaluation.every_updates=3", "callbacks=[{type: good_enough, value: 0.0}]"])
    assert report["stopped"] == "accuracy has reached 0"
    assert 0 <= report["metrics"]["test/worst_recall"] <= report["metrics"]["test/accuracy"]
    memes = sum(len(json.loads(line)["text"].split()) <= 4 for line in (world / "test_seen.jsonl").read_text().splitlines())
    assert 0 < memes == report["examples"]["test"] < 41


def test_the_components_of_the_page_are_what_they_say(own_components, capsys):
    """A modality may be hidden or left out, what is hidden changes nothing, and the loss is its formula."""
    folder = own_components[0].parent / "my_components"
    assert main(["components", "encoders", "two_convolutions", f"user_dir={folder}"]) == 0
    assert "features of a token" in capsys.readouterr().out
    torch.manual_seed(0)
    encoders = {"image": "two_convolutions", "other": "two_convolutions"}
    model = MODELS.build({"type": "gated_sum", "encoders": encoders}, "model", {"num_classes": 3, "image_channels": 3}).eval()
    image, other = (ModalityInputs(torch.rand(4, 3, 8, 8), torch.ones(4, 1, dtype=torch.bool)) for _ in range(2))
    hidden = replace(other, values=torch.full_like(other.values, torch.nan), mask=torch.zeros_like(other.mask))
    alone = model({"image": image}).logits
    assert torch.equal(model({"image": image, "other": hidden}).logits, alone)
    assert not torch.allclose(model({"image": image, "other": other}).logits, alone)
    y = torch.tensor([0, 1, 2, 0])
    focal, plain = (TASK_LOSSES.build(spec) for spec in ({"type": "focal", "gamma": 2.0}, "cross_entropy"))
    losses = plain(ModelOutput(alone), y)
    torch.testing.assert_close(focal(ModelOutput(alone), y), (1 - (-losses).exp()) ** 2 * losses)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
