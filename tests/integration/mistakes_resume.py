"""Mistakes with a run that is gone on with, with its folder, with processes and with weights of others."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import torch

from tests.integration.mistakes import Mistake, copied, module, student, truncate

ON = ["checkpoint.resume=true", "env.save_dir=<here>/copy"]
"""Goes on with a copy of the teacher's run, of two updates."""


def checkpoints(teacher: Path, here: Path) -> list[Path]:
    """The checkpoints of a copy of the teacher's run."""
    copied(teacher, here)
    return sorted((here / "copy" / "checkpoints").glob("update_*"))


def damage_all(name: str):
    def prepare(here: Path, world: Path, teacher: Path) -> None:
        for path in checkpoints(teacher, here):
            truncate(path / name)

    return prepare


def remove_all(name: str):
    def prepare(here: Path, world: Path, teacher: Path) -> None:
        for path in checkpoints(teacher, here):
            (path / name).unlink()

    return prepare


def lose(*names: str):
    def prepare(here: Path, world: Path, teacher: Path) -> None:
        copied(teacher, here)
        for name in names:
            path = here / "copy" / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    return prepare


def write(name: str, text: str | bytes):
    def prepare(here: Path, world: Path, teacher: Path) -> None:
        copied(teacher, here)
        (here / "copy" / name).write_bytes(text.encode() if isinstance(text, str) else text)

    return prepare


def only_links(here: Path, world: Path, teacher: Path) -> None:
    for path in checkpoints(teacher, here):
        shutil.rmtree(path)


def without_best(here: Path, world: Path, teacher: Path) -> None:
    copied(teacher, here)
    last = here / "copy" / "checkpoints" / "update_00000002"
    state = json.loads((last / "state.json").read_text())
    (last / "state.json").write_text(json.dumps({**state, "best_checkpoint": "update_00000001"}))


def other_rows(here: Path, world: Path, teacher: Path) -> None:
    copied(teacher, here)
    shutil.copytree(world, here / "world")
    lines = (here / "world" / "train.jsonl").read_text().splitlines(keepends=True)
    (here / "world" / "train.jsonl").write_text("".join(reversed(lines)))


STATES = """
from msd_framework.callbacks.base import Callback
from msd_framework.registry import CALLBACKS

@CALLBACKS.register("odd_state")
class OddState(Callback):
    \"\"\"Keeps a set.\"\"\"

    def state(self):
        return {"seen": {1, 2}}
"""


def spoiled(here: Path, world: Path, teacher: Path) -> None:
    """A teacher whose weights are no numbers, and whose files are what was written."""
    from msd_framework.engine import checkpoint

    copied(teacher, here)
    folder = here / "copy" / "checkpoints"
    held = checkpoint.read(next(folder.glob("update_*")))
    shutil.rmtree(folder)
    weights = {name: torch.full_like(t, math.nan) if t.is_floating_point() else t for name, t in held.model.items()}
    made = checkpoint.Checkpoint(weights, held.objective, held.optimizer, held.random, held.state, held.card)
    checkpoint.CheckpointFolder(folder).save(made, 2, best=True)


