"""YAML files and ``key=value`` words to one nest of values that knows where each of them was written."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from msd_framework.errors import ConfigError, Problem, did_you_mean

COMMAND_LINE = "command line"
ROOT = Path(__file__).parents[2]
SHARE = Path(sys.prefix) / "share" / "msd_framework"


@dataclass
class Source:
    """Values, and the place that each of them was written at.

    Args:
        values: a nest of mappings, lists and plain values.
        origins: ``file:line`` or ``command line`` by dotted key path.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def origin(self, path: str) -> str:
        """Where a key was written, or the nearest key above it; empty if nowhere."""
        while path:
            if path in self.origins:
                return self.origins[path]
            path = re.sub(r"(\.|^)[^.\[]+$|\[\d+\]$", "", path)
        return ""

    def overlay(self, over: Source) -> None:
        """Writes another source over this one.

        Mappings merge key by key; anything else is replaced, and so is a component whose `type` changes. Options over a
        component that was given by its name alone (``masker: noise``) are options of that component.
        """
        self.values = self._merge(self.values, over.values, "")
        self.origins |= over.origins

    def _merge(self, under: Any, over: Any, at: str) -> Any:
        if isinstance(under, str) and isinstance(over, Mapping) and "type" not in over:
            under = {"type": under}
        mappings = isinstance(under, Mapping) and isinstance(over, Mapping)
        if not mappings or ("type" in over and over["type"] != under.get("type", over["type"])):
            self._forget(at)
            return over
        merged = dict(under)
        for key, value in over.items():
            path = f"{at}.{key}" if at else str(key)
            merged[key] = self._merge(under[key], value, path) if key in under else value
        return merged

    def _forget(self, at: str) -> None:
        self.origins = {path: o for path, o in self.origins.items() if not path.startswith((f"{at}.", f"{at}["))}


def load(path: str | Path, overrides: Iterable[str] = ()) -> Source:
    """A configuration file over its bases, and the command line over both.

    Args:
        path: a YAML file; looked for here, then among the project's own files.
        overrides: words ``a.b=value`` whose values are YAML.

    Raises:
        ConfigError: if a file is missing or cannot be parsed, or a word is no ``key=value``.
    """
    source = read(find_file(str(path)), ())
    for word in overrides:
        source.overlay(parse_override(word))
    return source


def resolve(source: Source) -> Source:
    """The source with its interpolations (``${env.save_dir}``) filled in.

    Raises:
        ConfigError: if an interpolation names no key.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.create(source.values), resolve=True)
    except OmegaConfBaseException as error:
        path = str(error.full_key or "")
        text = " ".join(str(error.msg or error).split("\n")[0].split())
        raise ConfigError(located(Problem(path, f"the interpolation cannot be filled in: {text}."), source)) from error
    return Source(values, source.origins)  # type: ignore[arg-type]


def located(problem: Problem, source: Source) -> Problem:
    """The problem with the file and line in front of its key."""
    origin = source.origin(problem.path)
    return Problem(f"{origin}: {problem.path}" if origin and problem.path else problem.path or origin, problem.message)


def find_file(path: str) -> Path:
    """A configuration file, looked for from here, then in the checkout, then in what was installed.

    Raises:
        ConfigError: if it is nowhere, with the nearest name.
    """
    for base in (Path(), ROOT, SHARE):
        if (base / path).is_file():
            return base / path
    folder = next((b / Path(path).parent for b in (Path(), ROOT, SHARE) if (b / Path(path).parent).is_dir()), None)
    names = [p.name for p in folder.glob("*.yaml")] if folder else []
    raise ConfigError(f"config={path}: there is no such file.{did_you_mean(Path(path).name, names)}")


def read(path: Path, stack: tuple[Path, ...]) -> Source:
    """A YAML file over the files that its `base:` (or `includes:`) names, relative to it.

    Raises:
        ConfigError: if a file is missing, is no YAML mapping, or includes itself.
    """
    if path.resolve() in stack:
        raise ConfigError(f"{path}: includes itself, through {' -> '.join(p.name for p in (*stack, path))}.")
    own = parse(path)
    source = Source()
    for key in ("base", "includes"):
        bases = own.values.pop(key, [])
        for base in [bases] if isinstance(bases, str) else bases or []:
            source.overlay(read(_base(path, base, own.origins.get(key, str(path))), (*stack, path.resolve())))
    source.overlay(own)
    return source


def parse(path: Path) -> Source:
    """One YAML file alone."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = OmegaConf.to_container(OmegaConf.create(text), resolve=False) if node is not None else {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not a UTF-8 text: {error}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: is not valid YAML: {getattr(error, 'problem', None) or error}.") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: is not valid: {str(error.msg or error).splitlines()[0]}.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: wanted a mapping of options, got a {type(values).__name__}.")
    origins = {at: f"{path}:{line}" for at, line in _lines(node)} if node is not None else {}
    return Source({str(k): v for k, v in values.items()}, origins)


def parse_override(word: str) -> Source:
    """One word of the command line, ``a.b=value``, whose value is YAML (``true``, ``null``, ``1e-4``, ``[a, b]``).

    Raises:
        ConfigError: if it is no ``key=value``, or its value no YAML.
    """
    key, equals, value = word.partition("=")
    if not equals or not key or not re.fullmatch(r"[\w.\-~+>]+", key):
        raise ConfigError(f"{COMMAND_LINE}: {word!r} is not of the form key=value, such as training.max_updates=100.")
    try:
        parsed = OmegaConf.to_container(OmegaConf.create(f"value: {value}" if value else "value: ''"), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{COMMAND_LINE}: {key}: the value {value!r} is not valid YAML. Put it in quotes.") from error
    assert isinstance(parsed, dict)
    values: Any = parsed["value"]
    for part in reversed(key.split(".")):
        values = {part: values}
    return Source(values, {key: COMMAND_LINE} | _flat(parsed["value"], key))


def _flat(value: Any, at: str) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {p: COMMAND_LINE for k, v in value.items() for p in (f"{at}.{k}", *_flat(v, f"{at}.{k}"))}
    return {}


def _base(path: Path, base: Any, origin: str) -> Path:
    if not isinstance(base, str):
        raise ConfigError(f"{origin}: base: wanted the path of a YAML file, got {base!r}.")
    found = path.parent / base
    if not found.is_file():
        hint = did_you_mean(found.name, [p.name for p in found.parent.glob("*.yaml")] if found.parent.is_dir() else [])
        raise ConfigError(f"{origin}: base: there is no file {found}.{hint}")
    return found


def _lines(node: Any, at: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = f"{at}.{key.value}" if at else str(key.value)
            yield path, key.start_mark.line + 1
            yield from _lines(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield f"{at}[{i}]", value.start_mark.line + 1
            yield from _lines(value, f"{at}[{i}]")
