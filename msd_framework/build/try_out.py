"""A run is tried before its first update: on its longest rows, and, where it is only checked, as far as its files are at hand."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace

from msd_framework.build.dry_run import DryRun
from msd_framework.build.facts import RunFacts
from msd_framework.build.models import Maskers
from msd_framework.build.run import Run, Training, build
from msd_framework.build.splits import check_splits, open_splits
from msd_framework.build.teachers import Teachers, dry_run
from msd_framework.config.schema import CheckpointConfig, RunConfig
from msd_framework.engine.distributed import World
from msd_framework.metrics.base import Metric
from msd_framework.models.base import MultimodalModel
from msd_framework.objectives.base import Objective


def try_out(config: RunConfig) -> None:
    """Opens a run's splits, builds it and tries it on its longest rows if its weights are on disk; keeps nothing."""
    with tempfile.TemporaryDirectory() as folder:
        env, data = replace(config.env, save_dir=folder), replace(config.data, workers=0, length_pool=0)
        facts = RunFacts(replace(config, run_type="train", env=env, data=data, checkpoint=CheckpointConfig()))
        world = World.alone(config.env.device)
        splits = open_splits(facts, world)
        check_splits(facts, splits)
        if facts.weights_are_at_hand:
            run = build(facts, world, splits)
            assert run.training is not None
            if config.teacher is not None and config.teacher.cache is True and run.data.teacher_overrides:
                # a run looks for what the teacher alone reads only when it fills the cache
                rows = dry_run(run.data, teacher_asked=True).rows
                rows.check_files()
                rows.check_texts()
            trial, waits = try_run(run, run.training)
            if not waits:
                trial.step(run.training.objective)


def try_run(run: Run, training: Training) -> tuple[DryRun, bool]:
    """Tries the models of a run that trains on its longest rows.

    Gives what tries a training step, and whether the training split is gone through before the first one: for
    statistics, or a teacher's outputs. A step can then be tried only after that.
    """
    trial, objective, teacher = dry_run(run.data), training.objective, run.config.teacher
    try_models(trial, run.model, run.maskers, run.teachers, objective, run.metrics)
    waits = any(part.needs_fit for part in (*run.maskers.each, objective)) or (teacher is not None and bool(teacher.cache))
    if waits:
        trial.training_mode(run.model)
    return trial, waits


def try_models(
    trial: DryRun,
    model: MultimodalModel,
    maskers: Maskers,
    teachers: Teachers,
    objective: Objective,
    metrics: Mapping[str, Metric],
) -> None:
    """Tries the student, and teachers whose outputs are not cached, on the views that a run asks for."""
    config = trial.config
    trial.rows.check_files()
    trial.rows.check_texts()
    evaluated = maskers.of("test").student
    asked = {maskers.student: list(getattr(objective, "student_views", ()))}
    asked[evaluated] = [*config.evaluation.views, *asked.get(evaluated, ())]
    for masker, views in asked.items():
        trial.student(model, masker, views, metrics, "masker" if masker is maskers.student else "evaluation.masker")
    if config.teacher is not None and not config.teacher.cache:
        for one in teachers.trained:
            trial.teacher(one.live(), one.views["train"], one.number)
