"""[KIND] [NAME] [user_dir=FOLDER imports=[MODULE]]: what can be named in a YAML, with options, types and defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, get_origin

from msd_framework.checks.words import import_from_words
from msd_framework.components.facts import CONTEXT, STAND_INS
from msd_framework.components.options import Option, options_of, summary, type_name
from msd_framework.components.registry import Registry, nested
from msd_framework.config.schema import RunConfig
from msd_framework.config.structure import hints_of, section_of
from msd_framework.config.values import flow
from msd_framework.errors import ConfigError, Problem, did_you_mean
from msd_framework.registry import REGISTRIES
from msd_framework.screen import put


def main(words: Sequence[str]) -> int:
    """Prints the components of all kinds, of one kind, or the options of one component."""
    named = import_from_words(words)
    if len(named) > 2 or any("=" in word for word in named):
        example = "`msd components maskers noise`"
        text = f"wanted a kind and a name at most, such as {example}, beside user_dir and imports; got {' '.join(named)}."
        raise ConfigError(text)
    put(show_components(*named))
    return 0


def show_components(kind: str | None = None, name: str | None = None) -> str:
    """The components of all kinds, of one kind, or the options of one component.

    Args:
        kind: the plural of a kind, such as ``maskers``; the singular will do.
        name: a registered or dotted name of that kind.

    Raises:
        ConfigError: if there is no such kind or component.
    """
    if kind is None:
        return "\n\n".join(map(_table, REGISTRIES))
    plurals: dict[str, str] = {}
    for plural, registry in REGISTRIES.items():
        plurals |= dict.fromkeys((plural, registry.kind, registry.kind.replace(" ", "_")), plural)
    if kind not in plurals:
        raise ConfigError(f"there is no kind of component {kind!r}.{did_you_mean(kind, plurals)} Kinds: {', '.join(REGISTRIES)}.")
    return _table(plurals[kind]) if name is None else _component(plurals[kind], name)


def settable(registry: Registry[Any], name: str) -> list[Option]:
    """The options of a component that a YAML may give."""
    own = CONTEXT.get(registry.plural, ())
    return [option for option in options_of(registry.get(name)).values() if option.name not in own]


def _table(plural: str) -> str:
    registry = REGISTRIES[plural]
    rows = [(name, summary(registry.get(name))) for name in registry.names()]
    return "\n".join([f"{plural}:", *_aligned(rows)])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, in which each column but the last is as wide as its longest text."""
    *widths, _ = [max(map(len, column)) for column in zip(*rows)] or [0]
    lines = []
    for row in rows:
        *texts, last = row
        padded = [text.ljust(width) for text, width in zip(texts, widths)]
        lines.append("  " + "  ".join([*padded, last]))
    return lines


def _component(plural: str, name: str) -> str:
    registry = REGISTRIES[plural]
    try:
        cls = registry.get(name)
    except ConfigError as error:
        raise ConfigError(*(Problem("", p.message.partition(" A module of your own")[0]) for p in error.problems)) from error
    options = settable(registry, name)
    rows = [(o.name, type_name(o.annotation), _default(o), o.doc) for o in options]
    copied = {"type": name}
    for option in options:
        if option.name not in STAND_INS and (option.required or option.default is not None):
            copied[option.name] = "???" if option.required else option.default
    head = [f"{name}: {registry.kind}, {cls.__module__}.{cls.__qualname__}", "", f"  {summary(cls)}", ""]
    return "\n".join([*head, "options:", *(_aligned(rows) or ["  none"]), "", "to copy:", f"  {_in_place(plural, copied)}"])


def _default(option: Option) -> str:
    if option.name in STAND_INS:
        return "= the run's"
    return "required" if option.required else f"= {flow(option.default)}"


def _in_place(plural: str, spec: Mapping[str, Any]) -> str:
    """A line of YAML that gives a component to whatever takes one of its kind."""
    key, container = next(_takers(plural), (REGISTRIES[plural].kind, None))
    if container is list:
        return f"{key}: {flow([spec])}"
    return f"{key}: {flow({'image': spec} if container is dict else spec)}"


def _takers(plural: str) -> Iterator[tuple[str, Any]]:
    """The keys of a run, then the options of components, that take a component of a kind; and whether each takes several."""
    yield from _slots(RunConfig, plural)
    for registry in sorted(REGISTRIES.values(), key=lambda r: r.plural != "objectives"):
        for name in registry.names():
            for option in settable(registry, name):
                inner, container = nested(option.annotation)
                if inner is REGISTRIES[plural]:
                    yield option.name, container


def _slots(schema: type, plural: str) -> Iterator[tuple[str, Any]]:
    """The keys of a schema that take a component of a kind, and whether each takes a list or a mapping of them."""
    for f in fields(schema):
        annotation = hints_of(schema)[f.name]
        if section := section_of(annotation):
            yield from _slots(section, plural)
        elif f.metadata.get("kind") == plural:
            yield f.name, get_origin(annotation)
