"""What the pages on data tell a user to type works."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from msd_framework.cli import main
from msd_framework.data.sets.vqa2 import VQA2
from msd_framework.registry import DATASETS
from tests.integration.test_docs import blocks

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    """A folder in which the code of the page was run."""
    folder = tmp_path_factory.mktemp("own")
    first, _ = blocks(DOCS / "own_data.md", "python")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(first, {"__name__": "page"})  # noqa: S102
    config, by_column, by_shares = blocks(DOCS / "own_data.md", "yaml")
    (folder / "mine.yaml").write_text(config)
    for name, block in {"by_column": by_column, "by_shares": by_shares}.items():
        (folder / f"{name}.yaml").write_text(f"base: mine.yaml\n{block}")
    rows = [json.loads(line) for file in sorted((folder / "data/mine").glob("*.jsonl")) for line in file.read_text().splitlines()]
    with (folder / "data/mine/all.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*rows[0], "fold"], *([*row.values(), i // 2 % 5] for i, row in enumerate(rows))])
    return folder


def test_data_of_ones_own_needs_no_code(mine, monkeypatch, capsys):
    monkeypatch.chdir(mine)
    (commands,) = blocks(DOCS / "own_data.md", "bash")
    for command in commands.splitlines():
        program, *words = shlex.split(command)
        assert program == "msd"
        assert main(words) == 0, f"{command}\n{capsys.readouterr()}"
    assert json.loads((mine / "runs/mine/report.json").read_text())["examples"] == {"validation": 16, "test": 16}


def test_a_data_set_of_ones_own_takes_thirty_lines(mine, monkeypatch):
    _, code = blocks(DOCS / "own_data.md", "python")
    known = dict(DATASETS._classes)
    try:
        exec(code, {"__name__": "page"})  # noqa: S102
        for split in ("train", "validation", "test"):
            for i, colour in enumerate(("red", "blue")):
                target = mine / f"data/folders/{split}/{colour}/{i}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(mine / f"data/mine/photos/{split}{i}.png", target)
        monkeypatch.chdir(mine)
        assert main(["run", "config=mine.yaml", "data.dataset=folders", "env.save_dir=runs/folders", "training.max_updates=2"]) == 0
        assert main(["data", "check", "folders"]) == 0
    finally:
        DATASETS._classes.clear()
        DATASETS._classes.update(known)


@pytest.mark.parametrize("name", ["by_column", "by_shares"])
def test_one_file_can_hold_all_splits(mine, monkeypatch, name):
    monkeypatch.chdir(mine)
    assert main(["run", f"config={name}.yaml", f"env.save_dir=runs/{name}", "training.max_updates=2"]) == 0
    examples = json.loads((mine / f"runs/{name}/report.json").read_text())["examples"]
    assert examples == ({"validation": 16, "test": 16} if name == "by_column" else {"validation": 8, "test": 8})


def test_mmfs_pickle_can_be_converted_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = {"image_id": np.int64(9), "question_str": "why?", "question_id": 7, "answers": ["x", "y", "x"]}
    np.save("imdb_train2014.npy", np.array([{"version": 1}, entry], dtype=object), allow_pickle=True)
    (code,) = (block for block in blocks(DOCS / "datasets.md", "") if "allow_pickle" in block)
    exec(code, {"__name__": "page"})  # noqa: S102
    example = VQA2("train2014", str(tmp_path), min_count=1)[0]
    assert (example.id, example.inputs["text"], list(example.target)) == ("7", "why?", [pytest.approx(4 / 9)])
