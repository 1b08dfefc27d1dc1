"""What an objective does not go with: the models' features, the maskers, the optimizer, and what its parts need."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy

from torch import nn

from msd_framework.build.facts import RunFacts
from msd_framework.checks.components import sentence, under
from msd_framework.components.specs import Spec
from msd_framework.engine.parts_of_model import ModelParts
from msd_framework.engine.update_map import factor_of
from msd_framework.errors import CheckpointError, ConfigError, Problem
from msd_framework.launch import launched
from msd_framework.models.layers.distinct import mixes_examples
from msd_framework.models.single_sequence import SingleSequence
from msd_framework.objectives.traced import MIXED
from msd_framework.registry import FEATURE_TERMS, MASKERS, MODELS, MODULATIONS, WEIGHTINGS
from msd_framework.teachers.store import SUMMARY
from msd_framework.views import FULL, visible_modalities

OTHERS = "Take drop, keep, loss, gap or shapley, which look at its answers"


def options(run: RunFacts) -> Iterator[Problem]:
    """What the objective itself has against its options."""
    for text in run.objective.cls.check(run.objective.options, run.setting):
        yield under("objective", text)


def saliencies(run: RunFacts) -> Iterator[Problem]:
    """What its constructor refuses, and saliency scores that need views which the teacher does not have."""
    run.stand_in_objective  # noqa: B018 -- built to see whether it can be
    modalities = run.setting.teacher_modalities or tuple(run.info.modalities)
    for spec in run.of(WEIGHTINGS):
        saliency = run.build(spec).saliency
        try:
            for view in saliency.views(modalities) if saliency else ():
                visible_modalities(view, modalities)
        except ValueError as error:
            yield Problem(spec.path, sentence(error))


def looks_inside(run: RunFacts, saliency: Spec) -> Iterator[Problem]:
    """Why a saliency that looks at the teacher itself cannot look at a run's teacher."""
    at, name, teacher = saliency.path, saliency.name, run.config.teacher
    if not saliency.cls.needs_model or teacher is None or not run.config.has_teacher:
        return
    folders = run.config.teacher_folders
    if len(folders) > 1:
        yield Problem(at, f"{name} looks inside one teacher, and there are {len(folders)}. {OTHERS}.")
        return
    if teacher.cache:
        text = f"{name} looks at the teacher itself, of which a teacher cache keeps nothing."
        yield Problem(at, f"{text} {OTHERS}, or set teacher.cache=false.")
        return
    try:
        model = Spec(at, MODELS, run.card(folders[0])["model"])
    except CheckpointError:  # checks/teacher.py says what is wrong with it
        return
    if not issubclass(model.cls, SingleSequence):
        text = f"{name} looks inside one transformer for all modalities, and the teacher is a {model.name}. {OTHERS}."
        yield Problem(at, text)


def features(run: RunFacts) -> Iterator[Problem]:
    """Names of intermediates that are not there, not kept, or not compared; a model whose sizes are in files is asked later."""
    terms, teacher = run.of(FEATURE_TERMS), run.config.teacher
    if not terms or teacher is None or not run.config.has_teacher:
        return
    if len(run.config.teacher_folders) > 1:
        text = "several teachers answer as one and have no intermediates in common. Name one teacher.checkpoint, or leave it out."
        yield Problem(terms[0].path, text)
        return
    if run.empty_model is None:
        return
    feature_kinds = run.empty_model.feature_kinds
    theirs = feature_kinds if teacher.ema is not None else run.saved_model(run.config.teacher_folders[0]).feature_kinds
    for term in terms:
        try:
            pairs = run.build(term).pairs(feature_kinds, theirs)
        except ConfigError as error:
            yield from error.problems
            continue
        except ValueError as error:
            yield under(term.path, str(error))
            continue
        lost = [name for _, name in pairs if teacher.cache and name not in teacher.cache_features]
        if lost:
            kept = f"set teacher.cache_features=[{SUMMARY}]" if lost == [SUMMARY] else f"compare {SUMMARY}, which it can keep"
            text = f"a teacher cache does not keep {lost[0]!r}. Set teacher.cache=false, or {kept}."
            yield Problem(f"{term.path}.{'teacher' if 'teacher' in term.options else 'student'}", text)


def modulation(run: RunFacts) -> Iterator[Problem]:
    """Models whose modalities cannot be balanced."""
    for spec in run.of(MODULATIONS):
        for text in spec.cls.check(spec.options, run.setting, run.model.cls):
            yield Problem(spec.path, text)


