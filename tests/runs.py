"""Small runs without files, for the tests of the engine; and what runs have logged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from msd_framework.callbacks.base import Callback
from msd_framework.data.batches.plan import TrainingPlan
from msd_framework.engine.checkpoint import CheckpointFolder
from msd_framework.engine.distributed import World
from msd_framework.engine.optim import AdamWRecipe, CosineSchedule
from msd_framework.engine.runner import Plan, Runner
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.visual_bert import VisualBert
from msd_framework.objectives.base import Objective
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.saliency.prediction import DropSaliency
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import MadeBatches, made_batch
from msd_framework.weighting.saliency import InstanceWeights

NUM_UPDATES = 12
BATCH_SIZE = 8
SIZES = {"vocab_size": 20, "feature_size": 6, "cls_id": 2, "sep_id": 3, "num_heads": 2, "intermediate_size": 16}


def tiny_model(seed: int, hidden_size: int = 8, dropout: float = 0.0) -> VisualBert:
    torch.manual_seed(seed)
    model = VisualBert(
        num_classes=3,
        hidden_size=hidden_size,
        num_layers=1,
        dropout=dropout,
        attention_dropout=dropout,
        **SIZES,  # type: ignore[arg-type]
    )
    return model.double()


def tiny_objective(dropout: float = 0.0) -> DistillationObjective:
    masker = DropMasker()
    teacher = LiveTeacher(tiny_model(1, 16), masker)
    weighting = InstanceWeights(DropSaliency())
    views: list[Any] = ["full", "image", "text"]
    return DistillationObjective(tiny_model(2, dropout=dropout), teacher, masker, views, weighting=weighting)


class Recorder(Callback):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, runner: Runner, terms: Mapping[str, float]) -> None:
        self.losses.append(terms["loss"])


def tiny_runner(
    world: World | None = None,
    accumulate: int = 1,
    folder: Path | None = None,
    dropout: float = 0.0,
    objective: Objective | None = None,
    num_updates: int = NUM_UPDATES,
    precision: str = "fp32",
    **options: Any,
) -> tuple[Runner, Recorder]:
    world, recorder = world or World(), Recorder()
    objective = objective or tiny_objective(dropout)
    optimizer = AdamWRecipe(lr=1e-2).build(objective)
    examples = TrainingPlan(20, BATCH_SIZE, num_updates, accumulate, world.rank, world.size, seed=0)
    runner = Runner(
        objective,
        MadeBatches(made_batch(20), examples),
        optimizer,
        CosineSchedule(0.2).build(optimizer, num_updates),
        Plan(num_updates, accumulate, clip_norm=1.0, precision=precision, log_every=1, **options),
        world,
        checkpoints=CheckpointFolder(folder) if folder else None,
        card={"model": {"type": "visual_bert"}},
        callbacks=[recorder],
    )
    torch.manual_seed(3)
    return runner, recorder


def losses(folder: Path, name: str = "train/loss") -> list[float]:
    """What a run has logged under a name, in the order of its updates."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def started_together(monkeypatch: pytest.MonkeyPatch, size: int, rank: int = 0) -> None:
    """The environment of one of several processes, as torchrun makes it."""
    others = {"LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}
    for name, value in {"WORLD_SIZE": size, "RANK": rank, **others}.items():
        monkeypatch.setenv(name, str(value))
