"""config=FILE [split=validation ...]: what each modality is to a run's teacher, and which one decides an example."""

from __future__ import annotations

from collections.abc import Sequence

from msd_framework.analysis.saliency.scores import run_saliency
from msd_framework.checks.words import take


def main(words: Sequence[str]) -> int:
    run_saliency(*take(words, "config"))
    return 0
