"""Methods of a study that are another one with other values: every combination of a few alternatives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from msd_framework.config.structure import structure_problems, structured
from msd_framework.config.values import as_word
from msd_framework.errors import Problem, did_you_mean


@dataclass(frozen=True)
class GridConfig:
    """Alternatives of some options of a method."""

    of: str
    """The method that they are alternatives of."""
    over: dict[str, list[Any] | dict[str, Any]]
    """What each option may be, by its path in a run's YAML: a list, or values by the names that they are to have."""


@dataclass(frozen=True)
class Variant:
    """A method with other values."""

    of: str
    chosen: Mapping[str, tuple[str, Any]]  # the name and the value of each option that differs, by its path

    @property
    def name(self) -> str:
        """The method's name and those of the values, such as `msd-noise-instance-keep`."""
        return "-".join([self.of, *(name for name, _ in self.chosen.values())])

    @property
    def words(self) -> tuple[str, ...]:
        """What is set over the method's YAML, as on the command line."""
        return tuple(as_word(path, value) for path, (_, value) in self.chosen.items())


def variants(grids: Iterable[Mapping[str, Any]]) -> Iterator[Variant]:
    """All combinations of each grid.

    >>> grid = {"of": "msd", "over": {"masker": ["drop", "noise"], "objective.distill_weight": {"half": 0.5, "all": 1.0}}}
    >>> [variant.name for variant in variants([grid])]
    ['msd-drop-half', 'msd-drop-all', 'msd-noise-half', 'msd-noise-all']
    """
    for values in grids:
        grid = structured(values, GridConfig)
        alternatives = []
        for one in grid.over.values():
            named = one.items() if isinstance(one, Mapping) else [(name_of(value), value) for value in one]
            alternatives.append(named)
        for chosen in product(*alternatives):
            yield Variant(grid.of, dict(zip(grid.over, chosen)))


def grid_problems(grids: Iterable[Any], methods: Iterable[str]) -> list[Problem]:
    """What is wrong with the grids of a study that has these methods without them."""
    methods, problems = list(methods), []
    for i, grid in enumerate(grids):
        at = f"grid[{i}]"
        wrong = structure_problems(grid, GridConfig, at)
        if not wrong and grid["of"] not in methods:
            text = f"{grid['of']!r} is none of {', '.join(methods)}.{did_you_mean(grid['of'], methods)}"
            wrong.append(Problem(f"{at}.of", text))
        if not wrong:
            for path, values in grid["over"].items():
                if not values:
                    wrong.append(Problem(f"{at}.over.{path}", "wanted at least one alternative, got none."))
        problems += wrong
    if not problems:
        counts = Counter([*methods, *(variant.name for variant in variants(grids))])
        for name, count in sorted(counts.items()):
            if count > 1:
                text = f"two methods would be called {name!r}; give their values names of their own."
                problems.append(Problem("grid", text))
    return problems


def name_of(value: Any) -> str:
    """What a value is called in the name of a method.

    >>> name_of({"type": "instance", "saliency": {"type": "keep"}, "full_weight": 1.4}), name_of(["full", "text"]), name_of(None)
    ('instance-keep-1.4', 'full+text', 'none')
    """
    if isinstance(value, Mapping):
        return "-".join(map(name_of, value.values()))
    if isinstance(value, (list, tuple)):
        return "+".join(map(name_of, value))
    return re.sub(r"[^\w.+-]+", "_", "none" if value is None else str(value))
