"""Numbers that must lie in a range: each is refused in a sentence with its name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any


def positive(**values: float | None) -> None:
    """Refuses what is not a finite number above 0; None is let through."""
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0, got {value}.")


def not_negative(**values: float | None) -> None:
    """Refuses what is not a finite number of 0 or more; None is let through."""
    for name, value in values.items():
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name} must be 0 or more, got {value}.")


def below_one(**values: float) -> None:
    """Refuses what is not a share of 0 or more that is below 1."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be 0 or more and below 1, got {value}.")


LARGEST = 2**31 - 1  # size of anything in a model
MOST_WORDS = 2**24  # of a vocabulary, ten times those published: an embedding has a row for each id up to the largest
DEEPEST = 1000  # the most layers of a model


def too_large(options: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, int]]:
    """Whole numbers among the options of a model, at any depth, that no model has, by key path."""
    for key, value in options.items():
        most = most_of(str(key))
        if isinstance(value, Mapping):
            yield from too_large(value, f"{at}{key}.")
        elif isinstance(value, (list, tuple)):
            yield from too_large({f"{key}[{i}]": inner for i, inner in enumerate(value)}, at)
        elif isinstance(value, int) and value > most:
            yield f"{at}{key}", value


def most_of(name: str) -> int:
    """The largest number that a size of this name may be."""
    return DEEPEST if re.search(r"(layers?|depths?|blocks)(\[\d+\])*$", name) else LARGEST
