"""studies=[FILE, ...] [kind=differences out=FILE] or pages=[PAGE, ...]: tables of studies, from their summary.json."""

from __future__ import annotations

from collections.abc import Sequence

from msd_framework.analysis.study.tables import tables
from msd_framework.checks.words import read_words
from msd_framework.config.load import locating


def main(words: Sequence[str]) -> int:
    source = read_words(words, tables)
    with locating(source):
        tables(**source.values)
    return 0
