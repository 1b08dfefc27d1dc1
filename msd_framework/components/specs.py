"""A component's part of a YAML and the components nested in it: gone through, and compared with another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from msd_framework.components.options import options_of
from msd_framework.components.registry import Registry, items, map_nested, nested, split


@dataclass(frozen=True)
class Spec:
    """A component's part of a YAML at its key path: a name, or a mapping with the name under `type`."""

    path: str
    registry: Registry[Any]
    value: Any

    @property
    def name(self) -> str:
        return split(self.value, self.path, self.registry)[0]

    @property
    def options(self) -> dict[str, Any]:
        return split(self.value, self.path, self.registry)[1]

    @property
    def cls(self) -> type[Any]:
        return self.registry.get(self.name, self.path)

    @property
    def nested(self) -> Iterator[Spec]:
        known = options_of(self.cls)
        for key, value in self.options.items():
            registry, container = nested(known[key].annotation) if key in known else (None, None)
            if registry is None or value is None:
                continue
            for suffix, one in items(value, container if isinstance(value, (dict, list)) else None):
                yield Spec(f"{self.path}.{key}{suffix}", registry, one)

    @property
    def with_nested(self) -> Iterator[Spec]:
        """All components within it, the innermost first, and then itself."""
        for inner in self.nested:
            yield from inner.with_nested
        yield self


def code_options(component: type) -> frozenset[str]:
    """The options of a component that name code, which is imported and called."""
    named: frozenset[str] = getattr(component, "code", frozenset())
    return named


def differences(registry: Registry[Any], here: Any, there: Any) -> str:
    """In what two parts of YAMLs describe different components, defaults included; empty if they describe the same.

    >>> from msd_framework.registry import OPTIMIZERS
    >>> differences(OPTIMIZERS, "adamw", {"type": "adamw", "eps": 1e-6})
    'eps is 1e-08 here and 1e-06 there'
    """
    mine, theirs = complete(registry, here), complete(registry, there)
    texts = []
    for key in mine if mine["type"] == theirs["type"] else ("type",):
        if mine[key] != theirs[key]:
            texts.append(f"{key} is {mine[key]!r} here and {theirs[key]!r} there")
    return ", ".join(texts)


def complete(registry: Registry[Any], spec: Any) -> dict[str, Any]:
    """A component's part of a YAML with every option in it, nested components included."""
    name, given = split(spec, registry.kind, registry)
    full: dict[str, Any] = {"type": name}
    for key, option in options_of(registry.get(name)).items():
        value = given.get(key, None if option.required else option.default)
        full[key] = map_nested(option, value, lambda inner, one, _: complete(inner, one))
    return full
