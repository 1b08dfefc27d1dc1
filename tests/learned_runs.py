"""Small runs that learn their weights, without files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from msd_framework.callbacks.base import Callback
from msd_framework.data.batches.plan import HELD_OUT, TrainingPlan, hold_out, stream_seed
from msd_framework.engine.checkpoint import CheckpointFolder
from msd_framework.engine.distributed import World
from msd_framework.engine.optim import AdamWRecipe, CosineSchedule, OptimizerRecipe
from msd_framework.engine.runner import Plan, Runner
from msd_framework.losses.logits import SoftenedKL
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.visual_bert import VisualBert
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.teachers.live import LiveTeacher
from msd_framework.testing import MadeBatches, made_batch, take
from msd_framework.weighting.learned import LearnedWeights
from tests.runs import SIZES, tiny_model

VIEWS = ("full", "image", "text")
LAMBDA = 0.6
NUM_UPDATES = 10


def student(dropout: float, **options: Any) -> VisualBert:
    torch.manual_seed(2)
    sizes = {"num_classes": 3, "hidden_size": 8, "num_layers": 2, "dropout": dropout, "attention_dropout": dropout}
    return VisualBert(**(SIZES | sizes | {"initializer_range": 0.3} | options)).double()


def objective(model: nn.Module, views: Sequence[Any] = VIEWS, loss: Any = None, **options: Any) -> DistillationObjective:
    """A student with a teacher whose views differ by much; options are those of the weights."""
    masker, teacher = DropMasker(), tiny_model(1, 16)
    with torch.no_grad():
        for matrix in (p for p in teacher.parameters() if p.ndim >= 2):
            matrix.mul_(20)
    weighting, given = LearnedWeights(num_classes=3, **options), list(views)
    live, chosen = LiveTeacher(teacher, masker), loss or SoftenedKL(2.0)
    return DistillationObjective(model, live, masker, given, LAMBDA, distill_loss=chosen, weighting=weighting).double()


class Weights(Callback):
    """Keeps the weights and the losses that are logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_log(self, runner: Runner, terms: Mapping[str, float]) -> None:
        self.rows.append({k: v for k, v in terms.items() if k.startswith(("weight/", "loss"))})


def learned_run(
    world: World | None = None,
    accumulate: int = 1,
    folder: Path | None = None,
    dropout: float = 0.0,
    packed: bool = True,
    save_at: frozenset[int] = frozenset(),
    **options: Any,
) -> tuple[Runner, Weights]:
    """Ten updates of eight examples; a quarter of 24 is held out and looked at four at a time."""
    world, weights = world or World(), Weights()
    built = objective(student(dropout, packed=packed), lr=0.05, held_out=0.25, held_out_batch_size=4, **options)
    data, held_out = made_batch(24), built.held_out
    assert held_out is not None
    rest, held = (take(data, list(i)) for i in hold_out(24, held_out.share, seed=0))
    place = world.rank, world.size
    optimizer = AdamWRecipe(lr=0.02).build(built)
    runner = Runner(
        built,
        MadeBatches(rest, TrainingPlan(18, 8, NUM_UPDATES, accumulate, *place, seed=0)),
        optimizer,
        CosineSchedule(0.2).build(optimizer, NUM_UPDATES),
        Plan(NUM_UPDATES, accumulate, clip_norm=0.5, log_every=1, save_at=save_at),
        world,
        checkpoints=CheckpointFolder(folder) if folder else None,
        card={"model": {"type": "visual_bert"}},
        callbacks=[weights],
        held_out=MadeBatches(held, TrainingPlan(6, 4, NUM_UPDATES, 1, *place, seed=stream_seed(0, HELD_OUT))),
    )
    torch.manual_seed(3)
    return runner, weights


def result(runner: Runner, weights: Weights) -> dict[str, Any]:
    """What came of a run: its log, and every number that it learned, those of the weights' net among them."""
    learned = {n: p for n, p in runner.objective.named_parameters() if not n.startswith("teacher")}
    return {"rows": weights.rows, "parameters": nn.utils.parameters_to_vector(learned.values()).tolist()}


class Adagrad(OptimizerRecipe):
    """An optimizer whose step nobody can look ahead by."""

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(module.parameters())
