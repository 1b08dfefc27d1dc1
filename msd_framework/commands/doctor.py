"""config=FILE [validation_rows=512 out=FILE ...]: whether teacher, student and data of a run fit, on one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msd_framework.analysis.doctor.examine import examine
from msd_framework.analysis.doctor.report import as_json, is_ok, show
from msd_framework.checks.words import own_options, take
from msd_framework.config.load import load, resolve
from msd_framework.errors import ConfigError, Problem
from msd_framework.files import write_json
from msd_framework.launch import launched

FILE = "doctor.json"


@dataclass(frozen=True)
class DoctorConfig:
    """What ``msd doctor`` takes beside the options of the run."""

    out: str | None = None
    """The file that it writes; `doctor.json` in the run's `env.save_dir` if null."""
    validation_rows: int = 512
    """Rows of the validation split, evenly spaced, that the teacher is scored on at most."""
    training_rows: int = 512
    """Rows of the training split, evenly spaced, that maskers and weightings learn their statistics from at most."""


def main(words: Sequence[str]) -> int:
    """Shows and writes what is right and wrong with a run's teachers and student; 1 if something has to be mended."""
    path, words = take(words, "config")
    options, _, of_run = own_options(words, DoctorConfig)
    for name in ("validation_rows", "training_rows"):
        if getattr(options, name) < 1:
            raise ConfigError(Problem(name, f"must be at least 1, got {getattr(options, name)}."))
    if launched().size > 1:
        raise ConfigError("msd doctor looks at one process: start it without torchrun.")
    source = resolve(load(path, of_run))
    out = Path(options.out or Path(source.values.get("env", {}).get("save_dir", ".")) / FILE)
    diagnosis, findings = examine(source, options.training_rows, options.validation_rows)
    show(diagnosis, findings)
    write_json(out, as_json(diagnosis, findings))
    return 0 if is_ok(findings) else 1
