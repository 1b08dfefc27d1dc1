"""Plain values to the frozen data classes of the schema, with everything that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from msd_framework.components.options import mismatch
from msd_framework.components.registry import items
from msd_framework.components.specs import Spec
from msd_framework.config.schema import RunConfig, field_docs
from msd_framework.config.values import join
from msd_framework.errors import Problem, did_you_mean
from msd_framework.registry import REGISTRIES

T = TypeVar("T")


def structure_problems(values: Any, schema: type, at: str = "", root: type | None = None) -> list[Problem]:
    """Keys that are unknown or missing and values of a wrong type, at every level of a schema; components are not looked into.

    The root is the schema that this one is a section of, where a misplaced key may belong; itself if None.
    """
    root = root or schema
    docs, known = field_docs(schema), {f.name: f for f in fields(schema)}
    if not isinstance(values, Mapping):
        return [Problem(at, f"wanted a mapping of options ({', '.join(docs)}), got {values!r}.")]
    problems = []
    for key, value in values.items():
        path = join(at, key)
        if key not in known:
            elsewhere = [other for other in _paths(root) if other.rpartition(".")[2] == str(key) and other != path]
            hint = did_you_mean(str(key), known) or (f" Did you mean {elsewhere[0]!r}?" if elsewhere else "")
            problems.append(Problem(path, f"no such option.{hint} Options here: {', '.join(known)}."))
        elif value == "???":
            problems.append(Problem(path, f"must be given: {docs[key]}"))
        else:
            problems += _value_problems(value, hints_of(schema)[key], known[key], path, root)
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            problems.append(Problem(join(at, name), f"must be given: {docs[name]}"))
    return problems


def structured(values: Mapping[str, Any], schema: type[T]) -> T:
    arguments = {}
    for key, value in values.items():
        section = section_of(hints_of(schema)[key])
        arguments[key] = value if section is None or value is None else structured(value, section)
    return schema(**arguments)


def without(values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The values less one key; all of a list goes if its path is that of an item.

    >>> without({"model": {"type": "bert", "hiden_size": 3}}, "model.hiden_size")
    {'model': {'type': 'bert'}}
    """
    key, _, rest = path.partition("[")[0].partition(".")
    if rest and isinstance(values.get(key), Mapping):
        return {**values, key: without(values[key], rest)}
    return {k: v for k, v in values.items() if k != key or rest}


def component_specs(values: Mapping[str, Any], schema: type = RunConfig, at: str = "") -> Iterator[Spec]:
    """Every component that values of the right structure hold, defaults included, in the order of the schema."""
    for f in fields(schema):
        value, path, annotation = values.get(f.name, default_of(f)), join(at, f.name), hints_of(schema)[f.name]
        section = section_of(annotation)
        if value is None:
            continue
        if section is not None:
            yield from component_specs(value, section, path)
        elif "kind" in f.metadata:
            for suffix, one in items(value, get_origin(annotation)):
                yield Spec(path + suffix, REGISTRIES[f.metadata["kind"]], one)


def default_of(f: Field[Any]) -> Any:
    """What a field is if nobody says: no options for a section that has defaults, None where nothing is known."""
    if f.default is not MISSING:
        return f.default
    value = f.default_factory() if f.default_factory is not MISSING else None
    return {} if is_dataclass(value) else value


hints_of: Callable[[Any], dict[str, Any]] = cache(get_type_hints)
"""The types of a schema's fields."""


def section_of(annotation: Any) -> Any:
    return next((a for a in (annotation, *get_args(annotation)) if is_dataclass(a)), None)


def _value_problems(value: Any, annotation: Any, f: Field[Any], path: str, root: type) -> list[Problem]:
    section, may_be_none = section_of(annotation), type(None) in get_args(annotation)
    if section is not None and not (value is None and may_be_none):
        return structure_problems(value, section, path, root)
    if "kind" in f.metadata:
        if value is None and not may_be_none:
            return [Problem(path, f"must be given: {f.name} cannot be null.")]
        annotation = {list: list[Any], dict: dict[str, Any]}.get(get_origin(annotation), Any)
    text = mismatch(value, annotation)
    return [Problem(path, text)] if text else []


def _paths(schema: type, at: str = "") -> Iterator[str]:
    for key, annotation in hints_of(schema).items():
        yield join(at, key)
        if section := section_of(annotation):
            yield from _paths(section, join(at, key))
