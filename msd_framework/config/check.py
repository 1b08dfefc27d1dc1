"""Everything that is wrong with a configuration, found at once and before any data or weight is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from msd_framework.config.components import component_problems
from msd_framework.config.folders import data_problems, folder_problems
from msd_framework.config.imports import import_problems
from msd_framework.config.limits import limit_problems
from msd_framework.config.load import Source, located, resolve
from msd_framework.config.pairing import measure_problems, pairing_problems
from msd_framework.config.schema import RunConfig
from msd_framework.config.structure import component_slots, hints_of, structure_problems, structured, without
from msd_framework.config.teachers import teacher_problems
from msd_framework.errors import ConfigError, Problem, nearest


def checked(source: Source) -> RunConfig:
    """The configuration, once nothing is wrong with it.

    Raises:
        ConfigError: with every problem that was found, each with the place that it was written at.
    """
    source = resolve(source)
    config, problems = understood(source.values)
    if config is not None:
        problems += _later_problems(config, tuple(problems))
    if problems or config is None:
        raise ConfigError(*(located(p, source) for p in dict.fromkeys(problems)))
    return config


def understood(values: Mapping[str, Any]) -> tuple[RunConfig | None, list[Problem]]:
    """What each part of a configuration gets wrong by itself, and what is left of the configuration without that.

    Returns:
        The configuration less the keys that are wrong, None if it is nothing without them; and the problems.
    """
    problems = structure_problems(values, RunConfig)
    for problem in problems:
        values = without(values, problem.path)
    imports = import_problems(values.get("imports", ()), values.get("user_dir"))
    if imports:  # nobody knows which components have a name
        return None, problems + imports
    found = component_problems(component_slots(values))
    for problem in found:
        values = without(values, problem.path)
    config = None if structure_problems(values, RunConfig) else structured(values, RunConfig)
    return config, problems + found


def _later_problems(config: RunConfig, earlier: Sequence[Problem]) -> list[Problem]:
    """What parts of a configuration get wrong together, as far as that does not follow from what is wrong already."""

    def untouched(*sections: str) -> bool:
        roots = {re.split(r"[.\[]", p.path)[0] for p in earlier}
        return not set(sections) & {root for key in roots for root in (key, nearest(key, hints_of(RunConfig)))}

    problems = limit_problems(config)
    if untouched("env", "checkpoint", "model", "run_type"):
        problems += folder_problems(config)
    if untouched("data"):
        problems += data_problems(config)
    alone = teacher_problems(config) if untouched("teacher", "objective") else []
    problems += alone
    if untouched("data", "evaluation", "teacher", "expected", "callbacks"):
        problems += measure_problems(config)
    if untouched("data", "evaluation", "teacher") and not alone and _comparable(config, earlier):
        problems += pairing_problems(config)
    return [p for p in problems if not any(_inside(e.path, p.path) or _inside(p.path, e.path) for e in earlier)]


def _inside(path: str, section: str) -> bool:
    return path == section or path.startswith((f"{section}.", f"{section}["))


def _comparable(config: RunConfig, earlier: Sequence[Problem]) -> bool:
    """Whether model, objective and masker are those that were meant, with all that they need."""
    replaced = {"model", "objective", "masker"} & {p.path for p in earlier}
    return not replaced and not (earlier and component_problems(component_slots(asdict(config))))
