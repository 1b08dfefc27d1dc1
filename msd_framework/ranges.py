"""Numbers that must lie in a range: each is refused in a sentence with its name."""

from __future__ import annotations

import math


def positive(**values: float | None) -> None:
    """Refuses what is not a finite number above 0; None is let through.

    Raises:
        ValueError: with the first of them.

    >>> positive(hidden_size=-4)
    Traceback (most recent call last):
    ...
    ValueError: hidden_size must be above 0, got -4.
    """
    _refuse({name: value for name, value in values.items() if value is not None and not 0 < value < math.inf}, "above 0")


def not_negative(**values: float | None) -> None:
    """Refuses what is not a finite number of 0 or more; None is let through.

    Raises:
        ValueError: with the first of them.
    """
    _refuse({name: value for name, value in values.items() if value is not None and not 0 <= value < math.inf}, "0 or more")


def below_one(**values: float) -> None:
    """Refuses what is not a share of 0 or more that is below 1.

    Raises:
        ValueError: with the first of them.
    """
    _refuse({name: value for name, value in values.items() if not 0 <= value < 1}, "0 or more and below 1")


def _refuse(wrong: dict[str, float], wanted: str) -> None:
    for name, value in wrong.items():
        raise ValueError(f"{name} must be {wanted}, got {value}.")
