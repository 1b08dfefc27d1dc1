"""Words ``key=value`` of a command as the arguments of the function that it calls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from msd_framework.config.load import Source, located, parse_overrides
from msd_framework.errors import ConfigError, Problem, did_you_mean
from msd_framework.options import mismatch, options_of


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
