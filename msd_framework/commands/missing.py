"""runs=[FOLDER, ...] [split=test metric=auroc ...]: how well models do where examples lack a modality, a curve for each."""

from __future__ import annotations

from collections.abc import Sequence

from msd_framework.analysis.missing import missing
from msd_framework.checks.words import read_words
from msd_framework.config.load import locating


def main(words: Sequence[str]) -> int:
    source = read_words(words, missing)
    with locating(source):
        missing(**source.values)
    return 0
