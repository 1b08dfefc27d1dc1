"""config=FILE [key=value ...]: every option of a run and where its value comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_origin

from msd_framework.checks.run import understood
from msd_framework.checks.words import take
from msd_framework.commands.components import settable
from msd_framework.components.facts import STAND_INS
from msd_framework.components.options import Option
from msd_framework.components.registry import Registry, nested, split
from msd_framework.config.load import DEFAULT, Source, load, refuse, resolve
from msd_framework.config.schema import RunConfig
from msd_framework.config.structure import default_of, hints_of, section_of
from msd_framework.config.values import flow
from msd_framework.registry import REGISTRIES
from msd_framework.screen import put

FILLED_IN = "the run"
"""The origin of an option that a component asks for by name and the run fills in, such as the number of classes."""


@dataclass(frozen=True)
class Line:
    """One option of a run.

    Args:
        key: its key path.
        value: what it is, in YAML; empty where only the run knows.
        origin: where it was written.
    """

    key: str
    value: str
    origin: str


def main(words: Sequence[str]) -> int:
    """Prints every option of a run."""
    put(show_config(*take(words, "config")))
    return 0


def show_config(path: str | Path, overrides: Iterable[str] = ()) -> str:
    """Every option of a run, those of its components included, with its value and where that was written.

    Args:
        path: a YAML file.
        overrides: words ``a.b=value`` over it.

    Raises:
        ConfigError: if the file names options or components that do not exist, or gives them values of a wrong type.
    """
    source = resolve(load(path, overrides))
    _, problems = understood(source.values)
    refuse(problems, source)
    lines = list(_section(source.values, RunConfig, "", source))
    keys, values = max(len(x.key) for x in lines) + 1, min(max(len(x.value) for x in lines), 48)
    return "\n".join(f"{x.key + ':':<{keys}} {x.value:<{values}}  # {x.origin}" for x in lines)


def _section(values: Mapping[str, Any], schema: type, at: str, source: Source) -> Iterator[Line]:
    for f in fields(schema):
        key, annotation = f"{at}.{f.name}" if at else f.name, hints_of(schema)[f.name]
        value, section = values.get(f.name, default_of(f)), section_of(annotation)
        if section is not None and value is not None:
            yield from _section(value, section, key, source)
        elif "kind" in f.metadata and value:
            yield from _components(REGISTRIES[f.metadata["kind"]], value, get_origin(annotation), key, source)
        else:
            yield Line(key, flow(value), source.origin(key) if f.name in values else DEFAULT)


def _components(registry: Registry[Any], value: Any, container: Any, key: str, source: Source) -> Iterator[Line]:
    """A component, or each one of a list or a mapping of them."""
    if container is list:
        items = [(f"{key}[{i}]", one) for i, one in enumerate(value)]
    elif container is dict:
        items = [(f"{key}.{name}", one) for name, one in value.items()]
    else:
        items = [(key, value)]
    for at, spec in items:
        name, given = split(spec, at, registry)
        yield Line(f"{at}.type", name, source.origin(f"{at}.type") or DEFAULT)
        for option in settable(registry, name):
            yield from _option(option, given, f"{at}.{option.name}", source)


def _option(option: Option, given: Mapping[str, Any], key: str, source: Source) -> Iterator[Line]:
    inner, container = nested(option.annotation)
    if option.name in given and inner is not None and given[option.name]:
        yield from _components(inner, given[option.name], container, key, source)
    elif option.name in given:
        yield Line(key, flow(given[option.name]), source.origin(key))
    elif option.name in STAND_INS:
        yield Line(key, "", FILLED_IN)
    else:
        yield Line(key, flow(option.default), DEFAULT)
