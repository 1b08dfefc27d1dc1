"""What is wrong with a run's teachers, with what the model starts from, and with a cache of the teachers' outputs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from glob import has_magic
from pathlib import Path
from typing import Any

from msd_framework.build.facts import RunFacts
from msd_framework.checks.components import under
from msd_framework.checks.folders import other_processors, unwritable
from msd_framework.components.specs import Spec
from msd_framework.config.cards import other_tensors, read_as
from msd_framework.config.schema import TeacherConfig
from msd_framework.errors import CheckpointError, ConfigError, Problem, did_you_mean
from msd_framework.models.base import MultimodalModel
from msd_framework.models.pretrained.inherit import Inheritance
from msd_framework.registry import MASKERS, MODELS, PROCESSORS, WEIGHTINGS
from msd_framework.structures import DatasetInfo
from msd_framework.teachers.ema import decay_of
from msd_framework.teachers.ensemble import names_by_teacher, union, views_of_teachers
from msd_framework.teachers.masked import read_saliency
from msd_framework.teachers.store import SUMMARY
from msd_framework.views import recombines, shows, visible_modalities

OFF = "or set teacher.cache=false"
INSTEAD_OF_COPY = "or take objective.type=distillation"
# what does not go with an average of the student
AGAINST_EMA = {
    "checkpoint": "is another teacher than the average of the student. Give either it or teacher.ema.",
    "processors": "are those of a trained teacher, and the average sees what the student does. Leave them out.",
    "combine": "is for several teachers, and the average of the student is one. Leave it out.",
    "channels": "are those of a trained teacher, and the student is not trained yet. Leave them out.",
    "cache": "keeps what a teacher says for good, and an average of the student says something else after each update. "
    "Set teacher.cache=false.",
}


def options(run: RunFacts) -> Iterator[Problem]:
    """Options of a teacher that do not go together, whatever the teacher is."""
    teacher = run.config.teacher
    if teacher is None:
        return
    if teacher.ema is not None:
        yield from _of_average(run, teacher, teacher.ema)
        return
    folders, at = teacher.folders, "teacher.checkpoint"
    if not folders:
        text = "The folder of a finished run, or of one of its checkpoints; or a list of them; or teacher.ema in its place."
        yield Problem(at, f"must be given: {text}")
    lost = [path for path in folders if has_magic(path) and not os.path.exists(path)]
    if lost and not run.config.is_evaluated:
        for path in lost:
            yield Problem(at, f"no folder matches {path!r}.")
        return
    for folder in sorted({f for f in folders if folders.count(f) > 1}):
        yield Problem(at, f"{folder} is listed twice. To let a teacher count more, take teacher.combine=weighted.")
    if len(folders) == 1 and teacher.combine is not None:
        yield Problem("teacher.combine", f"is for several teachers, and there is one, {folders[0]}. Leave it out.")
    if len(folders) > 1 and teacher.channels is not None:
        yield Problem("teacher.channels", f"are those of one teacher, and there are {len(folders)}. Leave them out.")


def _of_average(run: RunFacts, teacher: TeacherConfig, ema: float | dict[str, float | str]) -> Iterator[Problem]:
    try:
        decay_of(ema)
    except ValueError as error:
        yield Problem("teacher.ema", str(error))
        return
    for key, text in AGAINST_EMA.items():
        if getattr(teacher, key):
            yield Problem(f"teacher.{key}", text)
    for spec in run.of(WEIGHTINGS):
        if spec.cls.needs_fit:
            text = f"{spec.name} asks the teacher before the first update, when the average of the student knows nothing yet."
            yield Problem(spec.path, f"{text} Take instance.")


def channels(run: RunFacts) -> Iterator[Problem]:
    """Channels of a teacher that cannot be chosen, in runs that train."""
    wanted, at = run.config.teacher.channels if run.config.teacher else None, "teacher.channels"
    if wanted is None or run.config.is_evaluated:
        return
    if not 0 < wanted.share <= 1:
        yield Problem(f"{at}.share", f"must be above 0 and at most 1, got {wanted.share}.")
    elif wanted.by != "random" and wanted.saliency is None:
        text = f"must be given for {wanted.by} channels: a folder that the experiment `channel_saliency` wrote to."
        yield Problem(f"{at}.saliency", text)
    elif wanted.by != "random" and wanted.saliency is not None:
        read_saliency(wanted.saliency, wanted.layer)


def agreement(run: RunFacts) -> Iterator[Problem]:
    """Teachers that the objective has no use for, or lacks; that are of other data; or that cannot answer together."""
    teacher, objective = run.config.teacher, run.objective
    if teacher is None and objective.cls.needs_teacher:
        yield Problem("teacher", f"must be given: the objective {objective.name} learns from one.")
    if teacher is not None and not objective.cls.needs_teacher:
        text = f"the objective {objective.name} has no use for one. Leave it out, or take objective.type=distillation."
        yield Problem("teacher", text)
    if teacher is None or not run.config.has_teacher or not objective.cls.needs_teacher:
        return
    is_copied = objective.cls.copies_teacher and not run.config.is_evaluated
    problems = list(_copied(run, teacher)) if is_copied else []
    for folder in run.config.teacher_folders:
        try:
            problems += _trained_otherwise(run, folder)
            problems += _read_otherwise(run, folder) if is_copied else []
        except (CheckpointError, ConfigError) as error:
            problems.append(Problem("teacher.checkpoint", str(error)))
    problems = problems or [*_processors(run, teacher), *_other_tensors(run)]
    yield from dict.fromkeys(problems)
    if len(run.teachers) > 1 and not problems:
        yield from _combination(run)


def _copied(run: RunFacts, teacher: TeacherConfig) -> Iterator[Problem]:
    """Why an objective cannot train a copy of the teacher."""
    text, folders, instead = f"{run.objective.name} trains a copy of one finished run", teacher.folders, INSTEAD_OF_COPY
    if teacher.ema is not None:
        yield Problem("teacher.ema", f"{text}, and the average of the student is none. Name a teacher.checkpoint, {instead}.")
    if len(folders) > 1:
        yield Problem("teacher.checkpoint", f"{text}, and there are {len(folders)}. Name one of them, {instead}.")
    if teacher.cache:
        why = "of which a teacher cache keeps what it said before"
        yield Problem("teacher.cache", f"{text}, {why}. Set teacher.cache=false, {instead}.")


def _read_otherwise(run: RunFacts, folder: str) -> Iterator[Problem]:
    """Why a teacher whose logits are read in another way than the student's cannot be copied."""
    theirs, ours = read_as(run.card(folder)), run.info.outcomes
    if theirs != ours:
        text = (
            f"{run.objective.name} compares logits of both models, and the teacher's are read by {theirs}, the student's by {ours}."
        )
        yield Problem("teacher.checkpoint", f"{text} Take another one, {INSTEAD_OF_COPY}.")


