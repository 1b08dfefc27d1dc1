"""The YAML of docs/methods.md: each block is run, for two updates on three classes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from msd_framework.run import run

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
ENCODERS = {
    "image": "{type: patches, patch_size: 4, hidden_size: 8, num_heads: 2}",
    "text": "{type: transformer, hidden_size: 8, num_layers: 1, num_heads: 2}",
}


@pytest.fixture(scope="module")
def three_classes(tiny_world: Path, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configuration of a run on three classes, and its teachers, of both modalities and of either."""
    folder = tmp_path_factory.mktemp("methods")
    shutil.copytree(tiny_world, folder / "world")
    for split in ("train", "dev_seen", "test_seen"):
        rows = [json.loads(line) for line in (folder / "world" / f"{split}.jsonl").read_text().splitlines()]
        lines = [json.dumps(row | {"label": "abc"[i % 3]}) + "\n" for i, row in enumerate(rows)]
        (folder / "world" / f"{split}.jsonl").write_text("".join(lines))
    columns = "texts: {text: text}, images: {image: img}, label: label, classes: [a, b, c]"
    dataset = f"data: {{dataset: {{type: jsonl, root: {folder}/world, {columns}}}}}"
    (folder / "base.yaml").write_text(f"base: {tiny_config}\n{dataset}\n")
    run(folder / "base.yaml", [f"env.save_dir={folder / 'both'}"])
    for m, encoder in ENCODERS.items():
        run(folder / "base.yaml", [f"model={{type: unimodal_{m}, encoder: {encoder}}}", f"env.save_dir={folder / m}"])
    return folder


def test_there_are_as_many_blocks_as_are_checked() -> None:
    assert len(BLOCKS) == 9
    named = " ".join(BLOCKS)
    for method in ("ctkd", "fd_cmkd", "non_target_kl", "rank_filter", "c2kd", "routed", "meta_kd", "ogm_ge", "g2d"):
        assert method in named


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_is_a_run_s(number: int, three_classes: Path, tmp_path: Path) -> None:
    text = BLOCKS[number].replace("audio", "text").replace("runs/", f"{three_classes}/")
    taught = "type: supervised" not in text and "teacher: {" not in re.sub(r"^ .*$", "", text, flags=re.MULTILINE)
    teacher = f"teacher: {{checkpoint: {three_classes}/both}}\n" if taught else ""
    path = three_classes / f"block{number}.yaml"
    path.write_text(f"base: base.yaml\n{teacher}{text}")
    assert run(path, [f"env.save_dir={tmp_path}"])