def maskers(run: RunFacts) -> Iterator[Problem]:
    """Maskers that cannot hide what a view hides, leave out what a model needs, or would measure views with more than they show."""
    of_teacher = ("masker", run.masker) if run.teacher_masker is None else ("teacher.masker", run.teacher_masker)
    teachers = [(*of_teacher, "teacher", run.teacher, setting) for setting in run.teacher_settings]
    sides = [("masker", run.masker, "model", run.student, run.setting), *teachers]
    given, at = run.config.evaluation.masker, "evaluation.masker"
    if given is not None:
        evaluated = MASKERS.build(given, at, run.assumed)
        sides += [(at, evaluated, side, model, setting) for _, _, side, model, setting in sides]
    specs = {spec.path: spec for spec in run.of(MASKERS)}  # one that holds others answers for all of them
    problems = []
    for path, _, _, _, setting in sides:
        problems += [under(path, text) for text in specs[path].cls.check(specs[path].options, setting)]
    yield from dict.fromkeys(problems)  # once, where one masker hides from both sides
    if problems:
        return
    hiding = [view for view in run.objective.options.get("views", []) if view not in (FULL, {"teacher": FULL, "student": FULL})]
    in_evaluation = any(view != FULL for view in run.config.evaluation.views)
    # what a model without drop is trained with measures it too, unless another one is named
    in_training = bool(hiding or run.of(WEIGHTINGS)) or (in_evaluation and given is None)
    for path, masker, side, model, setting in sides:
        if not (in_evaluation if path == at else in_training):
            continue
        leaves_out = any(masker.leaves_out(m, kind) for m, kind in setting.kinds.items())
        if model is not None and not model.subsets and leaves_out:
            text = f"leaves modalities out, and the {side} needs all of them. Take {path}=attention, or constant."
            yield Problem(path, text)
    measuring = {run.masker_of("test", number)[0] for number in (None, *range(len(run.teachers)))}
    measures = {path: masker for path, masker, _, _, _ in sides if path in measuring and masker.leaves_some}
    for path, masker in measures.items() if in_evaluation else ():
        hidden = ", ".join(view for view in run.config.evaluation.views if view != FULL)
        text = f"{type(masker).__name__} shows a part of what a view hides, and evaluation.views are measured with it: {hidden}."
        yield Problem(path, f"{text} Set evaluation.masker to another one, such as attention.")


def held_out(run: RunFacts) -> Iterator[Problem]:
    """What stands in the way of weights that are learned from held-out training examples."""
    objective, processes = run.stand_in_objective, launched().size
    if objective.held_out is None:
        return
    at = next((spec.path for spec in run.of(WEIGHTINGS)), "objective")
    if objective.held_out.batch_size % processes:
        text = f"must be a multiple of the {processes} processes, got {objective.held_out.batch_size}."
        yield Problem(f"{at}.held_out_batch_size", text)
    if run.config.training.precision == "fp16":
        text = "learned weights go back through a step's gradients, which fp16 scales and may throw away."
        yield Problem("training.precision", f"{text} Take bf16, medium or fp32.")
    if objective.modulation is not None:
        text = "learned weights do not know what it does to the gradients. Leave one of the two out."
        yield Problem("objective.modulation", text)
    try:
        recipe = copy(run.optimizer)
        recipe.parts = ModelParts()  # the stand-in has none
        factor_of(recipe.build(nn.Linear(1, 1)))
    except ValueError as error:
        yield Problem("optimizer", str(error))
    if run.empty_model is not None and mixes_examples(run.empty_model):
        yield Problem("model", MIXED)


def optimizer(run: RunFacts) -> Iterator[Problem]:
    """Parts of the model that the optimizer names and the model does not have."""
    parts, model = run.optimizer.parts, run.empty_model
    if parts == ModelParts() or model is None:
        return
    objective = run.stand_in_objective
    if objective.needs_dry_run:  # some of its parameters depend on what goes on inside the models
        groups = {name: given for name, given in parts.groups.items() if name.partition(".")[0] != "features"}
        parts = ModelParts(groups, parts.frozen, parts.layer_decay)
    try:
        parts.freeze(model)
        objective.model = model
        parts.options_of(objective)
    except ValueError as error:
        yield Problem("optimizer", str(error))
