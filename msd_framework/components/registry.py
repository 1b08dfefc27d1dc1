"""Names to classes: the registry of a kind of component, which stands beside the contract of that kind."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
import traceback
import types
from collections.abc import Callable, Collection, Mapping
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

from msd_framework.components.contract import OURS, broken, place, unfinished, written_at
from msd_framework.components.facts import agreed, named, narrowed
from msd_framework.components.options import Option, mismatch, options_of
from msd_framework.errors import ConfigError, MSDError, Problem, did_you_mean

T = TypeVar("T")

BY_CONTRACT: dict[type, Registry[Any]] = {}
"""Every registry by the class that its components extend."""


class Registry(Generic[T]):
    """Components of one kind, found by name.

    Nothing is imported until the first look-up, which imports all modules of the contract's package and then the installed
    entry points of the group ``msd_framework.<plural>``. A dotted name is imported as it is, with nothing registered.

    Args:
        contract: the class that its components extend. A constructor argument annotated with that class takes one of these
            components, nested in the YAML.
        usual: the name of a mapping that has no ``type``; none if it must say one.
        package: where components lie that stand above all others; none if in the contract's own package.
    """

    def __init__(self, kind: str, plural: str, contract: type, usual: str | None = None, package: str | None = None):
        self.kind, self.plural, self.contract, self.usual = kind, plural, contract, usual
        self.package = package or contract.__module__.rpartition(".")[0]
        BY_CONTRACT[contract] = self
        self._classes: dict[str, type[T]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator that makes a class buildable as ``type: <name>``."""

        def add(cls: type[T]) -> type[T]:
            known = self._classes.get(name)
            if known is not None and place(known) != place(cls):
                raise ConfigError(f"{self.kind} {name!r} is registered twice: by {place(known)} and by {place(cls)}. Rename one.")
            if wrong := self._misfit(cls):
                called = f"the class {cls.__qualname__} ({written_at(cls)})" if isinstance(cls, type) else f"{name!r}"
                raise ConfigError(f"{self.kind} {name!r}: {called} {wrong}")
            self._classes[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        self._discover()
        return sorted(self._classes)

    def name_of(self, component: T) -> str:
        """What a component is registered as; its class's dotted name if it is not."""
        return next((name for name in self.names() if self._classes[name] is type(component)), place(type(component)))

    def get(self, name: str, at: str = "") -> type[T]:
        if name in self.names():
            return self._classes[name]
        if "." in name:
            return self._import(name, at)
        known = f"Known: {', '.join(self.names())}. A module of your own must be listed under `imports:` or lie in `user_dir:`."
        raise ConfigError(Problem(at, f"no {self.kind} is named {name!r}.{did_you_mean(name, self.names())} {known}"))

    def check(self, spec: Any, at: str = "", facts: Collection[str] = (), context: Collection[str] = ()) -> list[Problem]:
        """Everything that is wrong with a component's part of a YAML, found without building it.

        Facts are names of options that the run fills in when the user does not, the context those that only the run can give.
        """
        at = at or self.kind
        try:
            name, given = split(spec, at, self)
            options = options_of(self.get(name, at))
        except ConfigError as error:
            return list(error.problems)
        problems = []
        settable = [n for n in options if n not in context]
        for key, value in given.items():
            if key in settable:
                problems += self._option_problems(options[key], value, f"{at}.{key}", facts, context)
            else:
                takes = f"It takes: {', '.join(settable) or 'none'}."
                problems.append(Problem(f"{at}.{key}", f"{name} has no such option.{did_you_mean(key, settable)} {takes}"))
        for key in settable:
            if options[key].required and key not in given and key not in facts:
                doc = f": {options[key].doc}" if options[key].doc else "."
                problems.append(Problem(f"{at}.{key}", f"{name} needs this option{doc}"))
        return problems

    def _option_problems(
        self, option: Option, value: Any, at: str, facts: Collection[str], context: Collection[str]
    ) -> list[Problem]:
        registry, container = nested(option.annotation)
        if registry is None:
            text = mismatch(value, option.annotation)
            return [Problem(at, text)] if text else []
        if value is None and (option.annotation is Any or type(None) in get_args(option.annotation)):
            return []
        if container is not None and not isinstance(value, container):
            return [Problem(at, f"wanted a {container.__name__} of {registry.kind}s, got {value!r}.")]
        problems = []
        for suffix, one in items(value, container):
            problems += registry.check(one, at + suffix, facts, context if registry is self else ())
        return problems

    def build(self, spec: Any, at: str = "", facts: Mapping[str, Any] | None = None, **context: Any) -> T:
        """Builds a component, ``name`` or ``{type: name, option: value, ...}``, and the components nested in it.

        Args:
            facts: values for options that the user left out. Those under ``modalities`` are known of one modality each:
                what is built for a modality (under its name in a mapping, or in an option such as ``image_encoder``) sees
                those of that modality alone, a model those of its modalities, and all those that no two modalities differ in.
            context: arguments that only the run can give, for components of this kind that take them.
        """
        at, facts = at or self.kind, facts or {}
        known, disputed = agreed(facts)
        problems = self.check(spec, at, {*known, *disputed}, context)
        if problems:
            raise ConfigError(*problems)
        name, given = split(spec, at, self)
        cls = self.get(name, at)
        options = options_of(cls)
        modalities_of = getattr(cls, "modalities_of", None)
        if modalities_of is not None:  # a model, which is for some of the modalities
            facts = narrowed(facts, modalities_of(given))
            known, disputed = agreed(facts)
        for option in options:
            if option in disputed and option not in given:
                problems.append(Problem(f"{at}.{option}", disputed[option]))
        if problems:
            raise ConfigError(*problems)
        arguments = {n: v for n, v in {**known, **context}.items() if n in options}
        for key, value in given.items():
            arguments[key] = map_nested(options[key], value, partial(self._nested, f"{at}.{key}", named(facts, key), context))
        try:
            built = cls(**arguments)
        except MSDError:
            raise
        except ValueError as error:
            raise ConfigError(Problem(at, str(error))) from error
        except Exception as error:  # a class of a user's may raise anything
            if cls.__module__.partition(".")[0] == OURS:
                raise
            raise ConfigError(Problem(at, f"{name} cannot be made: {raised_at(error)}")) from error
        if text := unfinished(built, self.contract):
            raise ConfigError(Problem(at, f"{name} ({written_at(cls)}) {text}"))
        return built

    def _nested(
        self, at: str, facts: Mapping[str, Any], context: Mapping[str, Any], registry: Registry[Any], spec: Any, suffix: str
    ) -> Any:
        own = narrowed(facts, [suffix.removeprefix(".")])  # of its modality, under whose name it stands
        return registry.build(spec, at + suffix, own, **(context if registry is self else {}))

    def _import(self, name: str, at: str) -> type[T]:
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(import_named(module), attribute)
        except MSDError:
            raise
        except (Exception, SystemExit) as error:  # a module of a user's may raise anything, and end the program
            raise ConfigError(Problem(at, f"{self.kind} {name!r} cannot be imported: {raised_at(error)}")) from error
        if wrong := self._misfit(found):
            where = f" It stands at {written_at(found)}." if isinstance(found, type) else ""
            raise ConfigError(Problem(at, f"{name} {wrong}{where}"))
        component: type[T] = found
        return component

    def _misfit(self, found: Any) -> str:
        """Why something is no component of this kind, as the end of a sentence: its base, or what it lacks; empty if it is."""
        if not isinstance(found, type):
            return f"is not a class but of type {type(found).__name__}."
        if issubclass(found, self.contract):
            return broken(found, self.contract)
        text = f"is no {self.kind}: it does not extend {place(self.contract)}."
        for contract, registry in BY_CONTRACT.items():
            if issubclass(found, contract):
                return f"{text} It is a {registry.kind}."
        return text

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True  # from here on: a module that is imported now may look names up
        try:
            package = importlib.import_module(self.package)
            for module in pkgutil.walk_packages(package.__path__, self.package + "."):
                importlib.import_module(module.name)
            for point in _installed().select(group=f"msd_framework.{self.plural}"):
                self.register(point.name)(_load(point))
        except BaseException:
            self._discovered = False
            raise


@cache
def _installed() -> Any:  # its type differs among the versions of Python
    """The entry points of all installed packages; the files are read once, and not once a registry."""
    return entry_points()


def import_named(module: str) -> types.ModuleType:
    """Imports a module that a user's own YAML names. It is found from the working directory as well, as with `python -m`."""
    look_here()
    return importlib.import_module(module)


def look_here() -> None:
    """Has modules found from the working directory from now on, after all others."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except MSDError:
        raise
    except (Exception, SystemExit) as error:  # a package of a user's may raise anything, and end the program
        package = f" of the installed package {point.dist.name}" if point.dist else ""
        text = f"the entry point {point.name} = {point.value} ({point.group}){package} cannot be loaded: {raised_at(error)}"
        raise ConfigError(text) from error


def raised_at(error: BaseException) -> str:
    """What was raised and where, as the end of a sentence: for modules that a user wrote."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}."
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "importlib" not in frame.filename and frame.filename != __file__:
            return f"{frame.filename}:{frame.lineno}: {text}."
    return f"{text}."


def split(spec: Any, at: str, registry: Registry[Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and isinstance(spec.get("type", registry.usual), str):
        return spec.get("type", registry.usual), {str(k): v for k, v in spec.items() if k != "type"}
    wanted = f"wanted a {registry.kind}: its name, or {{type: name, option: value}}; known: {', '.join(registry.names())}"
    raise ConfigError(Problem(at, f"{wanted}; got {spec!r}."))


def plain(spec: Any) -> dict[str, Any]:
    """A component's part of a YAML with its name always under `type`."""
    return {"type": spec} if isinstance(spec, str) else dict(spec)


def map_nested(option: Option, value: Any, change: Callable[[Registry[Any], Any, str], Any]) -> Any:
    """An option's value with each component in it changed, given its registry, part of the YAML and rest of the key path."""
    registry, container = nested(option.annotation)
    if registry is None or value is None:
        return value
    changed = [change(registry, one, suffix) for suffix, one in items(value, container)]
    if container is None:
        return changed[0]
    return dict(zip(value, changed)) if container is dict else changed


def nested(annotation: Any) -> tuple[Registry[Any] | None, type[dict[Any, Any]] | type[list[Any]] | None]:
    """The registry that an annotation takes components from, and whether it takes a dict or a list of them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        for choice in arguments:
            if nested(choice)[0] is not None:
                return nested(choice)
        return None, None
    if origin in (dict, Mapping):
        return nested(arguments[1])[0], dict
    if origin is list:
        return nested(arguments[0])[0], list
    return (BY_CONTRACT.get(annotation) if inspect.isclass(annotation) else None), None


def items(value: Any, container: Any) -> list[tuple[str, Any]]:
    """A value by itself, or, where it is a dict or a list, its items, each with what it adds to a key path."""
    if container not in (dict, list):
        return [("", value)]
    if isinstance(value, Mapping):
        return [(f".{k}", v) for k, v in value.items()]
    return [(f"[{i}]", v) for i, v in enumerate(value)]
