"""YAML files and ``key=value`` words to one nest of values that knows where each of them was written."""

from __future__ import annotations

import os
import re
import reprlib
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from msd_framework.config.schema import RunConfig
from msd_framework.config.values import as_word, expand, join, listed, parse_value, resolved
from msd_framework.errors import ConfigError, DataError, Problem, did_you_mean
from msd_framework.reading import read_text

MOST_VALUES = 100_000  # of a file, aliases filled in: a few lines of them can stand for more than fits into memory
LONGEST_SHOWN = 200  # the longest value that a sentence repeats as a whole
KEY = re.compile(r"[^\s.\[\]{}:-][^\s.\[\]{}:]*(\.[^\s.\[\]{}:]+)*")  # a dotted key
COMMAND_LINE = "command line"
DEFAULT = "default"
ROOT = Path(__file__).parents[2]
SHARE = Path(sys.prefix) / "share" / "msd_framework"


@dataclass
class Source:
    """A nest of values, and the place that each was written at: ``file:line``, ``command line`` or ``default`` by key path."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def origin(self, path: str) -> str:
        """Where a key was written, or a key inside it, or the nearest key above it; empty if nowhere."""
        inside = (o for p, o in self.origins.items() if p.startswith(f"{path}."))
        while path:
            if path in self.origins:
                return self.origins[path]
            if found := next(inside, ""):  # a.b=1 on the command line wrote `a` as well
                return found
            path = re.sub(r"(\.|^)[^.\[]+$|\[\d+\]$", "", path)
        return ""

    def overlay(self, over: Source) -> None:
        """Writes another source over this one: mappings key by key; all else is replaced, as is a component of another type."""
        self.values = self._merge(self.values, over.values, "")
        self.origins |= over.origins

    def _merge(self, under: Any, over: Any, at: str) -> Any:
        if isinstance(under, str) and isinstance(over, Mapping) and "type" not in over:  # options of masker: noise
            under = {"type": under}
            self.origins[f"{at}.type"] = self.origins.get(at, "")
        both_mappings = isinstance(under, Mapping) and isinstance(over, Mapping)
        if not both_mappings or over.get("type", under.get("type")) != under.get("type"):
            self.origins = {path: o for path, o in self.origins.items() if not path.startswith((f"{at}.", f"{at}["))}
            return over
        merged = dict(under)
        for key, value in over.items():
            merged[key] = self._merge(under[key], value, join(at, key)) if key in under else value
        return merged


Config: TypeAlias = str | Path | Mapping[str, Any]
"""A YAML file, or what one would hold: nested mappings, such as a `DictConfig` of OmegaConf."""

Overrides: TypeAlias = Iterable[str] | Mapping[str, Any]
"""Words ``a.b=value`` whose values are YAML, or values by key: ``{"a.b": value}``."""


def load(config: Config, overrides: Overrides = (), schema: type = RunConfig) -> Source:
    """A configuration over its bases, and the command line over both.

    The components that the schema names by default lie below the file, so that options alone (``optimizer.lr=1e-4``) are
    theirs, and so do defaults that are filled in from other keys.
    """
    source = _defaults(schema)
    if isinstance(config, Mapping):
        layers = _with_bases(_expanded(_from_values(config, "config")), Path("config"), ())
    else:
        layers = read(find_file(str(config)), ())
    for layer in (*layers, *parse_overrides(overrides)):
        source.overlay(layer)
    return source


def resolve(source: Source) -> Source:
    """The source with its interpolations (``${env.save_dir}``) filled in."""
    try:
        values = resolved(source.values)
    except OmegaConfBaseException as error:
        problem = Problem(str(error.full_key or ""), f"the interpolation cannot be filled in: {_first_line(error)}.")
        raise ConfigError(located(problem, source)) from error
    assert isinstance(values, dict)
    return Source({str(k): v for k, v in values.items()}, source.origins)


def located(problem: Problem, source: Source) -> Problem:
    """The problem with the place that its key was written at in front of it."""
    origin = source.origin(problem.path)
    if origin in ("", DEFAULT):
        return problem
    # a file's section may be spoiled by an option that is written over it
    words = [path for path, place in source.origins.items() if place == COMMAND_LINE and path.startswith(f"{problem.path}.")]
    if words and origin != COMMAND_LINE:
        origin = f"{origin}, with {' and '.join(words)} of the {COMMAND_LINE}"
    return Problem(f"{origin}: {problem.path}", problem.message)


def refuse(problems: Iterable[Problem], source: Source) -> None:
    """Raises all problems, if there are any, each with the place that its key was written at."""
    if problems := dict.fromkeys(problems):
        raise ConfigError(*(located(problem, source) for problem in problems))


@contextmanager
def locating(source: Source) -> Iterator[None]:
    """Adds to every problem that is raised inside the place that its key was written at."""
    try:
        yield
    except ConfigError as error:
        refuse(error.problems, source)


def find_file(path: str) -> Path:
    """A configuration file, looked for from here, then in the checkout, then in what was installed."""
    names: list[str] = []
    for base in (Path(), ROOT, SHARE):
        place = base / str(expand(path, "config"))
        if place.is_file():
            return place
        names += [file.name for file in place.parent.glob("*.yaml")]
    raise ConfigError(Problem("config", f"there is no file {path}.{did_you_mean(Path(path).name, names)}"))


def read(path: Path, stack: tuple[Path, ...]) -> list[Source]:
    """A YAML file and the files that its `base:` (or `includes:`) names, each to be written over those before it."""
    if path.resolve() in stack:
        chain = " -> ".join(p.name for p in (*stack, path))
        raise ConfigError(f"{path}: includes itself, through {chain}. Take one of these bases out.")
    return _with_bases(parse(path), path, (*stack, path.resolve()))


def _with_bases(own: Source, path: Path, stack: tuple[Path, ...]) -> list[Source]:
    below: list[Source] = []
    for key in ("base", "includes"):
        origin = own.origin(key)
        named = own.values.pop(key, None) or []
        for name in named if isinstance(named, list) else [named]:
            below += read(_base(path, name, origin), stack)
    for layer in below:
        layer.values.pop("expected", None)  # is what a base's own options come to
    return [*below, own]


def parse(path: Path) -> Source:
    """What a file says, with the line of each key."""
    try:
        text = read_text(path)
    except DataError as error:
        raise ConfigError(f"{error}.") from error
    found = _parsed(path, text)
    return _expanded(Source(deepcopy(found.values), dict(found.origins)))


@lru_cache(maxsize=256)
def _parsed(path: Path, text: str) -> Source:
    """The same; a base of many files, or a file that is asked about twice, is parsed once."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if _size(node, {}) > MOST_VALUES:
            raise ConfigError(f"{path}: its aliases (*name) stand for more than {MOST_VALUES:,} values. Write out what is meant.")
        values = OmegaConf.to_container(OmegaConf.create(text), resolve=False) if node is not None else {}
    except ConfigError:
        raise
    except RecursionError as error:
        text = "is nested too deep, or without end: an alias (*name) stands inside what it names."
        raise ConfigError(f"{path}: {text}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        text = (getattr(error, "problem", None) or str(error).splitlines()[0]).removesuffix(".")
        hint = " Indent with spaces, not tabs." if r"\t" in text else ""
        raise ConfigError(f"{path}{line}: is not valid YAML: {text}.{hint}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: is not valid: {_first_line(error)}.") from error
    except ValueError as error:  # a number of thousands of digits, a date that is none
        raise ConfigError(f"{path}: holds a value that cannot be read: {str(error).partition(';')[0]}.") from error
    if not isinstance(values, dict) or isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"{path}: wanted a mapping of options, `key: value` on each line, got {values!r:.60}.")
    origins = {at: f"{path}:{line}" for at, line in _lines(node)}
    return Source({str(k): v for k, v in values.items()}, origins)


