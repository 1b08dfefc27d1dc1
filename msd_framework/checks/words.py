"""The words ``key=value`` behind a command: options of its own and of a run, arguments of a function, modules to import."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from msd_framework.components.facts import STAND_INS
from msd_framework.components.options import mismatch, options_of
from msd_framework.config.imports import import_problems
from msd_framework.config.load import COMMAND_LINE, Source, parse_overrides, refuse
from msd_framework.config.schema import RunConfig
from msd_framework.config.structure import component_specs, structure_problems, structured
from msd_framework.errors import ConfigError, Problem, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class OwnModules:
    """What a command takes that looks names up and has no run."""

    imports: list[str] = field(default_factory=list)
    """Modules of a user's own, by name."""
    user_dir: str | None = None
    """A folder all of whose Python files are imported."""


def parted(words: Sequence[str], is_mine: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    mine, others = list[str](), list[str]()
    for word in words:
        (mine if is_mine(word) else others).append(word)
    return mine, others


def take(words: Sequence[str], key: str) -> tuple[str, list[str]]:
    """The value of a word ``key=value`` that must be there once, and the other words."""
    mine, others = parted(words, lambda word: word.startswith(f"{key}="))
    if len(mine) != 1 or mine[0] == f"{key}=":
        files = [w for w in words if "=" not in w and w.endswith((".yaml", ".yml"))]
        hint = f" Did you mean {shlex.quote(f'{key}={files[0]}')}?" if files else ""
        raise ConfigError(Problem(key, f"wanted {key}=FILE once, got {' '.join(words) or 'nothing'}.{hint}"))
    return mine[0].partition("=")[2], others


def read(words: Sequence[str]) -> Source:
    source = Source()
    for layer in parse_overrides(words):
        source.overlay(layer)
    return source


def import_from_words(words: Sequence[str]) -> list[str]:
    """Imports what the words ``user_dir=FOLDER`` and ``imports=[MODULE, ...]`` of a command name; returns the other words."""
    mine, others = parted(words, lambda word: word.partition("=")[0] in ("imports", "user_dir"))
    source = read(mine)
    problems = structure_problems(source.values, OwnModules)
    if not problems:
        own = structured(source.values, OwnModules)
        problems = import_problems(own.imports, own.user_dir)
    refuse(problems, source)
    return others


def own_options(words: Sequence[str], schema: type[T]) -> tuple[T, Source, list[str]]:
    """The options of a command that takes those of a run as well, where each was given, and the words that are of the run."""
    own = {f.name for f in fields(schema)}  # type: ignore[arg-type]
    known = own | {f.name for f in fields(RunConfig)}
    unknown = []
    mine, of_run = parted(words, lambda word: re.split(r"[=.]", word)[0] in own)
    for word in of_run:
        key = re.split(r"[=.]", word)[0]
        if "=" in word and key not in known:
            takes = f"It takes: {', '.join(sorted(own))}, and the options of a run."
            unknown.append(f"{COMMAND_LINE}: {key}: no such option.{did_you_mean(key, known)} {takes}")
    if unknown:
        raise ConfigError(*unknown)
    source = read(mine)
    problems = structure_problems(source.values, schema)
    if not problems:
        for spec in component_specs(source.values, schema):
            problems += spec.registry.check(spec.value, spec.path, STAND_INS)
    refuse(problems, source)
    return structured(source.values, schema), source, of_run


def read_words(words: Sequence[str], function: Callable[..., Any], hidden: Collection[str] = ()) -> Source:
    """The arguments that the words give to a function, but those that no word can give (`hidden`), with where each was given."""
    source = read(words)
    options = {name: option for name, option in options_of(function).items() if name not in hidden}
    problems, texts = [], dict(word.split("=", 1) for word in words)
    for key, value in list(source.values.items()):
        if key in options and type(value) in (int, float) and not mismatch(texts.get(key), options[key].annotation):
            # Where a text is wanted, digits are one: a store's name may begin with nothing else.
            value = source.values[key] = texts[key]
        if key not in options:
            problems.append(Problem(key, f"no such option.{did_you_mean(key, options)} Options: {', '.join(options)}."))
        elif text := mismatch(value, options[key].annotation):
            problems.append(Problem(key, text))
    for key, option in options.items():
        if option.required and key not in source.values:
            problems.append(Problem(key, f"must be given: {option.doc}"))
    refuse(problems, source)
    return source