def _trained_otherwise(run: RunFacts, folder: str) -> Iterator[Problem]:
    """What a teacher was trained on that this run's data is not."""
    at, card = "teacher.checkpoint", run.card(folder)
    Spec(at, MODELS, card["model"]).cls  # noqa: B018 -- refused if nobody knows it
    for m in card["modalities"]:
        if m not in run.info.modalities:
            known = ", ".join(run.info.modalities)
            yield Problem(at, f"the teacher takes {m!r}, which {run.dataset.name} does not have; it has {known}.")
    if text := _other_classes("the teacher", card["facts"], run.info):
        yield Problem(at, f"{text} Take a teacher of this data set.")


def _processors(run: RunFacts, teacher: TeacherConfig) -> Iterator[Problem]:
    """Processors named for teachers that none takes, or with random transforms; and those of the data that nothing would use."""
    taken = union([one.modalities for one in run.teachers])
    for m, value in teacher.processors.items():
        at = f"teacher.processors.{m}"
        if m not in taken:
            yield Problem(at, f"no teacher takes {m!r}.{did_you_mean(m, taken)} They take {', '.join(taken)}.")
        elif PROCESSORS.build(value, at).random:
            text = "has random transforms, and what a teacher sees by itself is made without. Take them out."
            yield Problem(at, text)
    for m, spec in run.processors.items():
        of_teachers = [own[m] for own in run.teacher_processors if m in own]
        if not of_teachers or spec in of_teachers or m in run.student.modalities or m in teacher.processors:
            continue
        other = other_tensors(spec.value, of_teachers[0].value)
        text = f"the student does not take {m!r}, and the teacher was trained on other tensors: {other}."
        yield Problem(spec.path, f"{text} Leave it out, for the teacher's checkpoint says how {m} becomes tensors.")


