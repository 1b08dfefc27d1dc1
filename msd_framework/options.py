"""A component's constructor signature, read as the schema of its part of a YAML."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from msd_framework.errors import did_you_mean

REQUIRED: Any = inspect.Parameter.empty
"""The default of an option that has none."""


@dataclass(frozen=True)
class Option:
    """One argument of a component's constructor.

    Args:
        name: its name.
        annotation: its type, resolved.
        default: its default, or ``REQUIRED``.
        doc: what the class's docstring says of it, on one line.
    """

    name: str
    annotation: Any
    default: Any
    doc: str

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@cache
def options_of(cls: type) -> Mapping[str, Option]:
    """The options of a component in the order of its constructor.

    Raises:
        TypeError: if the constructor takes ``*args`` or ``**kwargs``, which cannot be checked.
    """
    parameters = [] if cls.__init__ is object.__init__ else list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        if cls.__init__ not in vars(cls).values():  # nobody wrote a constructor: what nn.Module has takes nothing of ours
            return {}
        raise TypeError(f"{cls.__module__}.{cls.__qualname__} takes *args or **kwargs; a component names each of its options")
    hints = get_type_hints(cls.__init__)  # type: ignore[misc]
    docs = argument_docs(cls)
    return {p.name: Option(p.name, hints.get(p.name, Any), p.default, docs.get(p.name, "")) for p in parameters}


def summary(cls: type) -> str:
    """The first line of a component's docstring."""
    return (inspect.getdoc(cls) or "").split("\n", 1)[0]


def argument_docs(cls: type) -> dict[str, str]:
    """What the ``Args:`` part of a Google-style docstring says of each argument."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", inspect.getdoc(cls) or "", re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", section.group(1), re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def type_name(annotation: Any) -> str:
    """An annotation as a user would write it.

    >>> type_name(list[str] | None)
    'list[str] | None'
    """
    if annotation is Any:
        return "anything"
    if annotation is type(None):
        return "None"
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(type_name(a) for a in get_args(annotation))
    if get_origin(annotation) is Literal:
        return " | ".join(repr(a) for a in get_args(annotation))
    if get_args(annotation):
        return f"{annotation.__origin__.__name__.lower()}[{', '.join(type_name(a) for a in get_args(annotation))}]"
    return str(getattr(annotation, "__name__", annotation))


def mismatch(value: Any, annotation: Any) -> str:
    """Why a value from a YAML does not fit an annotation, as the end of a sentence; empty if it fits.

    >>> mismatch("2", int)
    "wanted int, got '2' (str)"
    >>> mismatch("skp", Literal["raise", "skip"])
    "wanted 'raise' | 'skip', got 'skp'. Did you mean 'skip'?"
    >>> mismatch(1, float), mismatch(True, int)
    ('', 'wanted int, got True (bool)')
    """
    if annotation is Any:
        return ""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        found = [mismatch(value, a) for a in arguments]
        if "" in found:
            return ""
        literal = [text for a, text in zip(arguments, found) if get_origin(a) is Literal and isinstance(value, str)]
        return literal[0] if literal else _wanted(annotation, value)
    if origin is Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return ""
        return f"wanted {type_name(annotation)}, got {value!r}." + did_you_mean(str(value), [str(a) for a in arguments])
    if origin in (list, Sequence, tuple):
        if not isinstance(value, (list, tuple)):
            return _wanted(annotation, value)
        wrong = [(i, mismatch(v, arguments[0])) for i, v in enumerate(value)]
        return next((f"item {i}: {text}" for i, text in wrong if text), "")
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            return _wanted(annotation, value)
        wrong_values = [(k, mismatch(k, arguments[0]) or mismatch(v, arguments[1])) for k, v in value.items()]
        return next((f"{k}: {text}" for k, text in wrong_values if text), "")
    if annotation is float:
        return "" if isinstance(value, (int, float)) and not isinstance(value, bool) else _wanted(annotation, value)
    if annotation is int:
        return "" if isinstance(value, int) and not isinstance(value, bool) else _wanted(annotation, value)
    if annotation is None:
        annotation = type(None)
    return "" if isinstance(value, annotation) else _wanted(annotation, value)


def _wanted(annotation: Any, value: Any) -> str:
    return f"wanted {type_name(annotation)}, got {value!r} ({type(value).__name__})"
