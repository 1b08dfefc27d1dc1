"""Do learned weights find what is wrong with a teacher?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from msd_framework.callbacks.base import Callback
from msd_framework.data.batches.plan import HELD_OUT, TrainingPlan, hold_out, stream_seed
from msd_framework.engine.optim import AdamWRecipe, ConstantSchedule
from msd_framework.engine.runner import Plan, Runner
from msd_framework.experiment import Experiment, Row
from msd_framework.maskers.drop import DropMasker
from msd_framework.metrics.classification import AUROC
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.ranges import positive
from msd_framework.registry import EXPERIMENTS
from msd_framework.testing import MadeBatches, take
from msd_framework.views import FULL
from msd_framework.weighting.learned import Input, LearnedWeights

from .student import LinearStudent
from .world import MODALITIES, SIZE, Fault, World

BATCH_SIZE, HELD_OUT_SHARE = 32, 0.1


@EXPERIMENTS.register("planted_weights")
class PlantedWeights(Experiment):
    """The weight that a view of the teacher gets which is wrong, over that of the one which is right, and of examples on it.

    Its table has a row a seed: the mean weights of the last tenth of the run, and the AUROC with which an example's weight on
    the view that is wrong tells, after the run, examples on which the teacher is right from those on which it is wrong.

    Args:
        fault: what is wrong with the teacher.
        per: whether views have weights, or examples.
        inputs: what the net is shown.
        order: whether weights learn after an update, or before it.
        every: updates from one look at held-out examples to the next.
        lr: of the net's optimizer.
        num_examples: of the training split, a tenth of which is held out.
        num_updates: of the run.
        share: of the examples that are corrupted.
    """

    def __init__(
        self,
        fault: Fault = "noise",
        per: Literal["example", "view"] = "view",
        inputs: list[Input] | None = None,
        order: Literal["after", "before"] = "after",
        every: int = 1,
        lr: float = 1e-3,
        num_examples: int = 1000,
        num_updates: int = 600,
        share: float = 0.3,
    ):
        positive(num_examples=num_examples, num_updates=num_updates, share=share)
        self.fault, self.share, self.num_examples, self.num_updates = fault, share, num_examples, num_updates
        self.options = {"per": per, "inputs": inputs, "order": order, "every": every, "lr": lr}
        LearnedWeights(**self.options)  # type: ignore[arg-type]

    def run(self, seeds: Sequence[int], folder: Path) -> list[Row]:
        return [{"seed": str(seed), **self.measure(seed)} for seed in seeds]

    def measure(self, seed: int) -> Mapping[str, float]:
        """What came of one seed."""
        world = World.make(seed, self.fault, self.num_examples, self.share)
        torch.manual_seed(seed)
        objective = self.objective(LinearStudent(MODALITIES, SIZE), world, seed)
        trajectory = Trajectory()
        self.runner(objective, world, seed, trajectory).fit()

        last = trajectory.rows[-max(1, len(trajectory.rows) // 10) :]
        of = {m: sum(row[f"weight/{m}"] for row in last) / len(last) for m in MODALITIES}
        (right,) = (m for m in MODALITIES if m != world.wrong)
        found = {"wrong": of[world.wrong], "right": of[right], "ratio": of[world.wrong] / of[right]}
        if self.fault == "noise":
            return found
        return {**found, "auroc": separation(objective, world)}

    def objective(self, model: LinearStudent, world: World, seed: int) -> DistillationObjective:
        """Distillation of both modalities alone and of the whole, with learned weights."""
        weighting = LearnedWeights(held_out=HELD_OUT_SHARE, seed=seed, **self.options)  # type: ignore[arg-type]
        return DistillationObjective(model, world.teacher, DropMasker(), [FULL, *MODALITIES], weighting=weighting)

    def runner(self, objective: DistillationObjective, world: World, seed: int, trajectory: Callback) -> Runner:
        """A run on the world's examples, a tenth of them held out."""
        rest, held_out = (take(world.examples, list(i)) for i in hold_out(self.num_examples, HELD_OUT_SHARE, seed))
        plans = [
            TrainingPlan(len(part), BATCH_SIZE, self.num_updates, 1, 0, 1, number)
            for part, number in ((rest, seed), (held_out, stream_seed(seed, HELD_OUT)))
        ]
        batches, others = (MadeBatches(part, plan) for part, plan in zip((rest, held_out), plans))
        optimizer = AdamWRecipe(lr=3e-3).build(objective)
        plan = Plan(self.num_updates, clip_norm=1.0, log_every=10)
        scheduler = ConstantSchedule().build(optimizer, self.num_updates)
        return Runner(objective, batches, optimizer, scheduler, plan, callbacks=[trajectory], held_out=others)


class Trajectory(Callback):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, float]] = []

    def on_log(self, runner: Runner, terms: Mapping[str, float]) -> None:
        self.rows.append(terms)


def separation(objective: DistillationObjective, world: World) -> float:
    """How well an example's weight on the view that is wrong tells examples on which the teacher is right from the others."""
    made: list[Tensor] = []
    handle = objective.weighting.register_forward_hook(lambda module, inputs, output: made.append(output))
    with torch.no_grad():
        objective.eval()(world.examples)
    handle.remove()
    of = dict(zip((v.name for v in objective.views), made[0].expand(len(objective.views), -1)))
    logits = torch.stack([of[world.wrong], torch.zeros_like(of[world.wrong])], -1)
    return AUROC()(logits, world.corrupted.long())
