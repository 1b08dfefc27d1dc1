"""What a layout promises: it draws rows of a made world and writes their index in a public format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from msd_framework.worlds.handwriting import Bank, GlyphBank
from msd_framework.worlds.write import write_json_lines


@dataclass(frozen=True)
class Split:
    """One split of a layout.

    Args:
        bank: the handwriting that it uses.
        size: how many rows it has by default; 0 leaves it out.
    """

    bank: Bank
    size: int


@dataclass(frozen=True)
class Recipe:
    """What a block of rows is drawn from.

    Args:
        ids: N ids, one a row.
        bank: the handwriting.
        mix: the share of each kind of row; they sum to 1.
        noise: the standard deviation of the pixels' noise, in a range of 0 to 1.
        label_noise: the share of wrong labels.
        generator: the source of all chance.
    """

    ids: range
    bank: GlyphBank
    mix: Mapping[str, float]
    noise: float
    label_noise: float
    generator: np.random.Generator


@dataclass(frozen=True)
class Drawn:
    """A block of N rows.

    Args:
        images: uint8 [N, 16, 16, 3].
        records: a row each, as the public format has it.
        oracle: what the generator alone knows of each row.
        sounds: float32 [T] each, from -1 to 1; empty in a layout without sounds.
    """

    images: NDArray[np.uint8]
    records: Sequence[Mapping[str, Any]]
    oracle: Sequence[Mapping[str, Any]]
    sounds: Sequence[NDArray[np.float32]] = ()


class Layout(ABC):
    """A public data set's task and files, filled with digit cards."""

    splits: ClassVar[Mapping[str, Split]]
    """Its splits by the publisher's names."""

    mix: ClassVar[Mapping[str, float]]
    """The kinds of row and the default share of each."""

    sounds: ClassVar[str] = ""
    """The folder of its sounds, ``<id>.wav``; empty if it has none."""

    dataset: ClassVar[Mapping[str, Any]]
    """What a run's `data.dataset` says to read it, beside its root."""

    index: ClassVar[str] = "{split}.jsonl"
    """The file of a split's records, a line each."""

    @abstractmethod
    def draw(self, recipe: Recipe) -> Drawn:
        """A block of rows, one an id of the recipe."""

    @abstractmethod
    def image_path(self, split: str, number: int) -> str:
        """Where the image of the row with this id lies, under the world's folder."""

    def write_index(self, folder: Path, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Writes all that the public format has beside the images, from the records of each split."""
        for split, lines in records.items():
            write_json_lines(lines, folder / self.index.format(split=split))


def draw_kinds(recipe: Recipe) -> list[str]:
    """The kind of each row, drawn from the mix."""
    kinds = list(recipe.mix)
    return [kinds[i] for i in recipe.generator.choice(len(kinds), len(recipe.ids), p=list(recipe.mix.values()))]


def spoil(labels: NDArray[np.int64], num_labels: int, share: float, generator: np.random.Generator) -> NDArray[np.int64]:
    """The labels, a share of them replaced by another one at random.

    Args:
        labels: int64 [N], from 0 to C - 1.
        num_labels: C.
        share: the probability that a label is replaced.
        generator: the source of chance; it moves on by as much whatever the share is.

    Returns:
        int64 [N].

    Examples:
        >>> spoil(np.array([0, 1, 1]), 2, 1.0, np.random.default_rng(0)).tolist()
        [1, 0, 0]
    """
    wrong = generator.random(len(labels)) < share
    others = (labels + generator.integers(1, num_labels, len(labels))) % num_labels
    return np.where(wrong, others, labels)
