"""Values as users write them: on the command line, in a YAML, and as paths below their own folder."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from msd_framework.errors import ConfigError, Problem

# what YAML may read as a number, as true or false, or as null; of any other text it could only take something away
SPECIAL = re.compile(r"~|(?!0\d)[\w.+-]*[A-Za-z0-9][\w.+-]*", re.ASCII)
NESTED = ("{", "[", '"', "'")  # how a value begins that is YAML: a mapping, a list, or a text in quotes
PATHS = re.compile(
    r"(^|\.)(save_dir|root|checkpoint|saliency|processors_from|load|base|includes|user_dir|folder|file|path|cache_dir|dir|store|out"
    r"|source|config|images|answers)(\[\d+\]|\.\w+)?$"
)  # keys whose values are paths
# the environment variables that a configuration may read, beside those that begin with `MSD_`: none holds a secret
ENVIRONMENT = frozenset({"HOME", "USER", "TMPDIR", "SCRATCH", "RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_JOB_ID"})


def parse_value(text: str) -> Any:
    """The value of a word ``key=value``: YAML if it begins with a bracket or a quote, or YAML takes it for a number, true,
    false or null; any other is a text as it stands. A ValueError is a part of a sentence.

    >>> parse_value("1e-4"), parse_value("runs/attempt #2"), parse_value("[full, image]"), parse_value("'1'")
    (0.0001, 'runs/attempt #2', ['full', 'image'], '1')
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("is not UTF-8") from error
    stripped = text.strip()
    try:
        if stripped.startswith(NESTED):
            if yaml.compose(stripped, Loader=yaml.SafeLoader).end_mark.index < len(stripped):
                raise ValueError("is not valid YAML: something stands behind its end")
            return _read(stripped)
        number = _read(stripped) if SPECIAL.fullmatch(stripped) else text
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise ValueError("is not valid YAML") from error
    except ValueError as error:
        if "digits" in str(error):
            raise ValueError("has a number of more than 4,300 digits") from error
        raise
    if not isinstance(number, str):
        return number
    try:
        OmegaConf.create({"value": text})
    except OmegaConfBaseException as error:
        raise ValueError("has a ${ that begins no interpolation such as ${env.save_dir}") from error
    return text


def _read(text: str) -> Any:
    read = OmegaConf.to_container(OmegaConf.create(f"value: {text}"), resolve=False)
    assert isinstance(read, dict)
    return read["value"]


def resolved(values: Any) -> Any:
    """Values with their interpolations filled in: ``runs/${name}``, and environment variables that a configuration may read."""
    _read_variables_by(_variable)
    try:
        return OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    finally:
        _read_variables_by(oc.env)


def _read_variables_by(function: Callable[..., Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 2.4 has another name for it, which means something else in 2.3
        OmegaConf.register_new_resolver("oc.env", function, replace=True)


def _variable(name: str, *default: Any) -> Any:
    """A variable's value; what is resolved is written to a run's folder, and variables hold passwords and tokens."""
    if name not in ENVIRONMENT and not name.startswith("MSD_"):
        known = f"{', '.join(sorted(ENVIRONMENT))} and those that begin with MSD_"
        raise ValueError(f"the environment variable {name} is not read, since it would be kept in config.yaml; {known} are")
    return oc.env(name, *default)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Puts texts in quotes that a configuration file would read as numbers: there, 1e5 is one."""


_EXPONENT = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+")
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def dump(values: Any) -> str:
    """A configuration as YAML that reads as the same values."""
    text: str = yaml.dump(listed(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def flow(value: Any) -> str:
    """A value on one line, as a YAML and the command line read it.

    >>> flow({"root": "a #2", "texts": ["x", "1e5"], "lr": 0.1, "label": None}), flow("a b")
    ("{root: 'a #2', texts: [x, '1e5'], lr: 0.1, label: null}", 'a b')
    """
    options = {"Dumper": _Dumper, "default_flow_style": True, "sort_keys": False, "width": 10**6, "allow_unicode": True}
    text: str = yaml.dump(listed(value), **options)
    return text.removesuffix("\n").removesuffix("\n...")


def listed(value: Any) -> Any:
    """A nest of values with tuples as lists and paths as texts, which YAML has no other word for."""
    if isinstance(value, Mapping):
        return {key: listed(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return list(map(listed, value))
    return str(value) if isinstance(value, PurePath) else value


def as_word(key: str, value: Any) -> str:
    """A word of the command line that gives a value, whatever it is: ``env.save_dir="[a] #2"``."""
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def join(at: str, key: Any) -> str:
    return f"{at}.{key}" if at else str(key)


def expand(value: Any, at: str = "") -> Any:
    """A nest of values under a key with ``~/`` and ``~user/`` at the front of texts filled in; views (``~text``) stay.

    A path that begins with ``$NAME`` is refused, as nothing fills it in.
    """
    if isinstance(value, Mapping):
        return {key: expand(one, join(at, key)) for key, one in value.items()}
    if isinstance(value, list):
        return [expand(one, f"{at}[{i}]") for i, one in enumerate(value)]
    return _expanded(value, at) if isinstance(value, str) else value


def _expanded(text: str, at: str) -> str:
    prefix, path = re.fullmatch(r"(lmdb:|hdf5:)?(.*)", text, re.DOTALL).groups(default="")  # type: ignore[union-attr]
    is_path = bool(PATHS.search(at))
    named = re.search(r"(^|/)\$(\w+)", path)
    if named and (is_path or (path.startswith("$") and named[2] in os.environ)):
        own = " For your own folder, write ~." if named[2] == "HOME" else ""
        raise ConfigError(Problem(at, f"{text!r} holds ${named[2]}, which is not filled in here; write the path itself.{own}"))
    if not re.match(r"~[^/]*/" if not is_path else "~", path):
        return text
    user = path.split("/")[0]
    try:
        return prefix + str(Path(user).expanduser()) + path[len(user) :]
    except RuntimeError as error:
        whose = f"there is no user {user[1:]!r}" if user[1:] else "the HOME of this user is not known"
        raise ConfigError(Problem(at, f"{text!r} is in a user's own folder, and {whose}; write the path itself.")) from error
