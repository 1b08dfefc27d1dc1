"""What a run's data does not go with: its splits, modalities, views, labels, losses and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msd_framework.build.facts import RunFacts
from msd_framework.checks.components import sentence
from msd_framework.components.options import options_of
from msd_framework.errors import Problem, did_you_mean
from msd_framework.metrics.fidelity import FIDELITY
from msd_framework.registry import CALLBACKS, DISTILLATION_LOSSES, METRICS, SALIENCIES, TASK_LOSSES, WEIGHTINGS
from msd_framework.views import FULL, refuse_other_rows, visible_modalities


def splits(run: RunFacts) -> Iterator[Problem]:
    """Splits that do not exist, files of the data set that are missing, and a limit that it would not keep to."""
    dataset, options = run.dataset.cls, run.dataset.options
    names, problems = dict[str, str](), []
    for use in run.config.uses:
        names[use] = getattr(run.config.data, use)
        problems += [Problem(f"data.{use}", text) for text in dataset.check(options, names[use])]
    default = options_of(dataset).get("root")
    root = options.get("root", default.default) if default is not None else None
    if problems and isinstance(root, str) and not Path(root).exists():  # one problem, not one a split
        yield Problem("data.dataset.root", problems[0].message)
    else:
        yield from problems
        for use, text in dataset.check_together(options, names).items():
            yield Problem(f"data.{use}", text)
    for key in ("max_train_examples", "max_eval_examples"):
        if getattr(run.config.data, key) is not None and "max_examples" not in options_of(run.dataset.cls):
            text = f"{run.dataset.name} cannot read a part of a split: its __init__ takes no max_examples."
            yield Problem(f"data.{key}", f"{text} Let it take one, or leave this out.")


def modalities(run: RunFacts) -> Iterator[Problem]:
    """Modalities that the model takes and nobody gives, or that a processor makes of nothing."""
    there, given, dataset = run.info.modalities, run.config.data.processors, run.dataset.name
    for m in run.student.modalities:
        if m not in there:
            has = f"it has {', '.join(there)}.{did_you_mean(m, there)}"
            yield Problem("model", f"{run.model.name} takes {m!r}, which {dataset} does not have; {has}")
        elif m not in given:
            text = f"nothing says how {m!r} becomes tensors, which the model takes. Add data.processors.{m}."
            yield Problem("data.processors", text)
    for m in given:
        if m not in there:
            text = f"{dataset} has no such modality.{did_you_mean(m, there)} It has {', '.join(there)}."
            yield Problem(f"data.processors.{m}", text)


def processors(run: RunFacts) -> Iterator[Problem]:
    """What processors need on disk, of the modalities that a model takes."""
    taken = {*run.student.modalities, *(run.teacher.modalities if run.teacher else ())}
    specs = [spec for m, spec in run.processors.items() if m in taken]
    given = run.config.teacher.processors if run.config.teacher is not None else {}
    for own in run.teacher_processors:
        for m, spec in own.items():
            # a tokenizer lies beside its teacher's weights, wherever it once came from
            if spec not in specs and (m in given or spec.cls.kind != "tokens"):
                specs.append(spec)
    for spec in specs:
        for text in spec.cls.check(spec.options):
            yield Problem(spec.path, text)


def views_and_tasks(run: RunFacts) -> Iterator[Problem]:
    """Views that the model does not have; losses and metrics for other targets than the data set's, or as many classes."""
    for i, view in enumerate(run.config.evaluation.views):
        try:
            visible_modalities(view, run.student.modalities)
            refuse_other_rows(view)
        except ValueError as error:
            yield Problem(f"evaluation.views[{i}]", sentence(error))
    if not run.config.evaluation.views:
        yield Problem("evaluation.views", f"wanted at least one view, got none; [{FULL}] is the usual one.")
    task, is_softmax = run.info.task, run.info.outcomes == "softmax"
    for spec in run.specs:
        fitting, another = getattr(spec.cls, "tasks", (task,)), f"Take another {spec.registry.kind}."
        # a loss for labels that are questions of their own, and for nothing else
        reads_a_sigmoid = "multi_label" in fitting and "single_label" not in fitting
        if task not in fitting:
            wanted = " or ".join(sorted(fitting))
            yield Problem(spec.path, f"{spec.name} is for {wanted} targets, and the data set's are {task}. {another}")
        elif is_softmax and reads_a_sigmoid and spec.registry in (DISTILLATION_LOSSES, TASK_LOSSES):
            text = f"{spec.name} reads each class by a sigmoid, and objective.task_loss trains a softmax."
            yield Problem(spec.path, f"{text} {another}")
        if spec.registry in (METRICS, DISTILLATION_LOSSES):
            for text in spec.cls.check(run.info):
                yield Problem(spec.path, sentence(text))


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
    for spec in run.of(SALIENCIES, WEIGHTINGS):
        component = run.build(spec) if spec.registry is SALIENCIES else spec.cls
        if component.needs_labels:
            text = f"{spec.name} looks at the labels of training examples, of which some have none ({key}). Take drop or keep."
            yield Problem(spec.path, text)


def metrics(run: RunFacts) -> Iterator[Problem]:
    """A metric to watch, or one that is expected, that nobody computes."""
    config, names = run.config, [spec.name for spec in run.of(METRICS)]
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
    for spec in run.of(CALLBACKS):
        if config.data.validation is None and spec.cls.needs_validation:
            yield Problem(spec.path, "stops by what a validation finds. Name a split in data.validation, or leave it out.")
    # what compares student and teacher is reported as well
    in_views = _in_views(run, [*names, *(FIDELITY if config.teacher else ())])
    reported = [f"{split}/{name}" for split in ("validation", "test") for name in in_views]
    for key in config.expected:
        if key not in reported:
            text = f"no such metric is reported.{did_you_mean(key, reported)} Reported: {', '.join(reported)}."
            yield Problem(f"expected.{key}", text)


def _in_views(run: RunFacts, names: list[str]) -> list[str]:
    """What metrics are called in reports, view by view."""
    found = []
    for view in run.config.evaluation.views:
        found += names if view == FULL else [f"{view}/{name}" for name in names]
    return found
