"""Names to classes, one registry a kind of component."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pkgutil
import sys
import traceback
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from msd_framework.errors import ConfigError, MSDError, Problem, did_you_mean
from msd_framework.options import Option, mismatch, options_of, type_name

if TYPE_CHECKING:
    from msd_framework.analysis.experiment import Experiment
    from msd_framework.callbacks.base import Callback
    from msd_framework.data.base import MultimodalDataset, Processor
    from msd_framework.engine.optim import OptimizerRecipe, Schedule
    from msd_framework.losses.base import DistillationLoss, FeatureLoss, TaskLoss
    from msd_framework.maskers.base import Masker
    from msd_framework.metrics.base import Metric
    from msd_framework.models.base import Encoder, MultimodalModel
    from msd_framework.modulation.base import GradientModulation
    from msd_framework.objectives.base import Objective
    from msd_framework.objectives.features import FeatureTerm
    from msd_framework.saliency.base import Saliency
    from msd_framework.teachers.ensemble import Combination
    from msd_framework.weighting.base import WeightingStrategy

T = TypeVar("T")

OURS = "msd_framework"


class Registry(Generic[T]):
    """Components of one kind, found by name.

    Nothing is imported until the first look-up, which imports the modules of the package and then the installed
    entry points of the group ``msd_framework.<plural>``. A dotted name is imported as it is, with nothing registered.

    Args:
        kind: what one of its components is called, such as ``masker``.
        package: the package whose modules register themselves.
        contract: the dotted name of the class that its components extend. A constructor argument annotated with that
            class takes one of these components, nested in the YAML.
        usual: the name of a mapping that has no ``type``; none if it must say one.
    """

    def __init__(self, kind: str, package: str, contract: str, usual: str | None = None):
        self.kind, self.package, self.contract, self.usual = kind, package, contract, usual
        self._classes: dict[str, type[T]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator that makes a class buildable as ``type: <name>``.

        Raises:
            ConfigError: if another class has the name; both places are named. If it is no component of this kind: with its
                place and what it lacks.
        """

        def add(cls: type[T]) -> type[T]:
            known = self._classes.get(name)
            if known is not None and _place(known) != _place(cls):
                raise ConfigError(f"{self.kind} {name!r} is registered twice: by {_place(known)} and by {_place(cls)}. Rename one.")
            if wrong := self._misfit(cls):
                called = f"the class {cls.__qualname__} ({_written_at(cls)})" if isinstance(cls, type) else f"{name!r}"
                raise ConfigError(f"{self.kind} {name!r}: {called} {wrong}")
            self._classes[name] = cls
            return cls

        return add

    @property
    def group(self) -> str:
        """The plural of the kind, such as ``maskers``."""
        return next(plural for plural, registry in REGISTRIES.items() if registry is self)

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        self._discover()
        return sorted(self._classes)

    def name_of(self, component: T) -> str:
        """What a component is registered as; its class's dotted name if it is not.

        >>> from msd_framework.losses.logits import SoftenedKL
        >>> DISTILLATION_LOSSES.name_of(SoftenedKL())
        'kl'
        """
        return next((name for name in self.names() if self._classes[name] is type(component)), _place(type(component)))

    def get(self, name: str, at: str = "") -> type[T]:
        """The class of a registered or dotted name.

        Raises:
            ConfigError: if there is none, with the nearest name.
        """
        if name in self.names():
            return self._classes[name]
        if "." in name:
            return self._import(name, at)
        known = f"Known: {', '.join(self.names())}. A module of your own must be listed under `imports:` or lie in `user_dir:`."
        raise ConfigError(Problem(at, f"no {self.kind} is named {name!r}.{did_you_mean(name, self.names())} {known}"))

    def check(self, spec: Any, at: str = "", facts: Collection[str] = (), context: Collection[str] = ()) -> list[Problem]:
        """Everything that is wrong with a component's part of a YAML, found without building it.

        Args:
            spec: ``name`` or ``{type: name, option: value, ...}``.
            at: the key path of the part.
            facts: names of options that the run fills in when the user does not.
            context: names of arguments that only the run can give.
        """
        at = at or self.kind
        try:
            name, given = split(spec, at, self)
            cls = self.get(name, at)
            options = options_of(cls)
        except ConfigError as error:
            return list(error.problems)
        problems = []
        for key, value in given.items():
            if key in context or key not in options:
                settable = [n for n in options if n not in context]
                hint = did_you_mean(key, settable)
                problems.append(
                    Problem(f"{at}.{key}", f"{name} has no such option.{hint} It takes: {', '.join(settable) or 'none'}.")
                )
            else:
                problems += check_option(options[key], value, f"{at}.{key}", facts, context, self)
        missing = [n for n, o in options.items() if o.required and n not in given and n not in facts and n not in context]
        problems += [
            Problem(f"{at}.{n}", f"{name} needs this option{': ' + options[n].doc if options[n].doc else '.'}") for n in missing
        ]
        return problems

    def build(self, spec: Any, at: str = "", facts: Mapping[str, Any] | None = None, **context: Any) -> T:
        """Builds a component, and the components nested in it.

        Args:
            spec: ``name`` or ``{type: name, option: value, ...}``.
            at: the key path of the part, for errors.
            facts: values for options that the user left out. Those under ``modalities`` are known of one modality each:
                what is built for a modality (under its name in a mapping, or in an option such as ``image_encoder``) sees
                those of that modality alone, a model those of its modalities, and all those that no two modalities differ in.
            context: arguments that only the run can give; those that the constructor does not take are ignored.

        Raises:
            ConfigError: with everything that is wrong, or with what the constructor refused.
        """
        at, facts = at or self.kind, facts or {}
        problems = self.check(spec, at, {name for told in agreed(facts) for name in told}, context)
        if problems:
            raise ConfigError(*problems)
        name, given = split(spec, at, self)
        cls = self.get(name, at)
        options = options_of(cls)
        modalities_of = getattr(cls, "modalities_of", None)  # a model, which is for some of the modalities
        facts = narrowed(facts, modalities_of(given)) if modalities_of else facts
        known, disputed = agreed(facts)
        problems = [Problem(f"{at}.{n}", disputed[n]) for n in options if n in disputed and n not in given]
        if problems:
            raise ConfigError(*problems)
        arguments = {n: v for n, v in known.items() if n in options}
        arguments |= {n: build_option(options[n], v, f"{at}.{n}", named(facts, n), context, self) for n, v in given.items()}
        arguments |= {n: v for n, v in context.items() if n in options}
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
        if text := _unfinished(built, self.contract):
            raise ConfigError(Problem(at, f"{name} ({_written_at(cls)}) {text}"))
        return built

    def _import(self, name: str, at: str) -> type[T]:
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(import_named(module), attribute)
        except MSDError:
            raise
        except (Exception, SystemExit) as error:  # a module of a user's may raise anything, and end the program
            raise ConfigError(Problem(at, f"{self.kind} {name!r} cannot be imported: {raised_at(error)}")) from error
        if wrong := self._misfit(found):
            where = f" It stands at {_written_at(found)}." if isinstance(found, type) else ""
            raise ConfigError(Problem(at, f"{name} {wrong}{where}"))
        component: type[T] = found
        return component

    def _misfit(self, found: Any) -> str:
        """Why something is no component of this kind, as the end of a sentence: its base, or what it lacks; empty if it is."""
        if not isinstance(found, type):
            return f"is not a class but of type {type(found).__name__}."
        contract = next((base for base in found.__mro__ if _place(base) == self.contract), None)
        if contract is None:
            others = [r for r in REGISTRIES.values() if any(_place(base) == r.contract for base in found.__mro__)]
            text = f"is no {self.kind}: it does not extend {self.contract}."
            return text + f" It is a {others[0].kind}." if others else text
        lacking = sorted(getattr(found, "__abstractmethods__", ()))
        if lacking:
            methods = f"method{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
            hint = did_you_mean(lacking[0], [name for name in vars(found) if name not in dir(contract)])
            return f"lacks the {methods}, which {self.contract} asks for.{hint and f'{hint} Rename it.'}"
        unset = [name for name in _class_variables(contract) if not hasattr(found, name)]
        if unset:
            return f"does not say {', '.join(unset)}, as a class of {self.contract} must. Set {unset[0]} = ... in the class."
        for text in (*map(partial(_other_method, found, contract), vars(contract)), _other_value(found, contract)):
            if text:
                return text
        return _ignored(found, contract)

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True  # from here on: a module that is imported now may look names up
        try:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__, self.package + "."):
                importlib.import_module(module.name)
            for point in entry_points(group=f"msd_framework.{self.group}"):
                self.register(point.name)(_load(point))
        except BaseException:
            self._discovered = False
            raise


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
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename and f.filename != __file__]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {text}." if frames else f"{text}."


