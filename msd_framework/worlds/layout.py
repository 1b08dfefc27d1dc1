"""What a layout promises: it draws rows of a made world and writes their index in a public format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from msd_framework.worlds.handwriting import Bank, GlyphBank
from msd_framework.worlds.write import write_json_lines


@dataclass(frozen=True)
class Split:
    """One split of a layout."""

    bank: Bank  # the handwriting that it uses
    size: int  # how many rows it has by default; 0 leaves it out


@dataclass(frozen=True)
class Recipe:
    """What a block of N rows is drawn from."""

    ids: range
    bank: GlyphBank
    mix: Mapping[str, float]  # the share of each kind of row; they sum to 1
    noise: float  # the standard deviation of the pixels' noise, in a range of 0 to 1
    label_noise: float  # the share of wrong labels
    generator: np.random.Generator


@dataclass(frozen=True)
class Drawn:
    """A block of N rows."""

    images: NDArray[np.uint8]  # [N, 16, 16, 3]
    records: Sequence[Mapping[str, Any]]  # a row each, as the public format has it
    oracle: Sequence[Mapping[str, Any]]  # what the generator alone knows of each row
    sounds: Sequence[NDArray[np.float32]] = ()  # [T] each, from -1 to 1


class Layout(ABC):
    """A public data set's task and files, filled with digit cards."""

    # its splits by the publisher's names
    splits: ClassVar[Mapping[str, Split]] = {"train": Split("train", 3000), "dev": Split("dev", 500), "test": Split("test", 2000)}
    mix: ClassVar[Mapping[str, float]]  # the kinds of row and the default share of each
    dataset: ClassVar[Mapping[str, Any]]  # what a run's `data.dataset` says to read it, beside its root
    images: ClassVar[str] = "img/{number}.png"  # the file of an image
    sounds: ClassVar[str] = ""  # the folder of its sounds, ``<id>.wav``; empty if it has none
    index: ClassVar[str] = "{split}.jsonl"  # the file of a split's records, a line each

    @abstractmethod
    def draw(self, recipe: Recipe) -> Drawn:
        """A block of rows, one an id of the recipe."""

    def write_index(self, folder: Path, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Writes all that the public format has beside the images, from the records of each split."""
        for split, lines in records.items():
            write_json_lines(lines, folder / self.index.format(split=split))


def rows_of(**columns: Iterable[Any]) -> list[dict[str, Any]]:
    """Rows of plain values from columns by name, which are equally long.

    >>> rows_of(id=range(2), label=np.array([1, 0]))
    [{'id': 0, 'label': 1}, {'id': 1, 'label': 0}]
    """
    plain = [values.tolist() if isinstance(values, np.ndarray) else values for values in columns.values()]
    return [dict(zip(columns, row)) for row in zip(*plain, strict=True)]


def draw_kinds(recipe: Recipe) -> list[str]:
    """The kind of each row, drawn from the mix."""
    kinds = list(recipe.mix)
    return [kinds[i] for i in recipe.generator.choice(len(kinds), len(recipe.ids), p=list(recipe.mix.values()))]


def spoil(labels: NDArray[np.int64], num_labels: int, share: float, generator: np.random.Generator) -> NDArray[np.int64]:
    """Labels int64 [N], a share of them replaced by another one at random; whatever the share is, as much chance is used up.

    >>> spoil(np.array([0, 1, 1]), 2, 1.0, np.random.default_rng(0)).tolist()
    [1, 0, 0]
    """
    wrong = generator.random(len(labels)) < share
    others = (labels + generator.integers(1, num_labels, len(labels))) % num_labels
    return np.where(wrong, others, labels)
