"""What a run's data does not go with: its splits, modalities, views, labels, losses and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msd_framework.build.facts import RunFacts
from msd_framework.checks.components import sentence
from msd_framework.components.options import options_of
from msd_framework.errors import Problem, did_you_mean
from msd_framework.metrics.fidelity import FIDELITY
from msd_framework.registry import CALLBACKS, DISTILLATION_LOSSES, METRICS, SALIENCIES, TASK_LOSSES, WEIGHTINGS
from msd_framework.views import FULL, visible_modalities

REPORTED = ("validation", "test")
"""The splits that metrics are computed for."""


def splits(run: RunFacts) -> Iterator[Problem]:
    """Splits that do not exist and files of the data set that are missing."""
    data, dataset, options = run.config.data, run.dataset.cls, run.dataset.options
    problems = [Problem(f"data.{use}", text) for use in run.config.uses for text in dataset.check(options, getattr(data, use))]
    default = options_of(dataset).get("root")
    root = options.get("root", default.default) if default is not None else None
    if problems and isinstance(root, str) and not Path(root).exists():  # one problem, not one a split
        yield Problem("data.dataset.root", problems[0].message)
        return
    yield from problems
    together = dataset.check_together(options, {use: getattr(data, use) for use in run.config.uses})
    yield from (Problem(f"data.{use}", text) for use, text in together.items())


def limits(run: RunFacts) -> Iterator[Problem]:
    """A limit of examples that the data set would not keep to."""
    name = run.dataset.name
    for key in ("max_train_examples", "max_eval_examples"):
        if getattr(run.config.data, key) is not None and "max_examples" not in options_of(run.dataset.cls):
            text = f"{name} cannot read a part of a split: its __init__ takes no max_examples. Let it take one, or leave this out."
            yield Problem(f"data.{key}", text)


def modalities(run: RunFacts) -> Iterator[Problem]:
    """Modalities that the model takes and nobody gives, or that a processor makes of nothing."""
    there, given = run.info.modalities, run.config.data.processors
    known, dataset = ", ".join(there), run.dataset.name
    for m in run.student.modalities:
        if m not in there:
            text = f"{run.model.name} takes {m!r}, which {dataset} does not have; it has {known}.{did_you_mean(m, there)}"
            yield Problem("model", text)
    for m in given:
        if m not in there:
            text = f"{dataset} has no such modality.{did_you_mean(m, there)} It has {known}."
            yield Problem(f"data.processors.{m}", text)
    for m in run.student.modalities:
        if m in there and m not in given:
            text = f"nothing says how {m!r} becomes tensors, which the model takes. Add data.processors.{m}."
            yield Problem("data.processors", text)


def processors(run: RunFacts) -> Iterator[Problem]:
    """What processors need on disk, of the modalities that somebody takes."""
    taken = {*run.student.modalities, *(run.teacher.modalities if run.teacher else ())}
    asked = [part for modality, part in run.processors.items() if modality in taken]
    given = run.config.teacher.processors if run.config.teacher is not None else {}
    for m, part in run.teacher_processors.items():
        # a tokenizer lies beside its teacher's weights, wherever it once came from
        if part not in asked and (m in given or part.cls.kind != "tokens"):
            asked.append(part)
    for part in asked:
        yield from (Problem(part.path, text) for text in part.cls.check(part.options))


def views(run: RunFacts) -> Iterator[Problem]:
    """Views of the evaluation that the model does not have."""
    for i, view in enumerate(run.config.evaluation.views):
        try:
            visible_modalities(view, run.student.modalities)
        except ValueError as error:
            yield Problem(f"evaluation.views[{i}]", sentence(error))
    if not run.config.evaluation.views:
        yield Problem("evaluation.views", f"wanted at least one view, got none; [{FULL}] is the usual one.")


def tasks(run: RunFacts) -> Iterator[Problem]:
    """Losses and metrics that are for other targets than the data set's, or for another number of classes."""
    task = run.info.task
    for part in run.parts:
        fitting = getattr(part.cls, "tasks", (task,))
        if task not in fitting:
            text = f"{part.name} is for {' or '.join(sorted(fitting))} targets, and the data set's are {task}."
            yield Problem(part.path, f"{text} Take another {part.registry.kind}.")
    if run.info.outcomes == "softmax":
        for part in run.of(DISTILLATION_LOSSES, TASK_LOSSES):
            if task in part.cls.tasks and _reads_a_sigmoid(part.cls):
                text = f"{part.name} reads each class by a sigmoid, and objective.task_loss trains a softmax."
                yield Problem(part.path, f"{text} Take another {part.registry.kind}.")
    for part in run.of(METRICS, DISTILLATION_LOSSES):
        yield from (Problem(part.path, sentence(text)) for text in part.cls.check(run.info))