def split(spec: Any, at: str, registry: Registry[Any]) -> tuple[str, dict[str, Any]]:
    """The name and the options of a component's part of a YAML."""
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and isinstance(spec.get("type", registry.usual), str):
        return spec.get("type", registry.usual), {str(k): v for k, v in spec.items() if k != "type"}
    wanted = f"wanted a {registry.kind}: its name, or {{type: name, option: value}}; known: {', '.join(registry.names())}"
    raise ConfigError(Problem(at, f"{wanted}; got {spec!r}."))


def plain(spec: Any) -> dict[str, Any]:
    """A component's part of a YAML with its name always under `type`.

    >>> plain("noise")
    {'type': 'noise'}
    """
    return {"type": spec} if isinstance(spec, str) else dict(spec)


def check_option(
    option: Option, value: Any, at: str, facts: Collection[str], context: Collection[str], owner: Registry[Any]
) -> list[Problem]:
    """What is wrong with an option's value, nested components included; only those of the owner's kind share its context."""
    registry, container = nested(option.annotation)
    if registry is None:
        text = mismatch(value, option.annotation)
        return [Problem(at, text)] if text else []
    context = context if registry is owner else ()
    if value is None and accepts_none(option.annotation):
        return []
    if container is None:
        return registry.check(value, at, facts, context)
    if not isinstance(value, container):
        return [Problem(at, f"wanted a {container.__name__} of {registry.kind}s, got {value!r}.")]
    return [p for key, v in items(value) for p in registry.check(v, at + key, facts, context)]


