"""Whether a class keeps the contract of its kind: its methods, what it must say itself, and what its constructor must set."""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from msd_framework.components.options import mismatch, type_name
from msd_framework.errors import did_you_mean

OURS = "msd_framework"


def broken(found: type, contract: type) -> str:
    """How a class that extends a contract breaks it, as the end of a sentence; empty if it keeps it."""
    lacking = sorted(getattr(found, "__abstractmethods__", ()))
    if lacking:
        methods = f"method{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
        hint = did_you_mean(lacking[0], [name for name in vars(found) if name not in dir(contract)])
        return f"lacks the {methods}, which {place(contract)} asks for.{hint and f'{hint} Rename it.'}"
    unset = []
    for name, annotation in inspect.get_annotations(contract).items():
        if "ClassVar" in str(annotation) and not hasattr(contract, name) and not hasattr(found, name):
            unset.append(name)
    if unset:
        return f"does not say {', '.join(unset)}, as a class of {place(contract)} must. Set {unset[0]} = ... in the class."
    for name in vars(contract):
        if text := _other_method(found, contract, name):
            return text
    return _other_value(found, contract) or _unknown_name(found, contract)


def unfinished(built: Any, contract: type) -> str:
    """What the constructor of a component has left undone; empty if nothing."""
    if hasattr(built, "register_buffer") and "_modules" not in vars(built):  # a module of torch
        return "does not call super().__init__(). Its __init__ must, before all else."
    unset = []
    for name, annotation in inspect.get_annotations(contract).items():
        if "ClassVar" not in str(annotation) and "None" not in str(annotation) and not hasattr(built, name):
            unset.append(f"self.{name}")
    return f"does not set {', '.join(unset)}. Its __init__ must." if unset else ""


def place(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def written_at(cls: type) -> str:
    """File and line of a class; the name of its module where it has no file."""
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return cls.__module__


def _other_value(found: type, contract: type) -> str:
    """A class variable that is not of its contract's type, such as a text for a set; empty if there is none."""
    for name, hint in get_type_hints(contract).items():
        value: Any = getattr(found, name, None)
        if get_origin(hint) is not ClassVar or value is getattr(contract, name, None) or isinstance(value, property):
            continue
        if text := _no_choice(value, *get_args(hint)):
            return f"says {name}: {text}"
    return ""


def _no_choice(value: Any, wanted: Any) -> str:
    """Why a value is no truth, none of a few words, or no set of them; empty where it is, and where anything else is wanted."""
    member = get_args(wanted)[0] if get_origin(wanted) in (frozenset, tuple) else None
    if get_origin(member) is Literal:
        if not isinstance(value, (frozenset, set, tuple, list)):
            return f"wanted a set of {type_name(member)}, got {value!r}."
        for one in value:
            if text := mismatch(one, member):
                return text
        return ""
    choices = get_args(wanted) if get_origin(wanted) in (Union, types.UnionType) else (wanted,)
    is_choice = all(get_origin(choice) is Literal or choice is type(None) for choice in choices)
    return mismatch(value, wanted) if wanted is bool or is_choice else ""


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
    theirs, own = inspect.signature(_plain_function(wanted)), inspect.signature(_plain_function(written))  # with self or cls
    given = [p for p in theirs.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
    try:
        own.bind(*given)
    except TypeError:
        called = ", ".join(p.name for p in given)
        return f"has a method {name} that is called with ({called}) and takes ({', '.join(own.parameters)})."
    return ""


def _unknown_name(found: type, contract: type) -> str:
    """A name in a user's class that nothing uses, and that once was one of its contract or is nearly one; empty if none."""
    written, ours = dict[str, Any](), dict[str, Any]()
    for base in found.__mro__:
        if issubclass(base, contract) and base.__module__.partition(".")[0] == OURS:
            ours |= {**inspect.get_annotations(base), **vars(base)}
        elif issubclass(base, contract):
            written |= vars(base)
    used = set[str]()
    for value in written.values():
        used |= _names_in(getattr(_plain_function(value), "__code__", None))
    left = [known for known in ours if known not in written and not known.startswith("_")]
    renamed: Mapping[str, str] = getattr(contract, "renamed", {})
    for name in sorted(written):
        if name in renamed:
            return f"has {name}, which nothing asks for any more: write {renamed[name]} in its place."
        if name.startswith("_") or name in ours or name in used:
            continue
        near = difflib.get_close_matches(name, left, n=1, cutoff=0.85)
        hooks = [known for known in left if known.startswith("on_") and name.startswith("on_")]
        if near or hooks:
            wanted = f"Did you mean {near[0]!r}?" if near else f"It may have {', '.join(hooks)}."
            return f"has {name}, which nothing asks for. {wanted} Rename it, or begin its name with an underscore."
    return ""


def _names_in(code: types.CodeType | None) -> set[str]:
    """Every global and attribute that a function uses, those of functions within it included."""
    names = set(code.co_names) if code is not None else set()
    for constant in code.co_consts if code is not None else ():
        if isinstance(constant, types.CodeType):
            names |= _names_in(constant)
    return names