DAMAGED = [
    Mistake(
        "all checkpoints damaged",
        ON,
        r"checkpoint\.resume: .*copy/checkpoints: holds no whole checkpoint to go on from: .*model\.safetensors: is damaged",
        damage_all("model.safetensors"),
    ),
    Mistake(
        "all optimizers damaged",
        ON,
        r"checkpoint\.resume: .*optimizer\.safetensors: is damaged",
        damage_all("optimizer.safetensors"),
    ),
    Mistake("all states damaged", ON, r"checkpoint\.resume: .*state\.json: is damaged", damage_all("state.json")),
    Mistake("all lists of files gone", ON, r"checkpoint\.resume: .*files\.json: is missing", remove_all("files.json")),
    Mistake(
        "a file gone from each", ON, r"checkpoint\.resume: .*random\.safetensors: is missing", remove_all("random.safetensors")
    ),
    Mistake("links without checkpoints", ON, r"checkpoint\.resume: .*holds no whole checkpoint to go on from", only_links),
    Mistake("checkpoints gone", ON, r"checkpoint\.resume: .*copy holds a run whose checkpoints are gone", lose("checkpoints")),
    Mistake(
        "checkpoints gone, not gone on with",
        ["env.save_dir=<here>/copy"],
        r"env\.save_dir: .*copy already holds a run",
        lose("checkpoints"),
    ),
    Mistake(
        "links gone, not gone on with",
        ["env.save_dir=<here>/copy"],
        r"env\.save_dir: .*copy already holds a run",
        lose("checkpoints/best", "checkpoints/last"),
    ),
    Mistake("configuration gone", ON, r"checkpoint\.resume: .*copy cannot be gone on with: .*config\.yaml", lose("config.yaml")),
    Mistake(
        "configuration that is no YAML",
        ON,
        r"checkpoint\.resume: .*copy cannot be gone on with: .*config\.yaml:1: is not valid YAML",
        write("config.yaml", "data: [1"),
    ),
    Mistake(
        "configuration of another version",
        ON,
        r"checkpoint\.resume: .*config\.yaml is of another version",
        write("config.yaml", "data: 3\nmodel: late_fusion\nodd: 1\n"),
    ),
    Mistake(
        "best checkpoint that is gone",
        ["run_type=test", "checkpoint.load=<here>/copy"],
        r"checkpoint\.load: .*update_00000001: the best checkpoint of this run is missing\. Name another one: update_00000002",
        without_best,
    ),
    Mistake(
        "last checkpoint of a run without one",
        ["run_type=test", "checkpoint.load=<here>/copy/checkpoints/last"],
        r"checkpoint\.load: there is no folder .*checkpoints/last",
        lose("checkpoints"),
    ),
]


def changed(name: str, word: list[str], said: str) -> Mistake:
    """A run that is gone on with otherwise than it was begun."""
    return Mistake(name, [*ON, *word], said, lambda here, world, teacher: copied(teacher, here))


CHANGED = [
    changed(
        "another learning rate", ["optimizer.lr=0.5"], r"optimizer: lr is 0\.5 here and .* there, in the run that is gone on with"
    ),
    changed("another optimizer", ["optimizer=sgd"], r"optimizer: type is 'sgd' here and 'adamw' there"),
    changed("another schedule", ["scheduler=warmup_linear"], r"scheduler: type is 'warmup_linear' here and 'constant' there"),
    changed("another batch size", ["training.batch_size=6"], r"training\.batch_size: is 6 here and 4 there"),
    changed("another seed", ["seed=5"], r"seed: is 5 here and 0 there"),
    changed("another precision", ["training.precision=bf16"], r"training\.precision: is 'bf16' here and 'fp32' there"),
    changed("another masker", ["masker=attention"], r"masker: type is 'attention' here and 'drop' there"),
    changed("another split", ["data.train=test_seen", "data.test=null"], r"data\.train: is 'test_seen' here and 'train' there"),
    changed(
        "an end before the checkpoint",
        ["training.max_updates=1"],
        r"training\.max_updates: the run ends after 1 updates, and its checkpoint is from update 2\. Name a later end",
    ),
    Mistake(
        "other training examples",
        [*ON, "training.max_updates=4", "data.dataset.root=<here>/world"],
        r"was made on other training examples than those that are there now",
        other_rows,
    ),
    Mistake(
        "state of a callback that is no JSON",
        ["user_dir=<here>/mine", "callbacks=[odd_state]"],
        r"callbacks: the state of odd_state cannot be written as JSON: .*set",
        module(STATES),
    ),
]

NUMBERS = [
    Mistake(
        "teacher of no numbers",
        student("teacher.checkpoint=<here>/copy"),
        r"teacher\.checkpoint: its prediction of .* on the view 'full' is not finite\. Take another checkpoint\.",
        spoiled,
    ),
]

MISTAKES = [*DAMAGED, *CHANGED, *NUMBERS]
