"""config=FILE [key=value ...]: train, evaluate, predict or check, as run_type says; or an experiment."""

from __future__ import annotations

from collections.abc import Sequence

from msd_framework.analysis.experiment import is_experiment, run_experiment
from msd_framework.checks.words import take
from msd_framework.run import run
from msd_framework.screen import put


def main(words: Sequence[str]) -> int:
    config, overrides = take(words, "config")
    report = (run_experiment if is_experiment(config) else run)(config, overrides)
    if not report:
        put(f"{config}: nothing is wrong with it.")
    return 0