def _other_tensors(run: RunFacts) -> Iterator[Problem]:
    """Teachers that were trained on other tensors than they would see."""
    folders = run.config.teacher_folders
    for folder, own in zip(folders, run.teacher_processors):
        for m, spec in own.items():
            other = other_tensors(spec.value, run.card(folder)["processors"][m]["spec"])
            if other:
                who = "the teacher" if len(folders) == 1 else folder
                yield Problem(spec.path, f"{who} was trained on other tensors: {other}. Write its own options, or none.")


def _other_classes(model: str, facts: Mapping[str, Any], info: DatasetInfo) -> str:
    """In what the classes of a saved model are others than a data set's; empty if in nothing that is known."""
    if facts["num_classes"] != info.num_classes:
        return f"{model} tells {facts['num_classes']} classes apart and the data set has {info.num_classes}."
    if info.class_names and facts["class_names"] and list(facts["class_names"]) != list(info.class_names):
        return f"{model}'s classes are {', '.join(facts['class_names'])} and the data set's {', '.join(info.class_names)}."
    return ""


def _combination(run: RunFacts) -> Iterator[Problem]:
    """What several teachers cannot answer together."""
    at, modalities = "teacher.combine", [one.modalities for one in run.teachers]
    wrong = run.combination.problems(modalities)
    yield from (under(at, text) for text in wrong)
    if wrong or run.config.is_evaluated:
        return
    assert run.teacher is not None
    views, lost = [], []
    for written in run.objective.options.get("views", []):
        view = written if isinstance(written, str) else written.get("teacher")
        if view is not None and shows(view, run.teacher.modalities):
            views.append(view)
            if not names_by_teacher(view, modalities, run.combination):
                lost.append(Problem(at, f"no teacher answers for the view {view!r}. Name one for it, or one for full."))
    yield from lost
    if lost or not views:
        return
    for folder, own in zip(run.config.teacher_folders, views_of_teachers(views, modalities, run.combination)):
        if not own:
            text = f"{folder} is asked about none of the objective's views. Leave it out, or name another view for it."
            yield Problem(at, text)


def cache(run: RunFacts) -> Iterator[Problem]:
    """Why a teacher's predictions cannot be kept; its modalities are known only where it is there."""
    teacher = run.config.teacher
    if teacher is None or run.teacher is None:
        return
    if not teacher.cache:
        if teacher.cache_features:
            text = "are kept in a teacher cache only. Set teacher.cache=true, or leave cache_features out."
            yield Problem("teacher.cache_features", text)
        return
    folder, at, only_reads = Path(teacher.cache_dir), "teacher.cache_dir", teacher.cache == "read"
    if only_reads and not folder.exists():
        yield Problem(at, f"there is no folder {folder} to read a cache from. Set teacher.cache=true.")
    elif folder.exists() and not folder.is_dir():
        yield Problem(at, unwritable(folder))
    elif not only_reads and (text := unwritable(folder)):
        yield Problem(at, f"{text} Name another one, or set teacher.cache=read.")
    at = "teacher.cache_features"
    for i, name in enumerate(teacher.cache_features):
        if name != SUMMARY:
            yield Problem(f"{at}[{i}]", f"no feature {name!r} can be kept, only {SUMMARY!r}.{did_you_mean(name, [SUMMARY])}")
    for path in run.config.teacher_folders if set(teacher.cache_features) == {SUMMARY} else ():
        model = Spec(at, MODELS, run.card(path)["model"])
        if model.cls.summarise_views is MultimodalModel.summarise_views:
            yield Problem(at, f"the teacher is a {model.name}, which does not tell its {SUMMARY}. Leave cache_features out.")
    if not run.config.is_evaluated:
        yield from _changing(run, teacher)


