"""What model, teacher, data, views, losses and metrics do not agree on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from msd_framework.components.registry import split
from msd_framework.config.cache_check import cache_problems
from msd_framework.config.cards import card_of
from msd_framework.config.components import STAND_INS, known_facts, modalities_of
from msd_framework.config.feature_check import feature_problems
from msd_framework.config.folders import described_run, other_tensors
from msd_framework.config.held_out_check import held_out_problems
from msd_framework.config.initial import init_problems
from msd_framework.config.label_check import label_problems
from msd_framework.config.models import model_problems
from msd_framework.config.optimizer_check import optimizer_problems
from msd_framework.config.parts import Part, parts
from msd_framework.config.published_check import published_problems
from msd_framework.config.schema import RunConfig
from msd_framework.config.structure import component_slots
from msd_framework.config.teachers import combination_problems
from msd_framework.config.tokenizer_check import tokenizer_problems
from msd_framework.errors import CheckpointError, ConfigError, Problem, did_you_mean
from msd_framework.maskers.base import Masker, Views
from msd_framework.metrics.fidelity import FIDELITY
from msd_framework.models.base import MultimodalModel
from msd_framework.objectives.base import Objective
from msd_framework.registry import (
    CALLBACKS,
    DATASETS,
    DISTILLATION_LOSSES,
    MASKERS,
    METRICS,
    MODELS,
    MODULATIONS,
    OBJECTIVES,
    PROCESSORS,
    REGISTRIES,
    TASK_LOSSES,
    WEIGHTINGS,
)
from msd_framework.structures import FULL, Batch, DatasetInfo, Inputs, ModelOutput, Setting, visible_modalities
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.ensemble import union

REPORTED = ("validation", "test")
"""The splits that metrics are computed for."""


def pairing_problems(config: RunConfig) -> list[Problem]:
    """What does not go together, though each part of it is right by itself."""
    info = described_run(config)
    name, options = split(config.model, "model", MODELS)
    model = MODELS.get(name)
    student = Taken(modalities_of(config.model), model.takes_subsets)
    problems = _modality_problems(config, info, student)
    if problems:
        return problems
    teacher, problems = _teacher(config, info, student)
    kinds = {m: PROCESSORS.get(split(s, "", PROCESSORS)[0]).kind for m, s in config.data.processors.items()}
    setting = Setting(info, student.modalities, teacher.modalities if teacher else None, kinds)
    problems += _missing_problems(config, {*student.modalities, *(teacher.modalities if teacher else ())})
    problems += [_under("model", text) for text in model.check(options, setting)] or model_problems(config, info)
    problems = problems or tokenizer_problems(config)
    problems += _evaluation_view_problems(config, student)
    problems += _task_problems(config, info)
    problems += _objective_problems(config, setting)
    problems = problems or published_problems(config) or feature_problems(config, info)
    problems += _modulation_problems(config, setting, model)
    problems += label_problems(config, STAND_INS | known_facts(info)) + _saved_class_problems(config, info)
    problems += _masker_problems(config, setting, student, teacher)
    if not problems:
        problems += _cache_problems(config, setting) + init_problems(config, info)
        problems += _held_out_problems(config, setting) + _optimizer_problems(config, setting)
    return problems


def _missing_problems(config: RunConfig, modalities: Collection[str]) -> list[Problem]:
    """What processors need on disk, of the modalities that somebody takes."""
    made = {m: split(s, "", PROCESSORS) for m, s in config.data.processors.items() if m in modalities}
    texts = {m: PROCESSORS.get(name).check(options) for m, (name, options) in made.items()}
    return [Problem(f"data.processors.{m}", text) for m, found in texts.items() for text in found]


def measure_problems(config: RunConfig) -> list[Problem]:
    """A metric to watch, or one that is expected, that nobody computes."""
    names = [split(m, "", METRICS)[0] for m in config.evaluation.metrics]
    if not names:
        return [Problem("evaluation.metrics", "wanted at least one metric, got none.")]
    if len(set(names)) < len(names):
        return [Problem("evaluation.metrics", f"a metric is listed twice: {', '.join(names)}.")]
    known = [m if v == FULL else f"{v}/{m}" for v in config.evaluation.views for m in names]
    monitor, problems = config.evaluation.monitor, []
    if monitor is not None and monitor not in known:
        hint = did_you_mean(monitor, known)
        problems.append(Problem("evaluation.monitor", f"{monitor!r} is none of the metrics {', '.join(known)}.{hint}"))
    if monitor is not None and config.data.validation is None:
        problems.append(Problem("evaluation.monitor", "needs a validation split. Name one in data.validation."))
    if config.data.validation is None:
        problems += [
            Problem(f"callbacks[{i}]", "stops by what a validation finds. Name a split in data.validation, or leave it out.")
            for i, spec in enumerate(config.callbacks)
            if CALLBACKS.get(split(spec, "", CALLBACKS)[0]).needs_validation
        ]
    if FULL not in config.evaluation.views and monitor is None:
        problems.append(
            Problem("evaluation.monitor", f"must be given where evaluation.views lacks {FULL!r}: one of {', '.join(known)}.")
        )
    compared = FIDELITY if config.teacher else ()  # what compares student and teacher is reported as well
    shown = [m if v == FULL else f"{v}/{m}" for v in config.evaluation.views for m in (*names, *compared)]
    reported = [f"{use}/{m}" for use in REPORTED for m in shown]
    problems += [
        Problem(f"expected.{key}", f"no such metric is reported.{did_you_mean(key, reported)} Reported: {', '.join(reported)}.")
        for key in config.expected
        if key not in reported
    ]
    return problems


@dataclass(frozen=True)
class Taken:
    """What is known of a model without building it.

    Args:
        modalities: what it takes.
        subsets: whether a modality may be left out of its inputs.
    """

    modalities: tuple[str, ...]
    subsets: bool


def _modality_problems(config: RunConfig, info: DatasetInfo, student: Taken) -> list[Problem]:
    """Modalities that the model takes and nobody gives, or that a processor makes of nothing."""
    name, dataset = split(config.model, "model", MODELS)[0], split(config.data.dataset, "data.dataset", DATASETS)[0]
    known, given = ", ".join(info.modalities), config.data.processors
    problems = [
        Problem("model", f"{name} takes {m!r}, which {dataset} does not have; it has {known}.{did_you_mean(m, info.modalities)}")
        for m in student.modalities
        if m not in info.modalities
    ]
    problems += [
        Problem(f"data.processors.{m}", f"{dataset} has no such modality.{did_you_mean(m, info.modalities)} It has {known}.")
        for m in given
        if m not in info.modalities
    ]
    problems += [
        Problem("data.processors", f"nothing says how {m!r} becomes tensors, which the model takes. Add data.processors.{m}.")
        for m in student.modalities
        if m in info.modalities and m not in given
    ]
    return problems


def _teacher(config: RunConfig, info: DatasetInfo, student: Taken) -> tuple[Taken | None, list[Problem]]:
    """What is known of the teacher, of several together, and what is wrong with them."""
    objective = split(config.objective, "objective", OBJECTIVES)[0]
    wanted, teacher = OBJECTIVES.get(objective).needs_teacher, config.teacher
    if teacher is None:
        return None, [Problem("teacher", f"must be given: the objective {objective} learns from one.")] if wanted else []
    if not wanted:
        text = f"the objective {objective} has no use for one. Leave it out, or take objective.type=distillation."
        return None, [Problem("teacher", text)]
    if teacher.ema is not None:
        return student, []
    folders = teacher.folders
    if not (folders and config.has_teacher):
        return None, []
    found = [_teacher_in(folder, config, info) for folder in folders]
    problems = [p for _, wrong in found for p in wrong]
    all_taken = [taken for taken, _ in found if taken is not None]
    if len(found) == 1 or len(all_taken) < len(found):
        return next(iter(all_taken), None), list(dict.fromkeys(problems))
    modalities, subsets = [taken.modalities for taken in all_taken], all(taken.subsets for taken in all_taken)
    together = Taken(union(modalities), subsets)
    if not problems:
        problems = combination_problems(teacher, modalities, [] if config.is_evaluated else _taught_views(config))
    return together, list(dict.fromkeys(problems))


def _taught_views(config: RunConfig) -> list[str]:
    """The teacher's side of the views that the objective lists, of those that are views."""
    written = split(config.objective, "objective", OBJECTIVES)[1].get("views", [])
    return [v if isinstance(v, str) else v["teacher"] for v in written if isinstance(v, str) or "teacher" in v]


