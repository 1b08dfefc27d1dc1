"""config=FILE [student_layers=text.*.hidden ...]: how alike the layers of student and teacher are, and a map of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msd_framework.analysis.apart import apart, begun_anew
from msd_framework.analysis.layers import Alike, alike_layers, usual_layers
from msd_framework.build.data import build_data
from msd_framework.build.facts import RunFacts
from msd_framework.build.models import build_maskers, build_model, build_recipe
from msd_framework.build.splits import open_splits
from msd_framework.build.teachers import trained_teachers
from msd_framework.checks.run import checked
from msd_framework.checks.words import own_options, take
from msd_framework.config.load import load, refuse, resolve
from msd_framework.config.schema import USES
from msd_framework.engine.checkpoint import WEIGHTS, find_checkpoint, load_weights, read
from msd_framework.errors import ConfigError, Problem, did_you_mean
from msd_framework.launch import is_first
from msd_framework.screen import Screen
from msd_framework.table import Table


@dataclass(frozen=True)
class LayersConfig:
    """What ``msd layers`` takes beside the options of the run."""

    student_layers: str | None = None
    """The student's layers, such as `text.*.hidden`; each is read as its mean over the positions of an example. Where null, those
    that all modalities share, `fused.*.hidden`, or else those of the first modality that has layers."""
    teacher_layers: str | None = None
    """The teacher's; of the same names as the student's if null."""
    weights: str | None = None
    """The folder of a finished run whose weights the student has; its first ones if null, which say little."""
    split: str = "train"
    """What the run uses the split for whose examples are looked at: train, validation or test."""
    examples: int = 512
    """How many examples are looked at."""


def main(words: Sequence[str]) -> int:
    alike = run_layers(*take(words, "config"))
    rows = []
    for name, row in zip(alike.student, alike.cka.tolist()):
        rows.append([name, *(f"{value:.3f}" for value in row)])
    bold = [(i - 1, j) for i, j in alike.layers.items()]
    title = "CKA of the student's layers (rows) with the teacher's"
    pairs = ", ".join(f"{i}: {j}" for i, j in alike.layers.items())
    if is_first():
        Screen().show(Table(["", *alike.teacher], rows, title, bold=bold), f"layers: {{{pairs}}}")
    return 0


def run_layers(path: str | Path, words: Sequence[str] = ()) -> Alike:
    """Compares the layers of a run's student and teacher; the words are of `LayersConfig` or of the run. Nothing is trained."""
    options, _, of_run = own_options(words, LayersConfig)
    if options.split not in USES:
        raise ConfigError(Problem("split", f"wanted {', '.join(USES)}, got {options.split!r}.{did_you_mean(options.split, USES)}"))
    if options.examples < 2:
        raise ConfigError(Problem("examples", f"must be at least 2, got {options.examples}."))
    source = resolve(load(path, of_run))
    with begun_anew(source) as source:
        config = checked(source)
        if config.teacher is None or config.teacher.ema is not None:
            refuse([Problem("teacher.checkpoint", "must be given: whose layers are compared.")], source)
        if getattr(config.data, options.split) is None:
            raise ConfigError(Problem("split", f"data.{options.split} names no split of the data set."))
        with apart(config, source) as (config, world):
            facts = RunFacts(config)
            data = build_data(facts, world, open_splits(facts, world, list(dict.fromkeys(["train", options.split]))))
            student = build_model(data, build_recipe(data))
            if options.weights is not None:
                folder = find_checkpoint(options.weights)
                load_weights(student, read(folder, WEIGHTS).model, str(folder))
            teacher = trained_teachers(data, build_maskers(data))[0].live().model
            mine = options.student_layers or usual_layers(student)
            theirs = options.teacher_layers or mine
            return alike_layers(data, student, teacher, mine, theirs, options.split, options.examples)
