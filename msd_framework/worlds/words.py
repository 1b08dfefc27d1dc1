"""Words that several layouts share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Choice = TypeVar("Choice")


def lexicon(words: str) -> tuple[str, ...]:
    """The words of a text.

    >>> lexicon("big large")
    ('big', 'large')
    """
    return tuple(words.split())


NOUNS = lexicon("card picture photo thing post sketch scan print drawing page note sheet")
NUMBERS = lexicon("zero one two three four five six seven eight nine")
BIG = lexicon("big large high huge heavy giant tall grand")
SMALL = lexicon("small little low tiny light short slim petite")


def choose(options: Sequence[Choice], generator: np.random.Generator) -> Choice:
    """One of the options, at random."""
    return options[int(generator.integers(len(options)))]