def _teacher_in(folder: str, config: RunConfig, info: DatasetInfo) -> tuple[Taken | None, list[Problem]]:
    """What is known of the teacher in a folder, and what is wrong with it."""
    try:
        card = card_of(folder, config)
        return _teacher_of(card, config, info)
    except (CheckpointError, ConfigError) as error:
        return None, [Problem("teacher.checkpoint", str(error))]


def _teacher_of(card: Mapping[str, Any], config: RunConfig, info: DatasetInfo) -> tuple[Taken, list[Problem]]:
    at, facts = "teacher.checkpoint", card["facts"]
    taken = Taken(tuple(card["modalities"]), MODELS.get(split(card["model"], at, MODELS)[0], at).takes_subsets)
    problems = _teacher_input_problems(at, taken.modalities, config)
    if text := _other_classes("the teacher", facts, info):
        problems.append(Problem(at, f"{text} Take a teacher of this data set."))
    for m, spec in config.data.processors.items():
        if m in taken.modalities and (other := other_tensors(spec, card["processors"][m]["spec"])):
            text = f"the teacher was trained on other tensors: {other}. Both must see the same: write the teacher's options here."
            problems.append(Problem(f"data.processors.{m}", text))
    return taken, problems


def _other_classes(who: str, facts: Mapping[str, Any], info: DatasetInfo) -> str:
    """In what the classes that a saved model tells apart are others than a data set's; empty if in nothing that is known."""
    if facts["num_classes"] != info.num_classes:
        return f"{who} tells {facts['num_classes']} classes apart and the data set has {info.num_classes}."
    if info.class_names and facts["class_names"] and list(facts["class_names"]) != list(info.class_names):
        return f"{who}'s classes are {', '.join(facts['class_names'])} and the data set's {', '.join(info.class_names)}."
    return ""


