"""A checked configuration to a run, whose parts are made in one order that can be seen here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from msd_framework.build.data import Data, build_data
from msd_framework.build.facts import RunFacts
from msd_framework.build.models import (
    Maskers,
    build_maskers,
    build_metrics,
    build_model,
    build_recipe,
    load_trained,
    trained_precision,
)
from msd_framework.build.splits import Splits, check_splits, open_splits
from msd_framework.build.teachers import Teachers, build_teachers
from msd_framework.build.training import Batches, build_batches, build_objective, build_runner
from msd_framework.config.schema import RunConfig
from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import PredictedBatches, measure
from msd_framework.engine.precision import Choice, Precision
from msd_framework.engine.runner import Runner
from msd_framework.maskers.base import Masker
from msd_framework.metrics.base import Metric
from msd_framework.models.base import MultimodalModel
from msd_framework.objectives.base import Objective
from msd_framework.structures import Batch
from msd_framework.views import FULL, shows


@dataclass(frozen=True)
class Training:
    """What a run has that trains."""

    objective: Objective  # what is minimised
    batches: Batches  # what it learns from
    runner: Runner  # minimises it


@dataclass(frozen=True)
class Run:
    """A run, ready to be fitted or to evaluate a trained model."""

    data: Data  # its configuration and process, and what it reads
    maskers: Maskers
    model: MultimodalModel
    teachers: Teachers
    metrics: Mapping[str, Metric]  # what predictions are measured with, by name
    training: Training | None  # None where a trained model is evaluated

    @property
    def config(self) -> RunConfig:
        return self.data.config

    @property
    def world(self) -> World:
        return self.data.world

    @property
    def folder(self) -> Path:
        return Path(self.config.env.save_dir)

    @property
    def precision(self) -> Choice:
        """What the run trains and evaluates in."""
        return trained_precision(self.config) if self.training is None else self.training.runner.choose_precision()

    def load_trained(self) -> int:
        """Takes the weights of the best checkpoint, or of the one that is evaluated; returns its update."""
        average = None if self.teachers.average is None else self.teachers.average.average
        return load_trained(self.data, self.model, self.maskers, average)

    def predict(self, batches: Iterable[Batch]) -> PredictedBatches:
        """The student's predictions of batches, on every view that the configuration asks for."""
        return student_predictions(
            self.model,
            self.maskers.of("test").student,
            batches,
            self.config.evaluation.views,
            self.world,
            self.precision.precision,
        )

    def ask_teacher(self, use: str, batches: Iterable[Batch]) -> PredictedBatches | None:
        """The teacher's predictions of batches of a split on the views that it can be shown; None where nobody teaches."""
        teacher = self.teachers.of(use)
        if teacher is None:
            return None
        self.maskers.eval()

        def ask(batch: Batch, names: Sequence[str]) -> Tensor:
            return teacher.predict(batch, names).logits

        views = [v for v in self.config.evaluation.views if v == FULL or shows(v, teacher.modalities)]
        precision, modalities = self.precision.precision, teacher.modalities
        return PredictedBatches(ask, batches, views, self.world, precision, modalities, teacher.name, teacher.shown)


def build(facts: RunFacts, world: World, splits: Splits | None = None) -> Run:
    """Makes the parts of a run, one from those before it; of splits, those that are open and checked already.

    Of the run's random numbers only the model's weights and then the objective's are drawn. What else may draw (a
    processor that learns, a masker, a teacher's weights before they are read) does so apart, by `random_numbers_apart`,
    so that a part that is added, left out or made elsewhere changes no number. After this, `run.fit` seeds each process
    anew.
    """
    if splits is None:
        splits = open_splits(facts, world)
        check_splits(facts, splits)
    data = build_data(facts, world, splits)
    recipe, maskers = build_recipe(data), build_maskers(data)
    model = build_model(data, recipe)
    teachers = build_teachers(data, maskers, model)
    metrics = build_metrics(data)
    if facts.config.is_evaluated:
        return Run(data, maskers, model, teachers, metrics, None)
    objective = build_objective(data, model, teachers, maskers)
    batches = build_batches(data, objective.held_out)

    def validate(runner: Runner) -> dict[str, float]:
        examples, views = data.evaluation["validation"], facts.config.evaluation.views
        precision, masker = runner.choose_precision().precision, maskers.of("validation").student
        return measure(student_predictions(model, masker, examples, views, world, precision), metrics)

    runner = build_runner(data, recipe, objective, batches, metrics, validate)
    return Run(data, maskers, model, teachers, metrics, Training(objective, batches, runner))


def student_predictions(
    model: MultimodalModel, masker: Masker, batches: Iterable[Batch], views: Sequence[str], world: World, precision: Precision
) -> PredictedBatches:
    """A model's predictions of batches, in eval mode."""

    def ask(batch: Batch, names: Sequence[str]) -> Tensor:
        return model.forward_views([masker.view(batch, name).inputs for name in names]).logits

    model.eval()
    masker.eval()
    return PredictedBatches(ask, batches, views, world, precision, model.modalities, type(model).__name__)
