"""A component's part of a YAML and the parts nested in it: gone through, and compared with another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from msd_framework.components.options import options_of
from msd_framework.components.registry import Registry, items, nested, split


@dataclass(frozen=True)
class Spec:
    """A component in a YAML, whose name and options are right.

    Args:
        path: its key path.
        registry: where its name is known.
        spec: what the YAML says.
    """

    path: str
    registry: Registry[Any]
    spec: Any

    @property
    def name(self) -> str:
        return split(self.spec, self.path, self.registry)[0]

    @property
    def options(self) -> dict[str, Any]:
        """The options that the YAML gives."""
        return split(self.spec, self.path, self.registry)[1]

    @property
    def cls(self) -> type[Any]:
        return self.registry.get(self.name, self.path)


def parts(registry: Registry[Any], spec: Any, at: str) -> Iterator[Spec]:
    """A component and all that are nested in it, the innermost first."""
    whole = Spec(at, registry, spec)
    for key, value in whole.options.items():
        inner, container = nested(options_of(whole.cls)[key].annotation)
        if inner is not None and value is not None:
            for suffix, one in [("", value)] if container is None else items(value):
                yield from parts(inner, one, f"{at}.{key}{suffix}")
    yield whole


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
    keys = ["type"] if mine["type"] != theirs["type"] else [k for k in mine if mine[k] != theirs[k]]
    return ", ".join(f"{k} is {mine[k]!r} here and {theirs[k]!r} there" for k in keys)


def complete(registry: Registry[Any], spec: Any) -> dict[str, Any]:
    """A component's part of a YAML with every option in it, nested components included."""
    name, given = split(spec, registry.kind, registry)
    full: dict[str, Any] = {"type": name}
    for key, option in options_of(registry.get(name)).items():
        value = given.get(key, None if option.required else option.default)
        inner, container = nested(option.annotation)
        if inner is None or value is None:
            full[key] = value
        else:
            built = [complete(inner, one) for _, one in ([("", value)] if container is None else items(value))]
            full[key] = built[0] if container is None else dict(zip(value, built)) if container is dict else built
    return full
