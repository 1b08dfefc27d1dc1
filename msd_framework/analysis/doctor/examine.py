"""Builds what a run would build, measures it on one batch, and lists what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from msd_framework.analysis.apart import apart, begun_anew
from msd_framework.analysis.doctor import features, inputs, models, score, step, terms
from msd_framework.analysis.doctor.finding import Finding
from msd_framework.analysis.doctor.report import Diagnosis, findings
from msd_framework.build.data import Data, OnDevice, build_data
from msd_framework.build.extreme_rows import evenly
from msd_framework.build.facts import RunFacts
from msd_framework.build.models import Maskers, build_maskers, build_metrics, build_model, build_recipe
from msd_framework.build.splits import Splits, check_splits, content, open_splits
from msd_framework.build.teacher_cache import CachedSplit
from msd_framework.build.teachers import Teachers, build_teachers, cached_split, dry_run, trained_teachers
from msd_framework.build.training import Batches, build_batches, build_objective, fit_objective
from msd_framework.build.try_out import try_models
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

UPDATES = 10  # on one batch, which are to show whether the learning rate moves anything
VERIFIED = 16  # rows of each store of cached outputs that are compared with those of the teacher now


def examine(source: Source, training_rows: int, validation_rows: int) -> tuple[Diagnosis, list[Finding]]:
    """Measures a run's parts, and finds what is wrong with them.

    At most so many training rows give maskers and weightings their statistics, and validation rows score the teacher.
    """
    started = time.perf_counter()
    diagnosis = Diagnosis(str(source.values.get("name", "run")), "nothing")
    errors: list[Finding] = []
    with begun_anew(source) as source:
        try:
            config = checked(source)
        except ConfigError as error:
            return diagnosis, [Finding(problem.path, problem.message) for problem in error.problems]
        with apart(config, source) as (config, world):
            diagnosis.device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu"
            _examine(config, world, training_rows, validation_rows, Errors(errors, source), diagnosis)
    diagnosis.seconds = time.perf_counter() - started
    return diagnosis, list(dict.fromkeys([*errors, *findings(diagnosis)]))


@dataclass(frozen=True)
class Errors:
    """What a run would stop at, and where its values were written."""

    found: list[Finding]
    source: Source

    @contextmanager
    def caught(self, where: str) -> Iterator[None]:
        """Takes an error that is raised inside; `where` is the part that is at fault if the error does not say."""
        try:
            yield
        except ConfigError as error:
            for problem in error.problems:
                placed = located(problem, self.source)
                self.found.append(Finding(placed.path, placed.message))
        except DataError as error:
            self.found.append(Finding("data", str(error)))
        except (CheckpointError, TrainingError) as error:
            self.found.append(Finding(where, str(error)))


def _examine(
    config: RunConfig, world: World, training_rows: int, validation_rows: int, errors: Errors, diagnosis: Diagnosis
) -> None:
    """Fills in what can be measured; what cannot be built is an error."""
    teacher = config.teacher
    # the teacher's weights are asked, and not its cache; and one batch needs no workers
    live = teacher and replace(teacher, cache=False)
    config = replace(config, teacher=live, data=replace(config.data, workers=0, length_pool=0))
    facts = RunFacts(config)
    splits: Splits = {}
    with errors.caught("data"):
        splits = open_splits(facts, world)
        check_splits(facts, splits)
    if not splits:
        return
    with errors.caught("teacher.checkpoint"):
        data, rows = build_data(facts, world, splits), splits["train"]
        diagnosis.task, diagnosis.classes = data.info.task, _classes(data)
        recipe, maskers = build_recipe(data), build_maskers(data)
        model = build_model(data, recipe)
        teachers = build_teachers(data, maskers, model)
        objective, batches = None, None
        with errors.caught("objective"):
            built = build_objective(data, model, teachers, maskers)
            examples = OnDevice(data, data.reader(Subset(rows, evenly(len(rows), training_rows))))
            maskers.fit(examples)
            fit_objective(data, built, examples)
            objective = built
            batches = build_batches(data, objective.held_out)
        if objective is not None:
            trial = dry_run(data, finite=False)
            try_models(trial, model, maskers, teachers, objective, build_metrics(data))
            trial.step(objective)
        batch = _batch(data, batches)
        diagnosis.rows, diagnosis.targets = len(batch), tuple(batch.targets.shape)
        diagnosis.shapes = tuple(inputs.measure(batch))
        if objective is not None:
            objective.train()  # as a run does, which must leave the teachers as they are
        diagnosis.models = tuple(_models(data, maskers, model, teachers, batch))
        cannot_score = {m.who for m in diagnosis.models if m.not_finite or not m.answers}
        for one, name in zip(teachers.trained, _by_name(teachers)):
            if name not in cannot_score:
                with errors.caught(name):
                    check = score.measure(name, data, one, maskers, build_metrics(data), validation_rows)
                    diagnosis.scores = (*diagnosis.scores, check)
        if objective is not None and batches is not None:
            objective.begin_update(Progress(0, batches.num_updates))
            _measure_step(diagnosis, data, teachers.of("train"), objective, recipe, batch)
        if teacher is not None and teacher.cache:
            with_cache = replace(data, facts=RunFacts(replace(config, teacher=teacher)))
            diagnosis.cache = tuple(_stores(with_cache, maskers, errors))


def _measure_step(
    diagnosis: Diagnosis, data: Data, teacher: Teacher | None, objective: Objective, recipe: OptimizerRecipe, batch: Batch
) -> None:
    precision = PRECISIONS.get(data.config.training.precision, FP32)
    views = objective.teacher_views
    ask = (lambda: teacher.predict(batch, views)) if teacher is not None and views else None
    objective.train()
    cost = step.measure(objective, batch, ask, precision, data.world.device)
    diagnosis.terms = tuple(terms.measure(objective, batch))
    step.forget(objective)
    diagnosis.pairs = tuple(_pairs(teacher, objective, batch))
    optimizer = recipe.build(objective)
    losses = step.losses_of_updates(objective, batch, optimizer, UPDATES)  # changes the student, so nothing may follow
    diagnosis.step = replace(cost, lr=optimizer.param_groups[0]["lr"], losses=losses)


def _by_name(teachers: Teachers) -> dict[str, LiveTeacher]:
    if teachers.average is not None:
        return {"teacher (average of the student)": teachers.average.live}
    if len(teachers.trained) == 1:
        return {"teacher": teachers.trained[0].live()}
    return {f"teacher {i}": one.live() for i, one in enumerate(teachers.trained, 1)}


def _classes(data: Data) -> str:
    """How classes are matched; other names, and the same in another order, are refused before."""
    info, folders = data.info, data.config.teacher_folders
    unnamed = [folder for folder in folders if not card_of(folder, data.config)["facts"].get("class_names")]
    if info.class_names and not unnamed:
        return f"{info.num_classes}, " + ("of the same names in the same order for all" if folders else "all named")
    if not folders:
        return f"{info.num_classes}, without names"
    without = ", ".join(unnamed) if info.class_names else "the data set"
    return f"{info.num_classes}, by number alone, as {without} names none"


def _batch(data: Data, batches: Batches | None) -> Batch:
    """The first batch of the run, or the first rows where there is no objective to train."""
    if batches is not None:
        return next(parts_of_update(batches.training.starting_at(0), 1, data.world))
    rows = data.splits["train"]
    first = Subset(rows, range(min(len(rows), data.config.training.batch_size)))
    return next(iter(score.batches_of(data, first))).to(data.world.device)


def _models(data: Data, maskers: Maskers, model: MultimodalModel, teachers: Teachers, batch: Batch) -> Iterator[models.ModelCheck]:
    """The student in eval mode, and the teachers as they are."""
    maskers.eval()
    model.eval()
    masker, outcomes = maskers.student, data.info.outcomes
    yield models.measure("student", model, lambda b, view: model(masker.view(b, view).inputs).logits, masker, batch, outcomes)
    for k, (name, teacher) in enumerate(_by_name(teachers).items()):
        has_weights = bool(teachers.trained)  # those of an average are the student's still
        own = teachers.trained[k].outcomes if has_weights else outcomes
        ask, side = partial(_logits, teacher), batch.for_teacher(k)
        yield models.measure(name, teacher.model, ask, maskers.teachers[k], side, own, has_weights)


def _logits(teacher: LiveTeacher, batch: Batch, view: str) -> Tensor:
    return teacher.predict(batch, [view]).logits[0]


def _pairs(teacher: Teacher | None, objective: Objective, batch: Batch) -> list[features.PairCheck]:
    """The features that are compared, or could be, of a student and its one teacher."""
    if isinstance(teacher, MarginalsTeacher):  # a wrapper
        teacher = teacher.teacher
    if not isinstance(teacher, (LiveTeacher, EmaTeacher)) or not isinstance(objective, DistillationObjective):
        return []
    model, pairs = objective.model, list[tuple[str, str, Adaptor | None]]()
    for pair in objective.features.pairs:
        if isinstance(pair, Pair):
            pairs.append((pair.student, pair.teacher, pair.adaptor))
    if not pairs:
        possible = features.possible_pairs(model.feature_kinds, teacher.feature_kinds, model.modalities)
        pairs = [(s, t, None) for s, t in possible]
    if not pairs:
        return []
    students, teachers, _ = zip(*pairs)
    with torch.no_grad():
        (mine,) = model.eval().forward_features([batch.inputs], [set(students)])[1]
        (theirs,) = teacher.predict_features(batch, [FULL], [set(teachers)])[1]
    return features.measure(pairs, model.feature_kinds, mine, theirs, otherwise_cut(batch))


def _stores(data: Data, maskers: Maskers, errors: Errors) -> Iterator[str]:
    """A sentence for each store of a teacher's outputs, some rows of which are compared; nothing is filled."""
    teachers = trained_teachers(data, maskers)
    for use in data.splits:
        whole = content(data.facts, data.splits, use)
        for one in teachers:
            if one.views[use]:
                try:
                    yield _store(cached_split(one, use, data, maskers, whole))
                except CacheError as error:
                    errors.found.append(Finding("teacher.cache", str(error)))


def _store(split: CachedSplit) -> str:
    path = split.find_complete()
    if path is None and not split.may_fill:
        raise split.missing_error()
    if path is None:
        size = shown_bytes(len(split.dataset) * split.key.layout.row_bytes)
        return f"cache: {split.description} is not all there; a run asks for {len(split.dataset):,} examples, {size}"
    compared = split.verify(TeacherStore(path), VERIFIED)
    count, share = sum(c.stored.shape[1] for c in compared), max((c.share for c in compared), default=0.0)
    return f"cache: {split.description} is in {path}; {count} rows compared, {100 * share:.0f} % of what rounding allows"
