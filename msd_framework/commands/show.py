"""config=FILE [key=value ...]: every option of a run and where its value comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_origin

from msd_framework.checks.run import understood
from msd_framework.checks.words import take
from msd_framework.commands.components import settable
from msd_framework.components.facts import STAND_INS
from msd_framework.components.registry import Registry, items, nested, split
from msd_framework.config.load import DEFAULT, Source, load, refuse, resolve
from msd_framework.config.schema import RunConfig
from msd_framework.config.structure import default_of, hints_of, section_of
from msd_framework.config.values import flow, join
from msd_framework.registry import REGISTRIES
from msd_framework.screen import put

FILLED_IN = "the run"  # the origin of an option that a component asks for by name, such as the number of classes


def main(words: Sequence[str]) -> int:
    put(show_config(*take(words, "config")))
    return 0


def show_config(path: str | Path, overrides: Iterable[str] = ()) -> str:
    """Every option of a run, those of its components included, with its value and where that was written."""
    source = resolve(load(path, overrides))
    _, problems = understood(source.values)
    refuse(problems, source)
    lines = list(_section(source.values, RunConfig, "", source))
    keys, values = max(len(key) for key, _, _ in lines) + 1, min(max(len(value) for _, value, _ in lines), 48)
    return "\n".join(f"{key + ':':<{keys}} {value:<{values}}  # {origin}" for key, value, origin in lines)


Line = tuple[str, str, str]
"""An option's key path, its value in YAML (empty where only the run knows), and where it was written."""


def _section(values: Mapping[str, Any], schema: type, at: str, source: Source) -> Iterator[Line]:
    for f in fields(schema):
        key, annotation = join(at, f.name), hints_of(schema)[f.name]
        value, section = values.get(f.name, default_of(f)), section_of(annotation)
        if section is not None and value is not None:
            yield from _section(value, section, key, source)
        elif "kind" in f.metadata and value:
            yield from _components(REGISTRIES[f.metadata["kind"]], value, get_origin(annotation), key, source)
        else:
            yield key, flow(value), source.origin(key) if f.name in values else DEFAULT


def _components(registry: Registry[Any], value: Any, container: Any, key: str, source: Source) -> Iterator[Line]:
    """A component, or each one of a list or a mapping of them."""
    for suffix, spec in items(value, container):
        at = key + suffix
        name, given = split(spec, at, registry)
        yield f"{at}.type", name, source.origin(f"{at}.type") or DEFAULT
        for option in settable(registry, name):
            path, inner = f"{at}.{option.name}", nested(option.annotation)
            if option.name in given and inner[0] is not None and given[option.name]:
                yield from _components(inner[0], given[option.name], inner[1], path, source)
            elif option.name in given:
                yield path, flow(given[option.name]), source.origin(path)
            elif option.name in STAND_INS:
                yield path, "", FILLED_IN
            else:
                yield path, flow(option.default), DEFAULT