def _saved_class_problems(config: RunConfig, info: DatasetInfo) -> list[Problem]:
    """Classes of the model that is evaluated, or started from, that are the data set's in another order, or others."""
    init = config.init_folder if config.init is not None and not config.is_evaluated else None
    folder = config.evaluated if config.is_evaluated else init
    if folder is None:
        return []
    try:
        facts = card_of(folder, config)["facts"]
    except CheckpointError:  # told elsewhere
        return []
    text = _other_classes("the trained model", facts, info)
    if config.is_evaluated:
        fix = "Its classes must be named as it was trained, in the same order: give data.dataset those options."
        return [Problem("data.dataset", f"{text} {fix}")] if text else []
    if sorted(facts["class_names"] or ()) != sorted(info.class_names):
        return []  # a model of another task, of which all but the last layer is wanted
    return [Problem("init", f"{text} Name them in the same order.")] if text else []


def _teacher_input_problems(at: str, modalities: Iterable[str], config: RunConfig) -> list[Problem]:
    return [
        Problem(at, f"the teacher takes {m!r}, and data.processors does not say how it becomes tensors. Add data.processors.{m}.")
        for m in modalities
        if m not in config.data.processors
    ]


def _evaluation_view_problems(config: RunConfig, student: Taken) -> list[Problem]:
    problems = []
    for i, view in enumerate(config.evaluation.views):
        try:
            visible_modalities(view, student.modalities)
        except ValueError as error:
            problems.append(Problem(f"evaluation.views[{i}]", _sentence(error)))
    if not config.evaluation.views:
        problems.append(Problem("evaluation.views", f"wanted at least one view, got none; [{FULL}] is the usual one."))
    return problems


