"""Builds what a run would build, looks at it on one batch, and says what to mend."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from msd_framework.analysis.apart import apart, begun_anew
from msd_framework.analysis.doctor import features, inputs, models, score, step, terms
from msd_framework.analysis.doctor.features import PairCheck
from msd_framework.analysis.doctor.finding import Finding
from msd_framework.analysis.doctor.models import Ask, ModelCheck
from msd_framework.analysis.doctor.report import Diagnosis, findings
from msd_framework.analysis.doctor.score import batches_of
from msd_framework.build.data import Data, Splits, build_data, check_splits, content, open_splits
from msd_framework.build.extreme_rows import evenly
from msd_framework.build.facts import RunFacts
from msd_framework.build.models import Maskers, build_maskers, build_metrics, build_model, build_recipe
from msd_framework.build.run import try_models
from msd_framework.build.teacher_cache import CachedSplit
from msd_framework.build.teachers import Teachers, build_teachers, cached_split, dry_run, trained_teachers
from msd_framework.build.training import Batches, build_batches, build_objective
from msd_framework.checks.run import checked
from msd_framework.config.cards import card_of
from msd_framework.config.load import Source, located
from msd_framework.config.schema import RunConfig
from msd_framework.data.batches.subset import Subset
from msd_framework.engine.distributed import World
from msd_framework.engine.labels import parts_of_update
from msd_framework.engine.optim import OptimizerRecipe
from msd_framework.engine.precision import FP32, PRECISIONS
from msd_framework.errors import CacheError, CheckpointError, ConfigError, DataError, TrainingError
from msd_framework.losses.adaptors import Adaptor
from msd_framework.models.base import MultimodalModel
from msd_framework.objectives.base import Objective
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.objectives.features import Pair, otherwise_cut
from msd_framework.schedules import Progress
from msd_framework.screen import shown_bytes
from msd_framework.structures import Batch
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.ema import EmaTeacher
from msd_framework.teachers.live import LiveTeacher
from msd_framework.teachers.marginals import MarginalsTeacher
from msd_framework.teachers.store import TeacherStore
from msd_framework.views import FULL

UPDATES = 10
"""Updates on one batch that are to show whether the learning rate moves anything."""

VERIFIED = 16
"""Rows of each store of cached answers that are compared with what the teacher says now."""


def examine(source: Source, training_rows: int, validation_rows: int) -> tuple[Diagnosis, list[Finding]]:
    """What is found of a run, and what is wrong with it.

    Args:
        source: the run's values.
        training_rows: rows of the training split that maskers and weightings learn their statistics from at most.
        validation_rows: rows of the validation split that the teacher is scored on at most.
    """
    started = time.perf_counter()
    told: list[Finding] = []
    found = Diagnosis(str(source.values.get("name", "run")), "nothing")
    with begun_anew(source) as source:
        try:
            config = checked(source)
        except ConfigError as error:
            return found, [Finding(p.path, p.message) for p in error.problems]
        with apart(config, source) as (config, world):
            place = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu"
            found = _examined(config, world, training_rows, validation_rows, source, replace(found, device=place), told)
    told += findings(found)
    return replace(found, seconds=time.perf_counter() - started), list(dict.fromkeys(told))


@dataclass(frozen=True)
class Examined:
    """The parts of a run that are looked at.

    Args:
        data: what it reads.
        maskers: how views hide a modality.
        model: the student.
        teachers: who teaches, all with their weights.
        by_name: those weights, by what the doctor calls a teacher.
    """

    data: Data
    maskers: Maskers
    model: MultimodalModel
    teachers: Teachers
    by_name: Mapping[str, LiveTeacher]


def _examined(
    config: RunConfig,
    world: World,
    training_rows: int,
    validation_rows: int,
    source: Source,
    found: Diagnosis,
    told: list[Finding],
) -> Diagnosis:
    """What could be measured; what could not be built is told."""
    teacher = config.teacher
    live = teacher and replace(teacher, cache=False)  # its weights are asked, and not what is kept of them
    config = replace(config, teacher=live, data=replace(config.data, workers=0, length_pool=0))
    splits: Splits = {}
    with _telling(told, source, "data"):
        splits = open_splits(config, world)
        check_splits(config, splits)
    if not splits:
        return found
    with _telling(told, source, "teacher.checkpoint"):
        data = build_data(config, world, splits)
        found = replace(found, task=data.info.task, classes=_classes(data))
        recipe, maskers = build_recipe(data), build_maskers(data)
        model = build_model(data, recipe)
        teachers = build_teachers(data, maskers, model)
        parts = Examined(data, maskers, model, teachers, _by_name(teachers))
        objective, batches = None, None
        with _telling(told, source, "objective"):
            objective = _objective(parts, training_rows)
            batches = build_batches(data, objective.held_out)
        if objective is not None:
            trial = dry_run(data, finite=False)
            try_models(trial, model, maskers, teachers, objective, build_metrics(data))
            trial.step(objective)
        batch = _batch(parts, batches)
        found = replace(found, rows=len(batch), targets=tuple(batch.targets.shape), shapes=tuple(inputs.measure(batch)))
        if objective is not None:
            objective.train()  # as a run does, which must leave the teachers as they are
        found = replace(found, models=tuple(_models(parts, batch)))
        for one, who in zip(teachers.trained, parts.by_name):
            if not any(m.not_finite or not m.answers for m in found.models if m.who == who):
                with _telling(told, source, who):
                    scored = score.measure(who, data, one, build_metrics(data), validation_rows)
                    found = replace(found, scores=(*found.scores, scored))
        if objective is not None and batches is not None:
            found = _of_training(found, parts, objective, recipe, batches, batch)
        if teacher is not None and teacher.cache:
            found = replace(
                found, cache=tuple(_cached(replace(data, before=RunFacts(replace(config, teacher=teacher))), maskers, told))
            )
    return found


def _of_training(
    found: Diagnosis, parts: Examined, objective: Objective, recipe: OptimizerRecipe, batches: Batches, batch: Batch
) -> Diagnosis:
    """A step, its terms and what it compares inside the models."""
    device, teacher = parts.data.world.device, parts.teachers.of("train")
    precision = PRECISIONS.get(parts.data.config.training.precision, FP32)
    views = objective.teacher_views
    ask = (lambda: teacher.predict(batch, views)) if teacher is not None and views else None
    objective.train()
    objective.begin_update(Progress(0, batches.num_updates))
    cost = step.measure(objective, batch, ask, precision, device)
    pulls = terms.measure(terms.terms_of(objective, batch), objective.model)
    step.forget(objective)
    pairs = _pairs(teacher, objective, batch)
    optimizer = recipe.build(objective)
    losses = step.losses_of_updates(objective, batch, optimizer, UPDATES)  # the last thing that is done with the student
    cost = replace(cost, lr=optimizer.param_groups[0]["lr"], losses=losses)
    return replace(found, step=cost, terms=tuple(pulls), pairs=tuple(pairs))


def _by_name(teachers: Teachers) -> dict[str, LiveTeacher]:
    """Each teacher by what it is called."""
    if teachers.average is not None:
        return {"teacher (average of the student)": teachers.average.live}
    several = len(teachers.trained) > 1
    return {f"teacher {i}" if several else "teacher": one.live() for i, one in enumerate(teachers.trained, 1)}


def _classes(data: Data) -> str:
    """How classes are matched. Other names, and the same ones in another order, are refused before anything is built."""
    info, folders = data.info, data.config.teacher_folders
    unnamed = [folder for folder in folders if not card_of(folder, data.config)["facts"].get("class_names")]
    if not info.class_names or unnamed:
        who = "the data set" if not info.class_names else ", ".join(unnamed)
        return f"{info.num_classes}, by number alone, as {who} names none" if folders else f"{info.num_classes}, without names"
    return f"{info.num_classes}, " + ("of the same names in the same order for all" if folders else "all named")


def _objective(parts: Examined, training_rows: int) -> Objective:
    """The objective, with the statistics of some rows."""
    data = parts.data
    objective = build_objective(data, parts.model, parts.teachers, parts.maskers)
    rows = data.splits["train"]
    examples = data.on_device(data.reader(Subset(rows, evenly(len(rows), training_rows))))
    parts.maskers.fit(examples)
    if objective.needs_fit:
        objective.fit(examples)
    return objective


def _batch(parts: Examined, batches: Batches | None) -> Batch:
    """The first batch of the run, or the first rows where there is no objective to train."""
    data = parts.data
    if batches is not None:
        return next(parts_of_update(batches.training.starting_at(0), 1, data.world))
    rows = data.splits["train"]
    some = Subset(rows, range(min(len(rows), data.config.training.batch_size)))
    return next(iter(batches_of(data, some))).to(data.world.device)


def _models(parts: Examined, batch: Batch) -> Iterator[ModelCheck]:
    """The student in eval mode, and the teachers as they are."""
    parts.maskers.eval()
    masker, model, outcomes = parts.maskers.student, parts.model.eval(), parts.data.info.outcomes
    yield models.measure("student", model, lambda b, view: model(masker.view(b, view).inputs).logits, masker, batch, outcomes)
    for k, (who, teacher) in enumerate(parts.by_name.items()):
        is_apart = bool(parts.teachers.trained)  # an average is the student still
        own = parts.teachers.trained[k].outcomes if is_apart else outcomes
        yield models.measure(who, teacher.model, _ask(teacher), parts.maskers.teacher, batch.teacher_side, own, is_apart)


def _ask(teacher: LiveTeacher) -> Ask:
    return lambda batch, view: teacher.predict(batch, [view]).logits[0]


def _pairs(teacher: Teacher | None, objective: Objective, batch: Batch) -> list[PairCheck]:
    """The intermediates that are compared, or could be, of a student and its one teacher."""
    if isinstance(teacher, MarginalsTeacher):  # which looks inside another one
        teacher = teacher.teacher
    if not isinstance(teacher, (LiveTeacher, EmaTeacher)) or not isinstance(objective, DistillationObjective):
        return []
    model, pairs = objective.model, list[tuple[str, str, Adaptor | None]]()
    pairs += [(p.student, p.teacher, p.adaptor) for p in objective.features.pairs if isinstance(p, Pair)]
    pairs = pairs or [
        (s, t, None) for s, t in features.possible_pairs(model.feature_kinds, teacher.feature_kinds, model.modalities)
    ]
    with torch.no_grad():
        (mine,) = model.eval().forward_features([batch.inputs], [{s for s, _, _ in pairs}])[1]
        (theirs,) = teacher.predict_features(batch, [FULL], [{t for _, t, _ in pairs}])[1]
    return features.measure(pairs, model.feature_kinds, mine, theirs, otherwise_cut(batch))


def _cached(data: Data, maskers: Maskers, told: list[Finding]) -> Iterator[str]:
    """What is kept of the teachers' answers, compared with what they say now; nothing is filled."""
    teachers = trained_teachers(data, maskers)
    for use in data.splits:
        whole = content(data.config, data.splits, use)
        for one in teachers:
            if not one.views[use]:
                continue
            try:
                yield _store(cached_split(one, use, data, maskers, whole), told)
            except CacheError as error:
                told.append(Finding("teacher.cache", str(error)))


def _store(split: CachedSplit, told: list[Finding]) -> str:
    path = split.complete()
    if path is None and not split.may_fill:
        raise split.missing()
    if path is None:
        size = shown_bytes(len(split.dataset) * split.asked.layout.row_bytes)
        return f"cache: {split.told} is not all there; a run asks for {len(split.dataset):,} examples, {size}"
    compared = split.verify(TeacherStore(path), VERIFIED)
    count, share = sum(c.stored.shape[1] for c in compared), max((c.share for c in compared), default=0.0)
    return f"cache: {split.told} is in {path}; {count} rows compared, {100 * share:.0f} % of what rounding allows"


@contextmanager
def _telling(told: list[Finding], source: Source, where: str) -> Iterator[None]:
    """Tells what a run would stop at, with its place in the YAML."""
    try:
        yield
    except ConfigError as error:
        told += [Finding(one.path, one.message) for one in (located(p, source) for p in error.problems)]
    except (CheckpointError, DataError, TrainingError) as error:
        told.append(Finding("data" if isinstance(error, DataError) else where, str(error)))