def _from_values(values: Mapping[str, Any], origin: str) -> Source:
    try:
        config = values if OmegaConf.is_config(values) else OmegaConf.create(dict(values))
        held = listed(OmegaConf.to_container(config, resolve=False, enum_to_str=True))
    except OmegaConfBaseException as error:
        raise ConfigError(Problem(f"{origin}: {error.full_key}", f"{_first_line(error)}.")) from error
    plain = {str(key): value for key, value in held.items()}
    return Source(plain, dict.fromkeys(_keys(plain, ""), origin))


def parse_overrides(words: Overrides) -> list[Source]:
    """The words of a command line, or values by key, in order."""
    if isinstance(words, Mapping):
        values = _from_values(words, COMMAND_LINE).values
        return [_override(key, value, repr(key)) for key, value in values.items()]
    if isinstance(words, str):
        raise ConfigError(f"overrides: wanted a list of words such as [{words!r}], or a dict, got a text.")
    layers: list[Source] = []
    problems: list[Problem] = []
    for word in words:
        try:
            layers.append(parse_override(word))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return layers


def parse_override(word: str) -> Source:
    """One word of the command line, ``a.b=value``, whose value is YAML (``true``, ``null``, ``1e-4``, ``[a, b]``) or a text."""
    key, equals, value = word.partition("=")
    if not equals or not KEY.fullmatch(key):
        raise _no_key(key, repr(word))
    try:
        parsed = parse_value(value)
    except ValueError as error:
        quoted = f" A text is given in quotes: {shlex.quote(as_word(key, value))}"
        items = re.fullmatch(r"\[([^\[\]{}'\"]+)\]", value.strip())
        if items and " #" in value:
            texts = [text.strip() for text in items[1].split(",")]
            quoted = f" A list of such texts is {shlex.quote(as_word(key, texts))}.{quoted}"
        if "${" in value or "UTF-8" in str(error) or len(value) > LONGEST_SHOWN:
            quoted = ""  # would be no better so
        raise ConfigError(f"{COMMAND_LINE}: {key}: the value {reprlib.repr(value)} {error}.{quoted}") from error
    return _override(key, parsed, repr(word))


