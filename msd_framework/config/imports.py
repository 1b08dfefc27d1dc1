"""A user's own modules, imported so that their components have names."""

from __future__ import annotations

import sys
import types
import zlib
from collections.abc import Sequence
from pathlib import Path

from msd_framework.components.registry import import_named, raised_at
from msd_framework.config.load import ROOT, SHARE
from msd_framework.errors import MSDError, Problem


def import_problems(modules: Sequence[str], folder: str | None) -> list[Problem]:
    """Imports modules by name, and all Python files of a folder that is looked for here and then among the project's files."""
    problems: list[Problem] = []
    for i, module in enumerate(modules):
        problems += _import(module, f"imports[{i}]")
    if folder is None:
        return problems
    place = next((base / folder for base in (Path(), ROOT, SHARE) if (base / folder).is_dir()), None)
    if place is None:
        return [*problems, Problem("user_dir", f"there is no folder {folder}.")]
    # a package of a name of its own, so that its files may import each other (from . import layers)
    package = types.ModuleType(f"msd_user_dir_{zlib.crc32(str(place.resolve()).encode()):08x}")
    package.__path__ = [str(place.resolve())]
    sys.modules.setdefault(package.__name__, package)
    for file in sorted(f.relative_to(place).with_suffix("") for f in place.rglob("*.py")):
        problems += _import(".".join([package.__name__, *file.parts]), "user_dir")
    return problems


def _import(module: str, at: str) -> list[Problem]:
    try:
        import_named(module)
    except MSDError as error:
        return [Problem(at, str(error))]
    except (Exception, SystemExit) as error:  # a module of a user's may raise anything, and end the program
        text = f"{module!r} cannot be imported: {raised_at(error)}"
        if isinstance(error, ModuleNotFoundError) and error.name is not None and module.startswith(error.name):
            text = f"there is no module {module!r}. Install it, or put its folder under `user_dir`."
        return [Problem(at, text)]
    return []
