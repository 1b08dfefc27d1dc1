"""What trains in a run: the objective, the batches that it learns from, the optimizer and the runner."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from msd_framework.build.data import Data, OnDevice, class_counts
from msd_framework.build.models import Maskers, card_of_student, problems_of
from msd_framework.build.splits import limit
from msd_framework.build.teachers import Teachers
from msd_framework.callbacks.base import Callback
from msd_framework.callbacks.logging import JsonLines, TensorBoard, tensorboard_is_installed
from msd_framework.callbacks.progress import ProgressBar
from msd_framework.components.registry import plain
from msd_framework.config.schema import TrainingConfig
from msd_framework.data.batches.collate import Collator
from msd_framework.data.batches.lengths import LengthPools, measure_lengths
from msd_framework.data.batches.loader import EvaluationBatches, TrainingBatches
from msd_framework.data.batches.partners import PartnerReader
from msd_framework.data.batches.plan import HELD_OUT, Indices, TrainingPlan, hold_out, stream_seed
from msd_framework.engine.checkpoint import CheckpointFolder
from msd_framework.engine.optim import OptimizerRecipe
from msd_framework.engine.runner import Plan, Runner
from msd_framework.errors import ConfigError, DataError, Problem
from msd_framework.losses.class_weights import WeighedTaskLoss
from msd_framework.metrics.base import Metric
from msd_framework.models.base import MultimodalModel
from msd_framework.objectives.base import Objective
from msd_framework.registry import CALLBACKS, OBJECTIVES, SCHEDULERS
from msd_framework.schedules import HeldOut

DRY_RUN_EXAMPLES = 4  # training examples that show an objective the shapes of what goes on inside the models
MOST_VALIDATIONS = 10**6  # the most validations of a run, which are all planned before it begins


@dataclass(frozen=True)
class Batches:
    """What a run learns from."""

    training: TrainingBatches  # this process's parts of each update's batch
    held_out: TrainingBatches | None  # what the objective learns from beside them, in an order of its own
    num_examples: int  # of an epoch
    num_updates: int  # of the run


def build_objective(data: Data, model: MultimodalModel, teachers: Teachers, maskers: Maskers) -> Objective:
    """What is minimised; it holds the maskers, so that what they learned is saved with it.

    Its own weights, such as those of adaptors between features, are drawn right after the model's.
    """
    context = {"model": model, "teacher": teachers.of("train"), "masker": maskers.student}
    objective = OBJECTIVES.build(data.config.objective, "objective", data.known, **context)
    objective.masker, objective.teacher_masker = maskers.student, maskers.own_of_teachers
    objective.evaluation_masker = nn.ModuleDict(maskers.own_of_evaluation)
    objective = objective.to(data.world.device)
    if objective.needs_dry_run:
        _dry_run(objective, data, teachers)
    return objective


def _dry_run(objective: Objective, data: Data, teachers: Teachers) -> None:
    """A pass over the first training examples; a cached teacher makes it itself."""
    reader = data.training_reader.with_teacher(data.teacher_overrides)
    collator = Collator(data.processors, data.info, teacher_overrides=reader.teacher_overrides)
    batch = next(iter(EvaluationBatches(reader, collator, DRY_RUN_EXAMPLES)))
    live = teachers.trained[0].live() if any(teachers.kept) else None
    with problems_of("objective.features"):
        objective.dry_run(batch.to(data.world.device), live, len(reader.dataset))


def fit_objective(data: Data, objective: Objective, examples: OnDevice | None = None) -> None:
    """Takes what an objective needs of the training split before the first update: statistics, and class counts of its losses.

    Statistics are those of the examples given, or of the whole split.
    """
    if objective.needs_fit:
        objective.fit(data.all_training_examples() if examples is None else examples)
    losses = [m for m in objective.modules() if isinstance(m, WeighedTaskLoss) and m.needs_counts]
    if losses:
        counts = class_counts(data)
        for loss in losses:
            loss.balance(*counts)


def updates_of(training: TrainingConfig, num_examples: int) -> int:
    """The updates of a run on so many examples."""
    if training.max_updates is not None:
        return training.max_updates
    assert training.max_epochs is not None
    return math.ceil(training.max_epochs * num_examples / training.batch_size)


def build_batches(data: Data, held_out: HeldOut | None) -> Batches:
    """The batches of a run, in the order of its updates, and those that the objective learns from beside them."""
    config, training, place = data.config, data.config.training, (data.world.rank, data.world.size)
    num_examples, trained_on, held = len(data.training_reader.dataset), None, None
    if held_out is not None:
        trained_on, held = hold_out(num_examples, held_out.share, config.seed)
        if not len(trained_on) or not len(held):
            left = f"{len(trained_on)} and {len(held)} of them"
            raise DataError(f"holding {held_out.share} of {num_examples} training examples out leaves {left}.")
        num_examples = len(trained_on)
    num_updates = updates_of(training, num_examples)
    pools = _length_pools(data, trained_on)
    plan = TrainingPlan(num_examples, training.batch_size, num_updates, training.accumulate, *place, config.seed, pools)
    batches = _training_batches(data, plan, trained_on, data.partners(data.training_reader))
    if held_out is None or held is None:
        return Batches(batches, None, num_examples, num_updates)
    looks, seed = -(-num_updates // held_out.every), stream_seed(config.seed, HELD_OUT)
    plan = TrainingPlan(len(held), held_out.batch_size, looks, 1, *place, seed)
    return Batches(batches, _training_batches(data, plan, held), num_examples, num_updates)


def _training_batches(
    data: Data, plan: TrainingPlan, among: Indices | None, partners: PartnerReader | None = None
) -> TrainingBatches:
    config = data.config
    may_lack_labels = config.data.unlabelled or config.data.labelled_share < 1
    reader, pin = data.training_reader, data.world.device.type == "cuda"
    collator = Collator(data.processors, data.info, may_lack_labels, reader.teacher_overrides)
    return TrainingBatches(reader, collator, plan, config.data.workers, pin, among, partners)


def _length_pools(data: Data, among: Indices | None) -> LengthPools | None:
    """The lengths of the training examples, measured by all processes together, where batches are to be pooled by them."""
    if data.config.data.length_pool == 0:
        return None
    shares = data.world.gather(measure_lengths(data.training_reader, data.world.rank, data.world.size))
    lengths = np.empty(sum(map(len, shares)), np.int32)
    for rank, share in enumerate(shares):
        lengths[rank :: len(shares)] = share
    return LengthPools(lengths if among is None else lengths[among], data.config.data.length_pool)


def build_plan(data: Data, batches: Batches, metrics: Mapping[str, Metric]) -> Plan:
    """How long a run is and what happens when."""
    config = data.config
    training, evaluation, checkpoint = config.training, config.evaluation, config.checkpoint
    last = batches.num_updates
    every = evaluation.every_updates or batches.num_examples / training.batch_size
    if last / every > MOST_VALIDATIONS:
        text = f"a validation every {every:,.4g} of {last:,} updates is more than {MOST_VALIDATIONS:,} of them."
        raise ConfigError(Problem("evaluation.every_updates", f"{text} Make fewer."))
    validations = {min(math.ceil(i * every), last) for i in range(1, math.floor(last / every) + 1)} | {last}
    saves = set(range(checkpoint.every_updates, last, checkpoint.every_updates)) if checkpoint.every_updates else validations
    monitor = evaluation.monitor or next(iter(metrics))
    return Plan(
        num_updates=last,
        accumulate=training.accumulate,
        clip_norm=training.clip_norm,
        precision=training.precision,
        log_every=training.log_every,
        validate_at=frozenset(validations),
        save_at=frozenset(saves | {last}),
        monitor=monitor,
        larger_is_better=metrics[monitor.rpartition("/")[2]].larger_is_better,
        measured=_measured(data, monitor),
        examples=data.training_reader.dataset.fingerprint,
    )


def _measured(data: Data, monitor: str) -> dict[str, Any]:
    """What the monitored metric's value depends on beside the model."""
    specs = {plain(spec)["type"]: plain(spec) for spec in data.config.evaluation.metrics}
    examples = data.splits["validation"].fingerprint if "validation" in data.splits else None
    measured = {"metric": specs[monitor.rpartition("/")[2]], "examples": examples, "at_most": limit(data.config, "validation")}
    # as a checkpoint gives it back, to compare with
    return dict(json.loads(json.dumps(measured)))


