"""A finding of the doctor's, as a sentence, and how its tables show sizes and shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MOST_NAMES = 3  # of a long list, in a sentence


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a run, or good to know of it."""

    where: str  # a key of the configuration, or a part of the run
    got: str
    wanted: str = ""
    do: str = ""
    is_fault: bool = True  # has to be mended before a run

    def __str__(self) -> str:
        text = f"{self.got}; wanted {self.wanted}" if self.wanted else self.got.rstrip(".")
        text += "" if text.endswith("?") else "."
        text = f"{self.where}: {text}" if self.where else text
        return f"{text} {self.do}" if self.do else text


def listed(names: Sequence[Any]) -> str:
    """The first of some names, and how many more there are: a, b, c and 1 more."""
    more = len(names) - MOST_NAMES
    return ", ".join(map(str, names[:MOST_NAMES])) + (f" and {more} more" if more > 0 else "")


def sizes(shape: Sequence[int]) -> str:
    """The shape of a tensor, such as `4 x 10 x 8`."""
    return " x ".join(map(str, shape))


def percent(value: float | None) -> str:
    """A share; empty where there is none.

    >>> percent(0.25), percent(0.0001), percent(None)
    ('25.0 %', '1e-02 %', '')
    """
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if value >= 5e-4 or value == 0 else f"{100 * value:.0e} %"
