"""Experiments: measurements that are neither a run nor a comparison of runs, with a table of what came out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from msd_framework.components.registry import Registry

Row: TypeAlias = Mapping[str, float | str]
"""A line of the table that an experiment makes, by column."""


class Experiment(ABC):
    """Measures something over seeds. Its constructor reads nothing: what cannot work is refused there, before anything is run."""

    @abstractmethod
    def run(self, seeds: Sequence[int], folder: Path) -> list[Row]:
        """The rows of its table, all with the same columns; the folder is for what is more than a table."""

    def draw(self, rows: Sequence[Row], path: Path) -> bool:
        """Draws the rows that `run` returned as a PNG; returns whether there is a picture."""
        return False


# experiments train and evaluate, so ours stand above all that they use, which must not import them
EXPERIMENTS: Registry[Experiment] = Registry("experiment", "experiments", Experiment, package="msd_framework.analysis.mfh")
