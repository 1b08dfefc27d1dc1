"""A component's constructor signature, read as the schema of its part of a YAML."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from msd_framework.errors import ConfigError, did_you_mean

REQUIRED: Any = inspect.Parameter.empty  # the default of an option that has none


@dataclass(frozen=True)
class Option:
    """One argument of a component's constructor."""

    name: str
    annotation: Any  # its type, resolved
    default: Any  # or REQUIRED
    doc: str  # what the class's docstring says of it, on one line

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


def _options_of(component: Any) -> Mapping[str, Option]:
    """The options of a component, in the order of its constructor; or the arguments of a function."""
    is_class = isinstance(component, type)
    constructor: Any = component.__init__ if is_class else component
    if is_class:
        owner = next(base for base in component.__mro__ if "__init__" in vars(base))
        if owner.__module__.partition(".")[0] in ("builtins", "torch"):
            return {}  # nobody wrote a constructor: what nn.Module has takes nothing of ours
    parameters = list(inspect.signature(constructor).parameters.values())[is_class:]
    place = f"{component.__module__}.{component.__qualname__}"
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise ConfigError(f"{place} takes *args or **kwargs; a component must name each of its options.")
    try:
        hints = get_type_hints(constructor)
    except NameError as error:
        raise ConfigError(f"{place} has an annotation that cannot be resolved: {error}. Import it where it is defined.") from error
    # an option that several components share may be described once, in a class that they extend
    docs: dict[str, str] = {}
    for described in reversed(component.__mro__) if is_class else (component,):
        docs |= argument_docs(described)
    return {p.name: Option(p.name, hints.get(p.name, Any), p.default, docs.get(p.name, "")) for p in parameters}


options_of: Callable[[Any], Mapping[str, Option]] = cache(_options_of)


def summary(component: Any) -> str:
    """The first sentence of a component's docstring."""
    return " ".join((inspect.getdoc(component) or "").split("\n\n", 1)[0].split())


def argument_docs(component: Any) -> dict[str, str]:
    """What the ``Args:`` part of a Google-style docstring says of each argument."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)+)", inspect.getdoc(component) or "", re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", section.group(1) if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def type_name(annotation: Any) -> str:
    """An annotation as a user would write it, such as `list[str] | None`."""
    if annotation is Any:
        return "anything"
    if annotation is type(None):
        return "None"
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(map(type_name, get_args(annotation)))
    if get_origin(annotation) is Literal:
        return " | ".join(map(repr, get_args(annotation)))
    if get_args(annotation):
        name = "dict" if get_origin(annotation) in (dict, Mapping) else "list"
        arguments = [a for a in get_args(annotation) if a is not ...]
        return f"{name}[{', '.join(map(type_name, arguments))}]"
    return str(getattr(annotation, "__name__", annotation))


def mismatch(value: Any, annotation: Any) -> str:
    """Why a value from a YAML does not fit an annotation, as a sentence; empty if it fits.

    >>> mismatch(1, float), mismatch(True, int)
    ('', 'wanted int, got True (bool).')
    """
    if annotation is Any:
        return ""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        nearest = []
        for choice in arguments:
            text = mismatch(value, choice)
            if not text:
                return ""
            if _same_shape(value, choice):
                nearest.append(text)
        return nearest[0] if len(nearest) == 1 else _wanted(annotation, value)
    if origin is Literal:
        if (type(value), value) in [(type(a), a) for a in arguments]:  # True is no 1
            return ""
        return f"wanted {type_name(annotation)}, got {value!r}.{did_you_mean(str(value), map(str, arguments))}"
    if origin in (list, Sequence, tuple):
        if not isinstance(value, (list, tuple)):
            return _wanted(annotation, value)
        for i, item in enumerate(value):
            if text := mismatch(item, arguments[0]):
                return f"item {i}: {text}"
        return ""
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            return _wanted(annotation, value)
        for key, item in value.items():
            if text := mismatch(key, arguments[0]) or mismatch(item, arguments[1]):
                return f"{key}: {text}"
        return ""
    if annotation in (float, int):
        if isinstance(value, int) and abs(value) >= 2**128:
            return f"wanted {type_name(annotation)}, got a number of {value.bit_length():,} bits; 64 are the most."
        number = isinstance(value, (int, annotation)) and not isinstance(value, bool)
        return "" if number else _wanted(annotation, value)
    return "" if isinstance(value, annotation) else _wanted(annotation, value)


def _same_shape(value: Any, annotation: Any) -> bool:
    """Whether a value is what a member of a union would take, but for what is inside it."""
    origin = get_origin(annotation)
    if origin is Literal:
        return isinstance(value, str)
    if annotation in (int, float):
        return isinstance(value, int) and not isinstance(value, bool)
    return (origin in (list, Sequence) and isinstance(value, list)) or (origin in (dict, Mapping) and isinstance(value, Mapping))


def _wanted(annotation: Any, value: Any) -> str:
    hint, choices = "", {annotation, *get_args(annotation)}
    if isinstance(value, str):
        is_bool = bool in choices and value.lower() in ("true", "false")
        is_number = {int, float} & choices and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", value, re.IGNORECASE)
        hint = " Write it without quotes." if is_bool or is_number else ""
    elif isinstance(value, (bool, int, float)) and str in choices:
        # YAML reads yes, on, 1e5 and their like as no text
        hint = " Put it in quotes if it is a text; on a command line: 'key=\"text\"'."
    return f"wanted {type_name(annotation)}, got {value!r} ({type(value).__name__}).{hint}"