def build_callbacks(data: Data) -> list[Callback]:
    """What always watches, and what the configuration adds."""
    config = data.config
    folder = Path(config.env.save_dir)
    always: list[Callback] = [ProgressBar(config.name), JsonLines(str(folder / "metrics.jsonl"))]
    if tensorboard_is_installed():
        always.append(TensorBoard(str(folder / "tensorboard")))
    return always + [CALLBACKS.build(c, f"callbacks[{i}]", data.known) for i, c in enumerate(config.callbacks)]


def build_runner(
    data: Data,
    recipe: OptimizerRecipe,
    objective: Objective,
    batches: Batches,
    metrics: Mapping[str, Metric],
    validate: Callable[[Runner], dict[str, float]],
) -> Runner:
    """The runner, before its first update; `validate` makes a validation for a runner, where a split is for it."""
    schedule = SCHEDULERS.build(data.config.scheduler, "scheduler", data.known)
    with problems_of("optimizer"):
        optimizer: object = recipe.build(objective)
        if not isinstance(optimizer, Optimizer):
            raise ValueError(f"build of {type(recipe).__name__} returns a {type(optimizer).__name__}, no optimizer of torch.")
    with problems_of("scheduler"):
        scheduler = schedule.build(optimizer, batches.num_updates)
    runner = Runner(
        objective=objective,
        batches=batches.training,
        optimizer=optimizer,
        scheduler=scheduler,
        plan=build_plan(data, batches, metrics),
        world=data.world,
        validate=(lambda: validate(runner)) if "validation" in data.splits else None,
        checkpoints=CheckpointFolder(Path(data.config.env.save_dir) / "checkpoints", data.config.checkpoint.keep),
        card=card_of_student(data, objective.model),
        callbacks=build_callbacks(data),
        held_out=batches.held_out,
    )
    return runner
