"""What are weights worth where a teacher is wrong on one of its views?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from msd_framework.data.batches.plan import TrainingPlan
from msd_framework.engine.optim import AdamWRecipe, ConstantSchedule
from msd_framework.engine.runner import Plan, Runner
from msd_framework.experiment import Experiment, Row
from msd_framework.maskers.drop import DropMasker
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.ranges import positive
from msd_framework.registry import EXPERIMENTS, WEIGHTINGS
from msd_framework.testing import MadeBatches
from msd_framework.views import FULL

from .experiment import BATCH_SIZE, PlantedWeights, Trajectory
from .student import LinearStudent
from .world import MODALITIES, SIZE, Fault, World

NUM_TESTED = 5000

Method = Literal["kd", "uniform", "instance", "teacher_loss", "learned"]
"""Plain distillation, or modality-specific distillation with one of these weightings."""


@EXPERIMENTS.register("planted_accuracy")
class PlantedAccuracy(Experiment):
    """The student's accuracy on 5,000 fresh examples, in per cent, by how views are weighed of which the teacher is wrong on one.

    Its table has a row a seed. `learned` holds out a tenth of the training examples; the others train on all of them.

    Args:
        fault: what is wrong with the teacher.
        methods: which ones.
        num_examples: of the training split.
        num_updates: of each run.
        share: of the examples that are corrupted.
    """

    def __init__(
        self,
        fault: Fault = "noise",
        methods: list[Method] | None = None,
        num_examples: int = 1000,
        num_updates: int = 600,
        share: float = 0.3,
    ):
        positive(num_examples=num_examples, num_updates=num_updates, share=share)
        self.fault, self.num_examples, self.num_updates, self.share = fault, num_examples, num_updates, share
        self.methods = methods or ["kd", "uniform", "instance", "teacher_loss", "learned"]

    def run(self, seeds: Sequence[int], folder: Path) -> list[Row]:
        return [{"seed": str(seed), **{method: self.accuracy(seed, method) for method in self.methods}} for seed in seeds]

    def accuracy(self, seed: int, method: Method) -> float:
        """Of a student that was trained by one method in the world of one seed."""
        world = World.make(seed, self.fault, self.num_examples, self.share)
        torch.manual_seed(seed)
        model = LinearStudent(MODALITIES, SIZE)
        self.runner(model, world, seed, method).fit()
        tested = world.fresh(NUM_TESTED)
        with torch.no_grad():
            said = model.eval()(tested.inputs).logits.argmax(-1)
        return 100 * float((said == tested.targets).float().mean())

    def runner(self, model: LinearStudent, world: World, seed: int, method: Method) -> Runner:
        """A student's run, with nothing but the weights different."""
        if method == "learned":
            learned = PlantedWeights(
                self.fault,
                "view" if self.fault == "noise" else "example",
                num_examples=self.num_examples,
                num_updates=self.num_updates,
                share=self.share,
            )
            return learned.runner(learned.objective(model, world, seed), world, seed, Trajectory())
        weighting = WEIGHTINGS.build("uniform" if method == "kd" else method, "weighting", {})
        views = [FULL] if method == "kd" else [FULL, *MODALITIES]
        objective = DistillationObjective(model, world.teacher, DropMasker(), views, weighting=weighting)
        batches = MadeBatches(world.examples, TrainingPlan(self.num_examples, BATCH_SIZE, self.num_updates, 1, 0, 1, seed))
        optimizer = AdamWRecipe(lr=3e-3).build(objective)
        return Runner(
            objective,
            batches,
            optimizer,
            ConstantSchedule().build(optimizer, self.num_updates),
            Plan(self.num_updates, clip_norm=1.0, log_every=10),
        )
