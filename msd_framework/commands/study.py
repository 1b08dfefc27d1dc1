"""config=FILE [seeds=10 ...]: methods by seeds, compared."""

from __future__ import annotations

from collections.abc import Sequence

from msd_framework.analysis.study.run import run_study
from msd_framework.checks.words import take
from msd_framework.screen import put


def main(words: Sequence[str]) -> int:
    config, overrides = take(words, "config")
    if not run_study(config, overrides):
        put(f"{config}: nothing is wrong with it.")
    return 0