def _changing(run: RunFacts, teacher: TeacherConfig) -> Iterator[Problem]:
    """What lets a teacher see something else each time it is asked about an example."""
    views = run.stand_in_objective.teacher_views
    if not views:
        text = f"the objective {run.objective.name} does not say which views it asks about (its teacher_views)."
        yield Problem("teacher.cache", f"{text} Tell it, {OFF}.")
    for m, spec in run.processors.items():
        # tensors of its own are made without random transforms
        if run.unfitted_processors[m].random and any(own.get(m) == spec for own in run.teacher_processors):
            text = f"has random transforms, so the teacher sees another {m} in each epoch and its answers cannot be kept."
            yield Problem(f"data.processors.{m}", f"{text} Take them out, {OFF}.")
    if run.config.data.partners is None and any(map(recombines, views)):
        text = f"null takes other rows in each epoch, so answers to {next(filter(recombines, views))!r} cannot be kept."
        yield Problem("data.partners", f"{text} Give a number, {OFF}.")
    assert run.teacher is not None
    known = run.teacher.modalities
    for use, shown in (("train", views), ("test", run.config.evaluation.views)):
        at, value = run.masker_of(use, 0)
        if run.build(Spec(at, MASKERS, value)).random and any(_hides(view, known) for view in shown):
            text = "draws what it shows, or takes it from the rest of the batch, so what the teacher says of a view cannot be kept."
            key = "evaluation.masker" if at == "evaluation.masker" else "teacher.masker"
            hint = f"Take another one for the teacher, such as {key}=drop, {OFF}."
            yield Problem(at, f"{Spec(at, MASKERS, value).name} {text} {hint}")
            return


def _hides(view: str, modalities: Sequence[str]) -> bool:
    return shows(view, modalities) and len(visible_modalities(view, modalities)) < len(modalities)


def saved_classes(run: RunFacts) -> Iterator[Problem]:
    """Classes of the model that is evaluated, or started from, that are the data set's in another order, or others."""
    config, folder = run.config, run.config.evaluated
    if not config.is_evaluated:
        if config.init is None or config.init_folder is None:
            return
        folder = config.init_folder
    try:
        facts = run.card(folder)["facts"]
    except CheckpointError:  # said elsewhere
        return
    text = _other_classes("the trained model", facts, run.info)
    if text and config.is_evaluated:
        fix = "Its classes must be named as it was trained, in the same order: give data.dataset those options."
        yield Problem("data.dataset", f"{text} {fix}")
    elif text and sorted(facts["class_names"] or ()) == sorted(run.info.class_names):
        # a model of another task may start this one: all of it but the last layer is wanted
        yield Problem("init", f"{text} Name them in the same order.")


def initial_weights(run: RunFacts) -> Iterator[Problem]:
    """Why a model cannot start from what it should, found on models without weights."""
    config, at = run.config, "init.checkpoint"
    if config.init is None or config.is_evaluated or config.goes_on:
        return
    path = config.init_folder
    if path is None:
        num = len(config.teacher_folders)
        why = f"there are {num} teachers" if num else "there is no trained teacher"
        yield Problem(at, f"must be given, since {why}: the folder of a finished run.")
        return
    text = "what the model starts from was trained on other tensors: {}. Write its options here."
    problems: list[Problem] = []
    try:
        problems += other_processors(run, path, run.card(path)["modalities"], text)
        # sizes that do not fit; those of a model that reads files are known only in the run
        model = run.empty_model_on(run.card(path)["facts"])
        if not problems and model is not None:
            start = Inheritance(model, run.saved_model(path), config.init.layers, config.init.cut, config.init.only)
            for wrong in start.problems:
                key, _, rest = wrong.partition(": ") if wrong.startswith(("layers: ", "only[")) else ("", "", wrong)
                problems.append(Problem(f"init.{key}" if key else "init", rest))
    except CheckpointError as error:
        problems = [Problem(at, str(error))]
    yield from problems