def _task_problems(config: RunConfig, info: DatasetInfo) -> list[Problem]:
    """Losses and metrics that are for other targets than the data set's, or for another number of classes."""
    found = [p for slot in component_slots(asdict(config)) for p in parts(REGISTRIES[slot.kind], slot.spec, slot.path)]
    wrong = [(p, sorted(p.cls.tasks)) for p in found if info.task not in getattr(p.cls, "tasks", (info.task,))]
    problems = [
        Problem(
            p.path, f"{p.name} is for {' or '.join(t)} targets, and the data set's are {info.task}. Take another {p.registry.kind}."
        )
        for p, t in wrong
    ]
    if info.outcomes == "softmax":
        text = "{} reads each class by a sigmoid, and objective.task_loss trains a softmax. Take another {}."
        losses = [p for p in found if p.registry in (DISTILLATION_LOSSES, TASK_LOSSES) and info.task in p.cls.tasks]
        problems += [Problem(p.path, text.format(p.name, p.registry.kind)) for p in losses if _reads_a_sigmoid(p.cls)]
    checked = [p for p in found if p.registry in (METRICS, DISTILLATION_LOSSES)]
    return problems + [Problem(p.path, _sentence(text)) for p in checked for text in p.cls.check(info)]


def _reads_a_sigmoid(loss: type[Any]) -> bool:
    """Whether a loss is for labels that are questions of their own, and for nothing else."""
    return "multi_label" in loss.tasks and "single_label" not in loss.tasks


def _objective_problems(config: RunConfig, setting: Setting) -> list[Problem]:
    """What the objective itself says, of its options and in its constructor."""
    name, options = split(config.objective, "objective", OBJECTIVES)
    problems = [_under("objective", text) for text in OBJECTIVES.get(name).check(options, setting)]
    if problems:
        return problems
    modalities = setting.teacher_modalities or tuple(setting.data.modalities)
    try:
        objective_on_stand_ins(config, setting.data, setting.student_modalities, modalities)
    except ConfigError as error:
        return list(error.problems)
    return _saliency_problems(config, modalities, STAND_INS | known_facts(setting.data))


def objective_on_stand_ins(config: RunConfig, info: DatasetInfo, student: Sequence[str], teacher: Sequence[str]) -> Objective:
    """The objective with stand-ins for its models, to be asked what it wants of them.

    Args:
        config: what the run is.
        info: the data set's description.
        student: the modalities of the model that is trained.
        teacher: the modalities of the teacher.

    Raises:
        ConfigError: if its constructor refuses something.
    """
    facts, num_classes = STAND_INS | known_facts(info), info.num_classes
    context = {"model": _Student(tuple(student), num_classes), "teacher": _Teacher(tuple(teacher), num_classes)}
    masker = MASKERS.build(config.masker, "masker", facts)
    built = OBJECTIVES.build(config.objective, "objective", facts, masker=masker, **context)
    return built


def _saliency_problems(config: RunConfig, modalities: Sequence[str], facts: Mapping[str, Any]) -> list[Problem]:
    """Saliency scores that need views which the teacher does not have."""
    problems = []
    for part in _weightings(config):
        saliency = WEIGHTINGS.build(part.spec, part.path, facts).saliency
        try:
            for view in saliency.views(modalities) if saliency else ():
                visible_modalities(view, modalities)
        except ValueError as error:
            problems.append(Problem(part.path, _sentence(error)))
    return problems


def _modulation_problems(config: RunConfig, setting: Setting, model: type[MultimodalModel]) -> list[Problem]:
    """Models whose modalities cannot be balanced."""
    found = [p for p in parts(OBJECTIVES, config.objective, "objective") if p.registry is MODULATIONS]
    return [Problem(p.path, text) for p in found for text in p.cls.check(p.options, setting, model)]