def _reads_a_sigmoid(loss: type[Any]) -> bool:
    """Whether a loss is for labels that are questions of their own, and for nothing else."""
    return "multi_label" in loss.tasks and "single_label" not in loss.tasks


def labels(run: RunFacts) -> Iterator[Problem]:
    """Parts of an objective that look at labels of training examples, where some have none."""
    data, objective = run.config.data, run.objective
    if not data.unlabelled and data.labelled_share == 1:
        return
    key = "data.unlabelled" if data.unlabelled else "data.labelled_share"
    if not objective.cls.takes_unlabelled:
        yield Problem(key, f"the objective {objective.name} needs the label of each training example. Leave {key} out.")
        return
    if data.labelled_share == 0 and not objective.cls.needs_teacher:
        text = f"leaves no label, and the objective {objective.name} learns from nothing else. Give a share above 0."
        yield Problem(key, text)
        return
    looking = [part for part in run.of(SALIENCIES) if run.build(part).asks_labels]
    looking += [part for part in run.of(WEIGHTINGS) if part.cls.asks_labels]
    for part in looking:
        text = f"{part.name} looks at the labels of training examples, of which some have none ({key}). Take drop or keep."
        yield Problem(part.path, text)


def metrics(run: RunFacts) -> Iterator[Problem]:
    """A metric to watch, or one that is expected, that nobody computes."""
    config, names = run.config, [part.name for part in run.of(METRICS)]
    if not names:
        yield Problem("evaluation.metrics", "wanted at least one metric, got none.")
        return
    if len(set(names)) < len(names):
        yield Problem("evaluation.metrics", f"a metric is listed twice: {', '.join(names)}.")
        return
    monitor, known = config.evaluation.monitor, _in_views(run, names)
    if monitor is not None and monitor not in known:
        text = f"{monitor!r} is none of the metrics {', '.join(known)}.{did_you_mean(monitor, known)}"
        yield Problem("evaluation.monitor", text)
    if monitor is not None and config.data.validation is None:
        yield Problem("evaluation.monitor", "needs a validation split. Name one in data.validation.")
    if monitor is None and FULL not in config.evaluation.views:
        text = f"must be given where evaluation.views lacks {FULL!r}: one of {', '.join(known)}."
        yield Problem("evaluation.monitor", text)
    for part in run.of(CALLBACKS):
        if config.data.validation is None and part.cls.needs_validation:
            yield Problem(part.path, "stops by what a validation finds. Name a split in data.validation, or leave it out.")
    compared = FIDELITY if config.teacher else ()  # what compares student and teacher is reported as well
    reported = [f"{use}/{m}" for use in REPORTED for m in _in_views(run, [*names, *compared])]
    for key in config.expected:
        if key not in reported:
            text = f"no such metric is reported.{did_you_mean(key, reported)} Reported: {', '.join(reported)}."
            yield Problem(f"expected.{key}", text)


def _in_views(run: RunFacts, names: list[str]) -> list[str]:
    """What metrics are called in reports, view by view."""
    return [name if view == FULL else f"{view}/{name}" for view in run.config.evaluation.views for name in names]
