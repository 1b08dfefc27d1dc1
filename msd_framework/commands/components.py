"""[KIND] [NAME] [user_dir=FOLDER imports=[MODULE]]: what can be named in a YAML, with options, types and defaults."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, get_origin

from msd_framework.checks.words import import_from_words
from msd_framework.components.contract import place
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
    named = import_from_words(words)
    if len(named) > 2 or any("=" in word for word in named):
        text = "wanted a kind and a name at most, such as `msd components maskers noise`, beside user_dir and imports"
        raise ConfigError(f"{text}; got {' '.join(named)}.")
    put(show_components(*named))
    return 0


def show_components(kind: str | None = None, name: str | None = None) -> str:
    """The components of all kinds, of one kind (``maskers``, or ``masker``), or the options of one component."""
    if kind is None:
        return "\n\n".join(map(_table, REGISTRIES.values()))
    kinds: dict[str, Registry[Any]] = {}
    for plural, registry in REGISTRIES.items():
        kinds |= dict.fromkeys((plural, registry.kind, registry.kind.replace(" ", "_")), registry)
    if kind not in kinds:
        raise ConfigError(f"there is no kind of component {kind!r}.{did_you_mean(kind, kinds)} Kinds: {', '.join(REGISTRIES)}.")
    return _table(kinds[kind]) if name is None else _component(kinds[kind], name)


def settable(registry: Registry[Any], name: str) -> list[Option]:
    """The options of a component that a YAML may give."""
    own = CONTEXT.get(registry.plural, ())
    return [option for option in options_of(registry.get(name)).values() if option.name not in own]


def _table(registry: Registry[Any]) -> str:
    rows = [(name, summary(registry.get(name))) for name in registry.names()]
    return "\n".join([f"{registry.plural}:", *_aligned(rows)])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, in which each column but the last is as wide as its longest text."""
    lines = [""] * len(rows)
    for i, column in enumerate(zip(*rows)):
        width = max(map(len, column)) if i < len(rows[0]) - 1 else 0
        lines = [f"{line}  {text:<{width}}" for line, text in zip(lines, column)]
    return lines


def _component(registry: Registry[Any], name: str) -> str:
    try:
        cls = registry.get(name)
    except ConfigError as error:
        raise ConfigError(*(Problem("", p.message.partition(" A module of your own")[0]) for p in error.problems)) from error
    rows, copied = [], {"type": name}
    for option in settable(registry, name):
        default = "required" if option.required else f"= {flow(option.default)}"
        if option.name in STAND_INS:
            default = "= the run's"
        elif option.required or option.default is not None:
            copied[option.name] = "???" if option.required else option.default
        rows.append((option.name, type_name(option.annotation), default, option.doc))
    key, container = next(_takers(registry), (registry.kind, None))
    held: Any = [copied] if container is list else {"image": copied} if container is dict else copied
    lines = [f"{name}: {registry.kind}, {place(cls)}", "", f"  {summary(cls)}", "", "options:", *(_aligned(rows) or ["  none"])]
    return "\n".join([*lines, "", "to copy:", f"  {key}: {flow(held)}"])


def _takers(wanted: Registry[Any]) -> Iterator[tuple[str, Any]]:
    """The keys of a run, then the options of components, that take a component of a kind; and whether each takes several."""
    yield from _slots(RunConfig, wanted)
    for registry in sorted(REGISTRIES.values(), key=lambda r: r.plural != "objectives"):
        for name in registry.names():
            for option in settable(registry, name):
                inner, container = nested(option.annotation)
                if inner is wanted:
                    yield option.name, container


def _slots(schema: type, wanted: Registry[Any]) -> Iterator[tuple[str, Any]]:
    for f in fields(schema):
        annotation = hints_of(schema)[f.name]
        if section := section_of(annotation):
            yield from _slots(section, wanted)
        elif f.metadata.get("kind") == wanted.plural:
            yield f.name, get_origin(annotation)
