"""Which of a teacher's layers a student's should learn from: a table of how alike they are, and a suggestion."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from msd_framework.analysis.cka import cka_table, suggested_layers
from msd_framework.build.data import Data, build_data, open_splits
from msd_framework.build.models import build_maskers, build_model, build_recipe
from msd_framework.build.teachers import trained_teachers
from msd_framework.checks.run import checked
from msd_framework.checks.words import own_options
from msd_framework.config.load import Source, load, located, resolve
from msd_framework.config.schema import USES
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.loader import EvaluationBatches
from msd_framework.engine.checkpoint import WEIGHTS, find_checkpoint, load_weights, read
from msd_framework.engine.distributed import World
from msd_framework.engine.random_state import seed_everything
from msd_framework.errors import ConfigError, Problem, TrainingError, did_you_mean
from msd_framework.losses.relations import summary
from msd_framework.models.base import MultimodalModel
from msd_framework.models.features import numbered, parsed, told
from msd_framework.screen import Screen
from msd_framework.structures import Batch


@dataclass(frozen=True)
class LayersConfig:
    """What ``msd layers`` takes beside the options of the run."""

    student_layers: str = "fused.*.hidden"
    """The student's layers, such as `text.*.hidden`; each is read as its mean over the positions of an example."""

    teacher_layers: str | None = None
    """The teacher's; of the same names as the student's if null."""

    weights: str | None = None
    """The folder of a finished run whose weights the student has; its first ones if null, which say little."""

    split: str = "train"
    """What the run uses the split for whose examples are looked at: train, validation or test."""

    examples: int = 512
    """How many examples are looked at."""


@dataclass(frozen=True)
class Alike:
    """How alike layers are.

    Args:
        student: the names of n layers.
        teacher: the names of m layers.
        cka: float [n, m].
    """

    student: tuple[str, ...]
    teacher: tuple[str, ...]
    cka: Tensor

    @property
    def layers(self) -> dict[int, int]:
        """The suggestion, as `layers` of a feature term takes it."""
        return suggested_layers(self.cka)


def run_layers(path: str | Path, words: Sequence[str] = ()) -> Alike:
    """Compares the layers of a run's student and teacher, and prints what it finds; nothing is trained or kept.

    Args:
        path: the run's YAML.
        words: options ``key=value``, of `LayersConfig` or of the run.

    Raises:
        MSDError: if the user can mend what is wrong.
    """
    options, of_run = _options(words)
    source = resolve(load(path, of_run))
    with tempfile.TemporaryDirectory() as folder:
        env = {**source.values.get("env", {}), "save_dir": folder}
        source = Source({**source.values, "run_type": "train", "checkpoint": {}, "env": env}, source.origins)
        config = checked(source)
        if config.teacher is None or config.teacher.ema is not None:
            raise ConfigError(located(Problem("teacher.checkpoint", "must be given: whose layers are compared."), source))
        if getattr(config.data, options.split) is None:
            raise ConfigError(Problem("split", f"data.{options.split} names no split of the data set."))
        if config.env.threads:
            torch.set_num_threads(config.env.threads)
        seed_everything(config.seed)
        with World.join(config.env.device) as world:
            data = build_data(config, world, open_splits(config, world, list(dict.fromkeys(["train", options.split]))))
            student = build_model(config, data, build_recipe(config, data))
            teacher = trained_teachers(config, data, build_maskers(config, data))[0].live().model
            found = alike_layers(data, student, teacher, options)
    show(found)
    return found


@torch.no_grad()
def alike_layers(data: Data, student: MultimodalModel, teacher: MultimodalModel, options: LayersConfig) -> Alike:
    """How alike the layers of a run's student and of its (first) teacher are on the full view.

    Args:
        data: what the run reads.
        student: its model.
        teacher: its teacher's.
        options: which layers and examples.

    Raises:
        ConfigError: if there are no such layers.
    """
    if options.weights is not None:
        folder = find_checkpoint(options.weights)
        load_weights(student, read(folder, WEIGHTS).model, str(folder))
    mine = _layers(student, "student_layers", options.student_layers)
    theirs = _layers(teacher, "teacher_layers", options.teacher_layers or options.student_layers)
    reader = data.training_reader if options.split == "train" else data.evaluation[options.split].reader
    size = min(options.examples, data.config.evaluation.batch_size)
    batches = EvaluationBatches(reader, Collator(data.processors, data.info), size)
    seen: dict[tuple[str, str], list[Tensor]] = {}
    for batch in _first(batches, options.examples):
        here = batch.to(data.world.device)
        for who, model, names in (("student", student.eval(), mine), ("teacher", teacher, theirs)):
            (features,) = model.forward_features([here.inputs], [names])[1]
            for name in names:
                if not (mean := summary(features[name]).double().cpu()).isfinite().all():
                    raise TrainingError(f"{name} of the {who} is not finite on data.{options.split}. Take another checkpoint.")
                seen.setdefault((who, name), []).append(mean)
    states = {key: torch.cat(parts)[: options.examples] for key, parts in seen.items()}
    table = cka_table([states["student", name] for name in mine], [states["teacher", name] for name in theirs])
    return Alike(tuple(mine), tuple(theirs), table)


def show(found: Alike) -> None:
    """The table on the screen, and the suggestion as a line of YAML."""
    table = Table(title="CKA of the student's layers (rows) with the teacher's", title_justify="left")
    table.add_column("")
    for name in found.teacher:
        table.add_column(name, justify="right")
    suggested = found.layers
    for i, (name, row) in enumerate(zip(found.student, found.cka.tolist()), 1):
        table.add_row(name, *(Text(f"{v:.3f}", "bold" if suggested[i] == j else "") for j, v in enumerate(row, 1)))
    console = Screen()
    console.print(table)
    pairs = ", ".join(f"{i}: {j}" for i, j in suggested.items())
    console.print(f"layers: {{{pairs}}}", soft_wrap=True)


def _options(words: Sequence[str]) -> tuple[LayersConfig, list[str]]:
    options, _, of_run = own_options(words, LayersConfig)
    if options.split not in USES:
        raise ConfigError(Problem("split", f"wanted {', '.join(USES)}, got {options.split!r}.{did_you_mean(options.split, USES)}"))
    if options.examples < 2:
        raise ConfigError(Problem("examples", f"must be at least 2, got {options.examples}."))
    return options, of_run


def _layers(model: MultimodalModel, at: str, pattern: str) -> list[str]:
    """The names of the layers of a pattern, that are states or summaries."""
    kinds: Mapping[str, str] = model.offered
    found = [name for name in numbered(pattern, kinds).values() if kinds[name] in ("hidden", "pooled")]
    if not found:
        known = dict.fromkeys(f"{part}.*.{what}" for part, layer, what in map(parsed, kinds) if layer is not None)
        text = f"there are no layers with states of the name {pattern!r}.{did_you_mean(pattern, known)}"
        raise ConfigError(Problem(at, f"{text} The model offers {told(kinds)}."))
    return found


def _first(batches: EvaluationBatches, num_examples: int) -> list[Batch]:
    """As many batches as hold so many examples."""
    found: list[Batch] = []
    for batch in batches:
        found.append(batch)
        if sum(map(len, found)) >= num_examples:
            break
    return found
