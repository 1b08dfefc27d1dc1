"""Words ``key=value`` of a command as the arguments of the function that it calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from msd_framework.components.facts import STAND_INS
from msd_framework.components.options import mismatch, options_of
from msd_framework.config.load import COMMAND_LINE, Source, located, parse_overrides
from msd_framework.config.schema import RunConfig
from msd_framework.config.structure import component_slots, structure_problems, structured
from msd_framework.errors import ConfigError, Problem, did_you_mean
from msd_framework.registry import REGISTRIES

T = TypeVar("T")


def own_options(words: Sequence[str], schema: type[T]) -> tuple[T, Source, list[str]]:
    """The options of a command that takes those of a run as well.

    Args:
        words: ``key=value``, of the command or of the run.
        schema: the command's.

    Returns:
        The options, where each was given, and the words that are of the run.

    Raises:
        ConfigError: with every word that is wrong, or of neither.
    """
    own, of_run = ({f.name for f in fields(one)} for one in (schema, RunConfig))  # type: ignore[arg-type]
    keys = {word: re.split(r"[=.]", word)[0] for word in words}
    unknown = [key for word, key in keys.items() if "=" in word and key not in own | of_run]
    if unknown:
        raise ConfigError(*(f"{COMMAND_LINE}: {key}: no such option.{did_you_mean(key, own | of_run)}" for key in unknown))
    source = Source()
    for layer in parse_overrides([word for word in words if keys[word] in own]):
        source.overlay(layer)
    problems = structure_problems(source.values, schema)
    if not problems:
        for slot in component_slots(source.values, schema):
            problems += REGISTRIES[slot.kind].check(slot.spec, slot.path, STAND_INS)
    if problems:
        raise ConfigError(*(located(p, source) for p in problems))
    return structured(source.values, schema), source, [word for word in words if keys[word] not in own]


def read_words(words: Sequence[str], function: Callable[..., Any], hidden: Collection[str] = ()) -> Source:
    """The arguments that the words give to a function, with where each was given.

    Args:
        words: ``key=value``.
        function: whose arguments they are; its signature says which there are and of which type.
        hidden: arguments that no word can give.

    Raises:
        ConfigError: with every word that is wrong, and every argument that is missing.
    """
    source = Source()
    for layer in parse_overrides(words):
        source.overlay(layer)
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
    problems += [Problem(n, f"must be given: {o.doc}") for n, o in options.items() if o.required and n not in source.values]
    if problems:
        raise ConfigError(*(located(p, source) for p in problems))
    return source
