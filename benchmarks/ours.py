"""Steps of the framework, with the components that a run would build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch

from benchmarks.cache import filled
from benchmarks.held_out import HeldOutOf
from benchmarks.made import NUM_CLASSES, VIEWS, Sizes
from benchmarks.second_order import Passes, second_order
from benchmarks.timing import CPU, Step, update
from msd_framework.engine.distributed import World
from msd_framework.engine.look_ahead import LookAhead, OptimizerStep
from msd_framework.engine.optim import AdamWRecipe
from msd_framework.engine.precision import Precision
from msd_framework.maskers.drop import DropMasker
from msd_framework.models.visual_bert import VisualBert
from msd_framework.objectives.base import Objective
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.supervised import SupervisedObjective
from msd_framework.schedules import Progress
from msd_framework.structures import Batch
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.cached import CachedTeacher
from msd_framework.teachers.live import LiveTeacher
from msd_framework.weighting.learned import LearnedWeights

NUM_CACHED = 10_000
"""Examples in the cache that steps look into, those of all batches among them."""


class Ours:
    """Steps of the framework; the student and its optimizer are shared among them, since they run in turn.

    Args:
        sizes: the sizes of student and teacher.
        packed: whether views share one pass without padding.
    """

    def __init__(self, sizes: Sizes, packed: bool = True):
        self.sizes, self.packed, self.masker = sizes, packed, DropMasker()

    def model(self, sizes: Mapping[str, int]) -> VisualBert:
        return VisualBert(NUM_CLASSES, packed=self.packed, **sizes)  # type: ignore[arg-type]

    @cached_property
    def student(self) -> VisualBert:
        return self.model(self.sizes.student)

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        return AdamWRecipe(lr=1e-5).build(self.student)

    @cached_property
    def live(self) -> LiveTeacher:
        return LiveTeacher(self.model(self.sizes.teacher), self.masker)

    @cached_property
    def cached(self) -> CachedTeacher:
        """A teacher that was asked about all examples before; what it says is made up."""
        return filled([str(i) for i in range(NUM_CACHED)], torch.randn(len(VIEWS), NUM_CACHED, NUM_CLASSES))

    def objective(self, teacher: Teacher, views: Sequence[str]) -> DistillationObjective:
        return DistillationObjective(self.student, teacher, self.masker, list(views))

    def plain(self, batch: Batch, precision: Precision) -> Step:
        """One update from labels."""
        return self.step(SupervisedObjective(self.student), batch, precision)

    def msd(self, teacher: Teacher, batch: Batch, precision: Precision) -> Step:
        """One update of modality-specific distillation."""
        return self.step(self.objective(teacher, VIEWS), batch, precision)

    def msd_cached(self, batch: Batch, precision: Precision) -> Step:
        """The look-up of what the teacher says is part of the step."""
        return self.msd(self.cached, batch, precision)

    def msd_live(self, batch: Batch, precision: Precision) -> Step:
        """The teacher is asked in each step."""
        return self.msd(self.live, batch, precision)

    def kd(self, teacher: Teacher, batch: Batch, precision: Precision) -> Step:
        """One update of plain distillation."""
        return self.step(self.objective(teacher, ["full"]), batch, precision)

    def kd_cached(self, batch: Batch, precision: Precision) -> Step:
        return self.kd(self.cached, batch, precision)

    def kd_live(self, batch: Batch, precision: Precision) -> Step:
        return self.kd(self.live, batch, precision)

    def teachers_pass(self, batch: Batch, precision: Precision) -> Step:
        """What is asked of the teacher once for each batch, to fill a cache."""

        def step() -> None:
            with precision.autocast(CPU):
                self.live.predict(batch, VIEWS)

        return step

    def learned(self, batch: Batch, precision: Precision, share: float = 1.0) -> Step:
        """One update of modality-specific distillation, and one of each example's weights by what it did to held-out examples.

        Args:
            batch: B examples.
            precision: what is computed in.
            share: held-out examples, as a share of B.
        """
        weighting = LearnedWeights(num_classes=NUM_CLASSES)
        objective = DistillationObjective(self.student, self.cached, self.masker, list(VIEWS), weighting=weighting)
        made, held_out = self.step(objective, batch, precision), HeldOutOf(batch, share)
        look_ahead = LookAhead(objective, held_out, self.optimizer)
        optimizer_step = OptimizerStep(0, precision, torch.zeros(()), World(), look_ahead)

        def step() -> None:
            objective.begin_update(Progress(0, 1))
            made()
            objective.after_step(optimizer_step)

        return step

    def second_order(self, batch: Batch, precision: Precision) -> Step:
        """The same with the gradient of the weights by second derivatives of the student."""
        passes = Passes(self.student.train(), self.masker, batch)
        held_out = HeldOutOf(batch).batch

        def step() -> None:
            second_order(passes, self.optimizer, self.cached, held_out, precision)

        return step

    def step(self, objective: Objective, batch: Batch, precision: Precision) -> Step:
        objective.train()
        return update(self.optimizer, precision, lambda: objective(batch).loss)