def _override(key: str, value: Any, written: str) -> Source:
    if not KEY.fullmatch(key):
        raise _no_key(key, written)
    values = value
    for part in reversed(key.split(".")):
        values = {part: values}
    return _expanded(Source(values, dict.fromkeys([key, *_keys(value, key)], COMMAND_LINE)))


def _no_key(key: str, written: str) -> ConfigError:
    hint = " A list is given as a whole, such as objective.views=[full, image]." if "[" in key else ""
    return ConfigError(f"{COMMAND_LINE}: {written} is not of the form key=value, such as training.max_updates=100.{hint}")


def _defaults(schema: type) -> Source:
    """What lies below every file: names of components, whose options alone may be given, and what is filled in from other keys."""
    source = Source()
    for f in fields(schema):
        if isinstance(f.default, str):
            source.values[f.name] = f.default
            source.origins[f.name] = DEFAULT
            continue
        section: Any = f.default_factory
        for inner in fields(section) if is_dataclass(section) else ():
            if "${" in str(inner.default):
                source.values.setdefault(f.name, {})[inner.name] = inner.default
                source.origins[f"{f.name}.{inner.name}"] = DEFAULT
    return source


def _expanded(source: Source) -> Source:
    with locating(source):
        return Source(expand(source.values), source.origins)


def _base(path: Path, name: Any, origin: str) -> Path:
    if not isinstance(name, str):
        raise ConfigError(f"{origin}: base: wanted the path of a YAML file, got {name!r}.")
    beside = Path(os.path.normpath(path.parent / name))
    if beside.is_file():
        return beside
    try:
        return find_file(name)
    except ConfigError as error:
        hint = did_you_mean(beside.name, [p.name for p in beside.parent.glob("*.yaml")])
        raise ConfigError(f"{origin}: base: there is no file {beside}.{hint}") from error


def _keys(value: Any, at: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield join(at, key)
            yield from _keys(inner, join(at, key))


def _lines(node: Any, at: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = join(at, key.value)
            yield path, key.start_mark.line + 1
            yield from _lines(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield f"{at}[{i}]", value.start_mark.line + 1
            yield from _lines(value, f"{at}[{i}]")


def _size(node: Any, known: dict[int, int]) -> int:
    """How many values a part of a YAML file stands for; those of an alias count wherever it stands."""
    if id(node) not in known:
        known[id(node)] = 1
        inner: list[Any] = []
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner += [key, value]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        known[id(node)] = 1 + sum(_size(one, known) for one in inner)
    return known[id(node)]


def _first_line(error: OmegaConfBaseException) -> str:
    return " ".join(str(error.msg or error).split("\n")[0].split())
