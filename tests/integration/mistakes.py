"""What tests of mistakes share: a mistake, the sentence that it is told in, and what makes files wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from msd_framework.cli import main

DISTILLATION = [
    "objective={type: distillation, views: [full, image, text]}",
    "teacher.checkpoint=<teacher>",
]
"""Words that make a student of the run."""


@dataclass(frozen=True)
class Mistake:
    """A mistake and the sentence that it should be told in.

    Args:
        name: what the user did.
        words: what was written, over a configuration that is right; <world>, <teacher> and <here> are folders.
        said: a pattern of the one line on stderr.
        prepare: makes the files that the mistake is about, in <here>.
        while_training: that it may be told after the first update, since nobody looks for it before: a broken picture.
    """

    name: str
    words: list[str]
    said: str
    prepare: Callable[[Path, Path, Path], object] = field(default=lambda here, world, teacher: None)
    while_training: bool = False


def student(*words: str) -> list[str]:
    return [*DISTILLATION, *words]


def copied(teacher: Path, here: Path) -> Path:
    shutil.copytree(teacher, here / "copy", symlinks=True)
    return (here / "copy" / "checkpoints" / "best").resolve()


def edit_card(teacher: Path, here: Path, change: Callable[[dict], object]) -> None:
    card = copied(teacher, here) / "card.json"
    values = json.loads(card.read_text())
    change(values)
    card.write_text(json.dumps(values))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def module(text: str) -> Callable[[Path, Path, Path], object]:
    def write(here: Path, world: Path, teacher: Path) -> None:
        (here / "mine").mkdir()
        (here / "mine" / "parts.py").write_text(text)

    return write


def msd(words: list[str], here: Path, config: Path, world: Path, teacher: Path) -> int:
    """Runs the command with these words over the configuration that is right."""
    folders = {"<here>": here, "<world>": world, "<teacher>": teacher}
    for name, folder in folders.items():
        words = [w.replace(name, str(folder)) for w in words]
    named = [] if any(w.startswith("config=") for w in words) else [f"config={config}"]
    return main(["run", *named, f"env.save_dir={here / 'run'}", *words])
