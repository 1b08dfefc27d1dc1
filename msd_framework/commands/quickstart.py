"""[project=emoji env.save_dir=PATH seeds=3 ...]: a teacher and three students on the made world or a project's data, in minutes."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path

from msd_framework.checks.words import parted
from msd_framework.commands import study
from msd_framework.config.load import ROOT, SHARE
from msd_framework.errors import ConfigError, Problem, did_you_mean

FILE = "configs/quickstart.yaml"


def main(words: Sequence[str]) -> int:
    mine, words = parted(words, lambda word: word.startswith("project="))
    if not mine:
        return study.main([f"config=projects/quickstart/{FILE}", *words])
    known = projects()
    name = mine[-1].partition("=")[2]
    if name not in known:
        text = f"there is no quickstart of {name!r}.{did_you_mean(name, known)} Projects that have one: {', '.join(sorted(known))}."
        raise ConfigError(Problem("project", text))
    config, prepare = known[name] / FILE, known[name] / "prepare.py"
    if prepare.is_file():
        # it brings the project's data, and says which of its studies what is there is enough for
        config = config.with_name(runpy.run_path(str(prepare))["prepare"]())
    return study.main([f"config={config}", *words])


def projects() -> dict[str, Path]:
    """The projects that have a quickstart, of the checkout or of what was installed; a folder of the user's own runs no code."""
    return {file.parents[1].name: file.parents[1] for base in (SHARE, ROOT) for file in base.glob(f"projects/*/{FILE}")}
