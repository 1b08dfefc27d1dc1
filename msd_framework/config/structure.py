"""Plain values to the frozen data classes of the schema, with everything that does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

from msd_framework.config.schema import RunConfig, field_docs
from msd_framework.errors import Problem, did_you_mean
from msd_framework.options import mismatch

T = TypeVar("T")


@dataclass(frozen=True)
class ComponentSlot:
    """A place of a configuration that holds a component.

    Args:
        path: its key path.
        kind: the plural of its kind, a key of `REGISTRIES`.
        spec: what the configuration says there.
    """

    path: str
    kind: str
    spec: Any


def structure_problems(values: Any, schema: type, at: str = "") -> list[Problem]:
    """Keys that are unknown or missing and values of a wrong type, at every level of a schema."""
    if not isinstance(values, Mapping):
        return [Problem(at, f"wanted a mapping of options ({', '.join(field_docs(schema))}), got {values!r}.")]
    hints, problems = _hints(schema), []
    for key, value in values.items():
        path = _join(at, key)
        if key not in hints:
            problems.append(Problem(path, f"no such option.{_suggestion(str(key), at, hints)} Options here: {', '.join(hints)}."))
        elif value == "???":
            problems.append(Problem(path, f"must be given: {field_docs(schema)[key]}"))
        elif (section := _section(hints[key])) is not None and (value is not None or not _optional(hints[key])):
            problems += structure_problems(value, section, path)
        elif not _is_component(schema, key) and (text := mismatch(value, hints[key])):
            problems.append(Problem(path, text + ("" if text.endswith(("?", ".")) else ".")))
    for f in fields(schema):
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING:
            problems.append(Problem(_join(at, f.name), f"must be given: {field_docs(schema)[f.name]}"))
    return problems


def structured(values: Mapping[str, Any], schema: type[T]) -> T:
    """The values as an instance of a schema that they fit."""
    hints = _hints(schema)
    nested = {k: structured(v, s) if v is not None and (s := _section(hints[k])) else v for k, v in values.items()}
    return schema(**nested)


def component_slots(config: RunConfig) -> Iterator[ComponentSlot]:
    """Every component of a configuration, in the order of the schema."""
    yield from _slots(config, "")


def _slots(section: Any, at: str) -> Iterator[ComponentSlot]:
    for f in fields(section):
        value, path = getattr(section, f.name), _join(at, f.name)
        kind = f.metadata.get("kind")
        if is_dataclass(value):
            yield from _slots(value, path)
        elif kind is None or value is None:
            continue
        elif isinstance(value, list):
            yield from (ComponentSlot(f"{path}[{i}]", kind, spec) for i, spec in enumerate(value))
        elif str(f.type).startswith("dict"):
            yield from (ComponentSlot(f"{path}.{name}", kind, spec) for name, spec in value.items())
        else:
            yield ComponentSlot(path, kind, value)


@cache
def _hints(schema: type) -> dict[str, Any]:
    return get_type_hints(schema)


def _section(annotation: Any) -> Any:
    return next((a for a in (annotation, *get_args(annotation)) if is_dataclass(a)), None)


def _optional(annotation: Any) -> bool:
    return type(None) in get_args(annotation)


def _is_component(schema: type, key: str) -> bool:
    """Whether a field is checked by its registry rather than by its type."""
    f = next(f for f in fields(schema) if f.name == key)
    return "kind" in f.metadata and not str(f.type).startswith(("dict", "list"))


def _join(at: str, key: Any) -> str:
    return f"{at}.{key}" if at else str(key)


def _suggestion(key: str, at: str, here: Mapping[str, Any]) -> str:
    """The nearest option here, or the place of the option of that name elsewhere."""
    elsewhere = [path for path in _paths(RunConfig, "") if path.rpartition(".")[2] == key and path != _join(at, key)]
    return did_you_mean(key, here) or (f" Did you mean {elsewhere[0]!r}?" if elsewhere else "")


def _paths(schema: type, at: str) -> Iterator[str]:
    for key, annotation in _hints(schema).items():
        yield _join(at, key)
        if section := _section(annotation):
            yield from _paths(section, _join(at, key))