def build_option(
    option: Option, value: Any, at: str, facts: Mapping[str, Any], context: Mapping[str, Any], owner: Registry[Any]
) -> Any:
    """An option's value with the components nested in it built; only those of the owner's kind share its context."""
    registry, container = nested(option.annotation)
    if registry is None or value is None:
        return value
    context = context if registry is owner else {}
    if container is None:
        return registry.build(value, at, facts, **context)
    if container is dict:
        return {k: registry.build(v, f"{at}.{k}", narrowed(facts, [k]), **context) for k, v in value.items()}
    return [registry.build(v, at + key, facts, **context) for key, v in items(value)]


def narrowed(facts: Mapping[str, Any], modalities: Iterable[str]) -> Mapping[str, Any]:
    """Facts without those of other modalities; as they are, if nothing is known of any of these.

    >>> narrowed({"seed": 0, "modalities": {"text": {"vocab_size": 9}, "title": {"vocab_size": 7}}}, ["text"])
    {'seed': 0, 'modalities': {'text': {'vocab_size': 9}}}
    """
    known = facts.get("modalities", {})
    kept = {m: known[m] for m in modalities if m in known}
    return {**facts, "modalities": kept} if kept else facts


def named(facts: Mapping[str, Any], option: str) -> Mapping[str, Any]:
    """The facts for an option, narrowed if it begins with a modality's name, as `image_encoder` does."""
    return narrowed(facts, [m for m in facts.get("modalities", {}) if option.startswith(f"{m}_")])


