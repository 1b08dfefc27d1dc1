"""Everything that is wrong with a configuration, in the order in which it is looked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from msd_framework.build.facts import RunFacts
from msd_framework.checks import components, data, folders, numbers, objective, pretrained, resume, teacher
from msd_framework.checks.components import component_problems
from msd_framework.config.imports import import_problems
from msd_framework.config.load import Source, refuse, resolve
from msd_framework.config.schema import RunConfig
from msd_framework.config.structure import component_specs, hints_of, structure_problems, structured, without
from msd_framework.errors import ConfigError, Problem, nearest


def checked(source: Source) -> RunConfig:
    """The configuration, once nothing is wrong with it; else a `ConfigError` with every problem and its place."""
    source = resolve(source)
    config, problems = understood(source.values)
    if config is not None:
        problems += _problems_of_run(config, tuple(problems))
    refuse(problems, source)
    assert config is not None
    return config


def understood(values: Mapping[str, Any]) -> tuple[RunConfig | None, list[Problem]]:
    """A configuration less the keys that are wrong by themselves, None if it is nothing without them; and the problems."""
    problems = structure_problems(values, RunConfig)
    for problem in problems:
        values = without(values, problem.path)
    imports = import_problems(values.get("imports", ()), values.get("user_dir"))
    if imports:  # nobody knows which components have a name
        return None, problems + imports
    wrong = component_problems(component_specs(values))
    for problem in wrong:
        values = without(values, problem.path)
    config = None if structure_problems(values, RunConfig) else structured(values, RunConfig)
    return config, problems + wrong


def apply_rules(run: RunFacts, *rules: Callable[[RunFacts], Iterable[Problem]]) -> list[Problem]:
    """What some rules have against a run; each yields its problems, or raises them as a `ConfigError`."""
    problems: list[Problem] = []
    for rule in rules:
        try:
            problems.extend(rule(run))
        except ConfigError as error:
            problems += error.problems
    return problems


def _problems_of_run(config: RunConfig, earlier: Sequence[Problem]) -> list[Problem]:
    """What parts of a configuration get wrong together, as far as that does not follow from what is wrong already."""
    touched = set[str]()
    for problem in earlier:
        root = re.split(r"[.\[]", problem.path)[0]
        touched |= {root, nearest(root, hints_of(RunConfig))}
    run = RunFacts(config)
    apply = partial(apply_rules, run)
    problems = apply(*numbers.RULES, teacher.channels)
    if touched.isdisjoint(("env", "checkpoint", "model", "run_type")):
        problems += apply(folders.save_dir) or apply(folders.processors_from, folders.checkpoint, resume.resumption)
    if "data" not in touched:
        problems += apply(data.splits)
    alone = apply(teacher.options) if touched.isdisjoint(("teacher", "objective")) else []
    problems += alone
    if touched.isdisjoint(("data", "evaluation", "teacher", "expected", "callbacks")):
        problems += apply(data.metrics)
    # model, objective and masker must be those that were meant, with all that they need
    replaced = {"model", "objective", "masker"} & {p.path for p in earlier}
    is_complete = not replaced and not (earlier and component_problems(component_specs(asdict(config))))
    if touched.isdisjoint(("data", "evaluation", "teacher")) and not alone and is_complete:
        problems += _problems_together(run)
    new = []
    for problem in problems:
        if not any(_overlap(problem.path, other.path) for other in earlier):
            new.append(problem)
    return new


def _problems_together(run: RunFacts) -> list[Problem]:
    """What model, teacher, data, views, losses and metrics do not agree on; a rule that others rest on is asked before them."""
    apply = partial(apply_rules, run)
    problems = apply(data.modalities)
    if problems:
        return problems
    problems += apply(teacher.agreement, data.processors)
    problems += apply(components.model_options) or apply(components.model_files) or apply(components.model_sizes)
    problems = problems or apply(pretrained.tokenizers)
    problems += apply(data.views_and_tasks)
    problems += apply(objective.options) or apply(objective.saliencies)
    problems = problems or apply(pretrained.images_and_lengths) or apply(objective.features)
    problems += apply(objective.modulation, data.labels, teacher.saved_classes, objective.maskers)
    return problems or apply(teacher.cache, teacher.initial_weights, objective.held_out, objective.optimizer)


def _overlap(one: str, other: str) -> bool:
    """Whether two keys are the same, or one is inside the other."""
    inner, outer = sorted((one, other), key=len, reverse=True)
    return inner == outer or inner.startswith((f"{outer}.", f"{outer}["))