def _masker_problems(config: RunConfig, setting: Setting, student: Taken, teacher: Taken | None) -> list[Problem]:
    """Maskers that cannot hide what a view hides, or leave out what a model needs."""
    facts = STAND_INS | known_facts(setting.data)
    problems = []
    own = config.teacher.masker if config.teacher else None
    for path, spec in {"masker": config.masker, "teacher.masker": own}.items():
        if spec is not None:
            name, options = split(spec, path, MASKERS)
            problems += [_under(path, text) for text in MASKERS.get(name).check(options, setting)]
    distilled = split(config.objective, "objective", OBJECTIVES)[1].get("views", [])
    hides = any(v not in (FULL, {"teacher": FULL, "student": FULL}) for v in [*config.evaluation.views, *distilled])
    if problems or not (hides or _weightings(config)):
        return problems
    shared: Masker = MASKERS.build(config.masker, "masker", facts)
    teachers = MASKERS.build(own, "teacher.masker", facts) if own is not None else shared
    shown = [("masker", shared, "model", student), ("teacher.masker" if own else "masker", teachers, "teacher", teacher)]
    return [
        Problem(path, f"leaves modalities out, and the {who} needs all of them. Take {path}=attention, or constant.")
        for path, masker, who, model in shown
        if model is not None and not model.subsets and any(masker.leaves_out(m, kind) for m, kind in setting.kinds.items())
    ]


def _cache_problems(config: RunConfig, setting: Setting) -> list[Problem]:
    """Why a teacher's answers cannot be kept; its modalities are known only where it is there."""
    if config.teacher is None or setting.teacher_modalities is None:
        return []
    modalities = setting.teacher_modalities
    views = objective_on_stand_ins(config, setting.data, setting.student_modalities, modalities).teacher_views
    return cache_problems(config, setting, views)


def _held_out_problems(config: RunConfig, setting: Setting) -> list[Problem]:
    modalities = setting.teacher_modalities or tuple(setting.data.modalities)
    objective = objective_on_stand_ins(config, setting.data, setting.student_modalities, modalities)
    return held_out_problems(config, setting.data, objective, STAND_INS | known_facts(setting.data))


def _optimizer_problems(config: RunConfig, setting: Setting) -> list[Problem]:
    modalities = setting.teacher_modalities or tuple(setting.data.modalities)
    objective = objective_on_stand_ins(config, setting.data, setting.student_modalities, modalities)
    return optimizer_problems(config, setting.data, objective, STAND_INS | known_facts(setting.data))


def _weightings(config: RunConfig) -> list[Part]:
    return [p for p in parts(OBJECTIVES, config.objective, "objective") if p.registry is WEIGHTINGS]


class _Student(MultimodalModel):
    """Stands in for a model where an objective's constructor asks no more than its modalities and classes."""

    def __init__(self, modalities: tuple[str, ...], num_classes: int):
        super().__init__()
        self.modalities, self.num_classes = modalities, num_classes

    @classmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        raise NotImplementedError

    def forward(self, inputs: Inputs) -> ModelOutput:
        raise NotImplementedError


class _Teacher(Teacher):
    """Stands in for a teacher in the same way."""

    def __init__(self, modalities: tuple[str, ...], num_classes: int):
        self.modalities, self.num_classes = modalities, num_classes

    def predict(self, batch: Batch, views: Sequence[str], shown: Views | None = None) -> ModelOutput:
        raise NotImplementedError


def _under(at: str, text: str) -> Problem:
    """A component's own sentence, which may begin with one of its keys."""
    key, colon, rest = text.partition(": ")
    return Problem(f"{at}.{key}", _sentence(rest)) if colon and " " not in key else Problem(at, _sentence(text))


def _sentence(text: object) -> str:
    return str(text) if str(text).endswith((".", "?")) else f"{text}."