def agreed(facts: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What is known whatever the modality, and a sentence on each fact that modalities differ in.

    >>> agreed({"seed": 0, "modalities": {"text": {"pad_id": 0, "vocab_size": 9}, "title": {"pad_id": 0, "vocab_size": 7}}})
    ({'seed': 0, 'pad_id': 0}, {'vocab_size': 'must be given: that of text is 9 and that of title is 7.'})
    """
    known, disputed = {n: v for n, v in facts.items() if n != "modalities"}, {}
    told: dict[str, dict[str, Any]] = {}
    for modality, found in facts.get("modalities", {}).items():
        for name, value in found.items():
            told.setdefault(name, {})[modality] = value
    for name, values in told.items():
        first = next(iter(values.values()))
        if all(value == first for value in values.values()):
            known[name] = first
        else:
            disputed[name] = f"must be given: {' and '.join(f'that of {m} is {v}' for m, v in values.items())}."
    return known, disputed


def nested(annotation: Any) -> tuple[Registry[Any] | None, type[dict[Any, Any]] | type[list[Any]] | None]:
    """The registry that an annotation takes components from, and whether it takes a dict or a list of them."""
    if get_origin(annotation) in (Union, types.UnionType):
        found = [nested(a) for a in get_args(annotation)]
        return next((f for f in found if f[0] is not None), (None, None))
    if get_origin(annotation) in (dict, Mapping):
        return nested(get_args(annotation)[1])[0], dict
    if get_origin(annotation) is list:
        return nested(get_args(annotation)[0])[0], list
    if not inspect.isclass(annotation):
        return None, None
    contract = f"{annotation.__module__}.{annotation.__qualname__}"
    return next((r for r in REGISTRIES.values() if r.contract == contract), None), None


def accepts_none(annotation: Any) -> bool:
    """Whether an annotation has None among its types."""
    return annotation is Any or type(None) in get_args(annotation)


def items(value: Any) -> list[tuple[str, Any]]:
    """The items of a list or mapping, each with what it adds to a key path."""
    if isinstance(value, Mapping):
        return [(f".{k}", v) for k, v in value.items()]
    return [(f"[{i}]", v) for i, v in enumerate(value)]


def _place(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _written_at(cls: type) -> str:
    """File and line of a class; the name of its module where it has no file."""
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return cls.__module__


def _class_variables(contract: type) -> list[str]:
    """What each class of a contract must say itself."""
    declared = inspect.get_annotations(contract)
    return [name for name, annotation in declared.items() if "ClassVar" in str(annotation) and not hasattr(contract, name)]


def _other_value(found: type, contract: type) -> str:
    """What a class says that is not of its contract's type, such as a text for a set; empty if nothing."""
    try:
        hints = get_type_hints(contract)
    except NameError:  # of what is imported for annotations alone
        return ""
    for name, hint in hints.items():
        value: Any = getattr(found, name, None)
        if get_origin(hint) is not ClassVar or value is getattr(contract, name, None) or isinstance(value, property):
            continue
        (wanted,) = get_args(hint)
        parts = get_args(wanted) if get_origin(wanted) in (Union, types.UnionType) else (wanted,)
        text = ""
        if get_origin(wanted) in (frozenset, tuple) and get_origin(member := get_args(wanted)[0]) is Literal:
            is_group = isinstance(value, (frozenset, set, tuple, list))
            text = f"wanted a set of {type_name(member)}, got {value!r}."
            text = next(filter(None, (mismatch(one, member) for one in value)), "") if is_group else text
        elif wanted is bool or {get_origin(part) or part for part in parts} <= {Literal, type(None)}:
            text = mismatch(value, wanted)
        if text:
            return f"says {name}: {text}"
    return ""


def _unfinished(built: Any, contract: str) -> str:
    """What the constructor of a component has left undone; empty if nothing."""
    if hasattr(built, "register_buffer") and "_modules" not in vars(built):  # a module of torch
        return "does not call super().__init__(). Its __init__ must, before all else."
    bases = [base for base in type(built).__mro__ if _place(base) == contract]
    declared: dict[str, Any] = inspect.get_annotations(bases[0]) if bases else {}
    wanted = [name for name, annotation in declared.items() if "ClassVar" not in str(annotation) and "None" not in str(annotation)]
    unset = [name for name in wanted if not hasattr(built, name)]
    return f"does not set {', '.join(f'self.{name}' for name in unset)}. Its __init__ must." if unset else ""


def _plain_function(method: Any) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(method, "fget", None) or getattr(method, "__func__", method)
    return function


def _other_method(found: type, contract: type, name: str) -> str:
    """How a class writes a method of its contract in a way that it cannot be called in; empty if it can, or if it is no method."""
    wanted, written = inspect.getattr_static(contract, name), inspect.getattr_static(found, name)
    if written is wanted or not isinstance(wanted, (classmethod, types.FunctionType)) or name.startswith("_"):
        return ""
    if isinstance(wanted, classmethod) and not isinstance(written, (classmethod, staticmethod)):
        return f"has a method {name} that must be a @classmethod."
    if not isinstance(written, type(wanted)):
        return ""
    theirs, own = (inspect.signature(_plain_function(method)) for method in (wanted, written))  # with self or cls
    given = [p for p in theirs.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
    try:
        own.bind(*given)
    except TypeError:
        return (
            f"has a method {name} that is called with ({', '.join(p.name for p in given)}) and takes ({', '.join(own.parameters)})."
        )
    return ""


def _ignored(found: type, contract: type) -> str:
    """What a user's class has under a name that nothing asks for, once part of its contract or nearly so; empty if nothing."""
    bases = [base for base in found.__mro__ if issubclass(base, contract)]
    own, ours = [], dict[str, Any]()
    for base in bases:
        if base.__module__.partition(".")[0] == OURS:
            ours |= {**inspect.get_annotations(base), **vars(base)}
        else:
            own.append(base)
    written = {name: value for base in own for name, value in vars(base).items()}
    asked = {word for value in written.values() for word in _names_in(getattr(_plain_function(value), "__code__", None))}
    renamed: Mapping[str, str] = getattr(contract, "renamed", {})
    for name in sorted(written):
        if name in renamed:
            return f"has {name}, which nothing asks for any more: write {renamed[name]} in its place."
        if name.startswith("_") or name in ours or name in asked:
            continue
        left = [known for known in ours if known not in written and not known.startswith("_")]
        near = difflib.get_close_matches(name, left, n=1, cutoff=0.85)
        hooks = [known for known in left if known.startswith("on_") and name.startswith("on_")]
        if near or hooks:
            wanted = f"Did you mean {near[0]!r}?" if near else f"It may have {', '.join(hooks)}."
            return f"has {name}, which nothing asks for. {wanted} Rename it, or begin its name with an underscore."
    return ""


def _names_in(code: types.CodeType | None) -> set[str]:
    """Every name that a function asks something for, those of functions within it included."""
    inner = [one for one in code.co_consts if isinstance(one, types.CodeType)] if code else []
    return set(code.co_names if code else ()).union(*map(_names_in, inner))


MODELS: Registry[MultimodalModel] = Registry("model", "msd_framework.models", "msd_framework.models.base.MultimodalModel")
ENCODERS: Registry[Encoder] = Registry("encoder", "msd_framework.models", "msd_framework.models.base.Encoder")
MASKERS: Registry[Masker] = Registry("masker", "msd_framework.maskers", "msd_framework.maskers.base.Masker")
TASK_LOSSES: Registry[TaskLoss] = Registry("task loss", "msd_framework.losses", "msd_framework.losses.base.TaskLoss")
DISTILLATION_LOSSES: Registry[DistillationLoss] = Registry(
    "distillation loss", "msd_framework.losses", "msd_framework.losses.base.DistillationLoss"
)
FEATURE_LOSSES: Registry[FeatureLoss] = Registry("feature loss", "msd_framework.losses", "msd_framework.losses.base.FeatureLoss")
SALIENCIES: Registry[Saliency] = Registry("saliency", "msd_framework.saliency", "msd_framework.saliency.base.Saliency")
WEIGHTINGS: Registry[WeightingStrategy] = Registry(
    "weighting", "msd_framework.weighting", "msd_framework.weighting.base.WeightingStrategy"
)
MODULATIONS: Registry[GradientModulation] = Registry(
    "modulation", "msd_framework.modulation", "msd_framework.modulation.base.GradientModulation"
)
OBJECTIVES: Registry[Objective] = Registry("objective", "msd_framework.objectives", "msd_framework.objectives.base.Objective")
FEATURE_TERMS: Registry[FeatureTerm] = Registry(
    "feature term", "msd_framework.objectives", "msd_framework.objectives.features.FeatureTerm", usual="feature"
)
COMBINATIONS: Registry[Combination] = Registry(
    "combination", "msd_framework.teachers", "msd_framework.teachers.ensemble.Combination"
)
DATASETS: Registry[MultimodalDataset] = Registry("dataset", "msd_framework.data", "msd_framework.data.base.MultimodalDataset")
PROCESSORS: Registry[Processor] = Registry("processor", "msd_framework.data", "msd_framework.data.base.Processor")
METRICS: Registry[Metric] = Registry("metric", "msd_framework.metrics", "msd_framework.metrics.base.Metric")
CALLBACKS: Registry[Callback] = Registry("callback", "msd_framework.callbacks", "msd_framework.callbacks.base.Callback")
OPTIMIZERS: Registry[OptimizerRecipe] = Registry("optimizer", "msd_framework.engine", "msd_framework.engine.optim.OptimizerRecipe")
SCHEDULERS: Registry[Schedule] = Registry("scheduler", "msd_framework.engine", "msd_framework.engine.optim.Schedule")
EXPERIMENTS: Registry[Experiment] = Registry(
    "experiment", "msd_framework.analysis.mfh", "msd_framework.analysis.experiment.Experiment"
)

REGISTRIES: dict[str, Registry[Any]] = {
    "models": MODELS,
    "encoders": ENCODERS,
    "maskers": MASKERS,
    "task_losses": TASK_LOSSES,
    "distillation_losses": DISTILLATION_LOSSES,
    "feature_losses": FEATURE_LOSSES,
    "saliencies": SALIENCIES,
    "weightings": WEIGHTINGS,
    "modulations": MODULATIONS,
    "objectives": OBJECTIVES,
    "combinations": COMBINATIONS,
    "feature_terms": FEATURE_TERMS,
    "datasets": DATASETS,
    "processors": PROCESSORS,
    "metrics": METRICS,
    "callbacks": CALLBACKS,
    "optimizers": OPTIMIZERS,
    "schedulers": SCHEDULERS,
    "experiments": EXPERIMENTS,
}
"""Every registry by the plural of its kind, which is also the name of its entry-point group."""
