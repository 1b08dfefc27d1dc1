"""Digit cards as MM-IMDB: the genres of a film, from its plot and from a poster of up to four digits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from msd_framework.files import write_text
from msd_framework.worlds.cards import PLAIN_INKS, draw_poster
from msd_framework.worlds.layout import Drawn, Layout, Recipe, Split
from msd_framework.worlds.words import lexicon


@dataclass(frozen=True)
class Genre:
    """A genre of the made films; the genre with index g shows as the digit g on the poster.

    Args:
        share: how common it is, among all genres of all films.
        in_plot: how likely its words are in the plot of a film that has it.
        on_poster: how likely its digit is on the poster.
        words: eight words that no other genre has.
    """

    share: float
    in_plot: float
    on_poster: float
    words: tuple[str, ...]


def _genre(share: float, in_plot: float, on_poster: float, words: str) -> Genre:
    return Genre(share, in_plot, on_poster, lexicon(words))


GENRES = {
    "Drama": _genre(0.35, 0.9, 0.1, "grief betrayal memory regret sacrifice hospital inheritance marriage"),
    "Comedy": _genre(0.25, 0.9, 0.1, "prank joke mishap disguise clumsy roommate laughter party"),
    "Romance": _genre(0.20, 0.9, 0.1, "love kiss wedding heart letter summer dance proposal"),
    "Thriller": _genre(0.25, 0.1, 0.95, "conspiracy stalker ransom secret witness blackmail paranoia chase"),
    "Crime": _genre(0.20, 0.1, 0.95, "heist detective gangster murder police robbery cartel prison"),
    "Action": _genre(0.20, 0.1, 0.95, "explosion fight soldier bomb mercenary gun rescue revenge"),
    "Horror": _genre(0.20, 0.6, 0.7, "ghost haunted curse demon zombie blood cemetery scream"),
    "Documentary": _genre(0.15, 0.6, 0.7, "interview archive footage history climate record science truth"),
    "Adventure": _genre(0.15, 0.6, 0.7, "treasure jungle expedition map island voyage ruins quest"),
    "Family": _genre(0.15, 0.6, 0.7, "puppy school grandmother holiday toy friendship magic birthday"),
}
"""Three genres that the text tells, three that the image tells, four that both tell, none for certain."""

GENRES_PER_FILM = sum(genre.share for genre in GENRES.values())
"""How many genres a film has on average, before it is made to have at least 1 and at most 4."""

MOST_GENRES = 4
PLOT_LENGTH = 12
STRAY_WORD = 0.5
"""How often a plot has a word of a random genre."""

STRAY_DIGIT = 0.25
"""How often an empty quarter of the poster shows a random digit."""

COMMON_WORDS = lexicon(
    "young old small quiet lonely busy town city night day year house road story life world friend stranger man woman child team "
    "boss plan trip job car train phone river street office morning winter home meets finds leaves returns begins"
)


class MmImdbLayout(Layout):
    """``dataset/<7 digits>.json`` with its ``.jpeg``, and ``split.json``.

    Its kinds are its genres: a share says how common one is among all genres of all films.
    """

    splits: ClassVar[Mapping[str, Split]] = {"train": Split("train", 3000), "dev": Split("dev", 500), "test": Split("test", 2000)}
    dataset: ClassVar[Mapping[str, Any]] = {"type": "mm_imdb"}
    mix: ClassVar[Mapping[str, float]] = {name: genre.share / GENRES_PER_FILM for name, genre in GENRES.items()}

    def draw(self, recipe: Recipe) -> Drawn:
        generator, size = recipe.generator, len(recipe.ids)
        films = _draw_genres(size, [recipe.mix.get(name, 0.0) for name in GENRES], generator)  # [N, 10]
        in_plot = films & (generator.random(films.shape) < [genre.in_plot for genre in GENRES.values()])
        on_poster = films & (generator.random(films.shape) < [genre.on_poster for genre in GENRES.values()])
        digits = _lay_out(on_poster, generator)
        inks = generator.integers(0, len(PLAIN_INKS), digits.shape)
        images = draw_poster(digits, inks, recipe.bank, recipe.noise, generator)
        plots = [_plot(genres, generator) for genres in in_plot]
        labels = films ^ (generator.random(films.shape) < recipe.label_noise)
        labels = np.where(labels.any(axis=1, keepdims=True), labels, films)  # every film keeps a genre
        return Drawn(
            images,
            records=[
                {"id": number, "film": {"title": f"Film {number}", "plot": [plot], "genres": _names(genres), "year": 2000}}
                for number, plot, genres in zip(recipe.ids, plots, labels)
            ],
            oracle=[
                {
                    "id": f"{number:07d}",
                    "genres": _names(films[i]),
                    "in_plot": _names(in_plot[i]),
                    "on_poster": _names(on_poster[i]),
                }
                for i, number in enumerate(recipe.ids)
            ],
        )

    def image_path(self, split: str, number: int) -> str:
        return f"dataset/{number:07d}.jpeg"

    def write_index(self, folder: Path, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        for row in (row for rows in records.values() for row in rows):
            write_text(folder / f"dataset/{row['id']:07d}.json", json.dumps(row["film"]))
        numbers = {split: [f"{row['id']:07d}" for row in rows] for split, rows in records.items()}
        write_text(folder / "split.json", json.dumps(numbers))


def _names(genres: NDArray[np.bool_]) -> list[str]:
    return [name for name, has in zip(GENRES, genres) if has]


def _draw_genres(size: int, mix: Sequence[float], generator: np.random.Generator) -> NDArray[np.bool_]:
    """Which genres each film has, at least 1 and at most 4: bool [N, 10]."""
    wanted = generator.random((size, len(mix))) < np.minimum(1, GENRES_PER_FILM * np.array(mix))
    only = generator.choice(len(mix), size, p=mix)
    wanted[np.arange(size), only] |= ~wanted.any(axis=1)
    order = np.where(wanted, generator.random(wanted.shape), np.inf).argsort(axis=1).argsort(axis=1)
    return wanted & (order < MOST_GENRES)


def _lay_out(on_poster: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.int64]:
    """The digit in each quarter of the poster, -1 for none: int64 [N, 4]."""
    shown_first = (~on_poster + generator.random(on_poster.shape)).argsort(axis=1)[:, :4]  # [N, 4]
    shown = np.take_along_axis(on_poster, shown_first, axis=1)
    stray = np.where(generator.random(shown.shape) < STRAY_DIGIT, generator.integers(0, len(GENRES), shown.shape), -1)
    return generator.permuted(np.where(shown, shown_first, stray), axis=1)


def _plot(in_plot: NDArray[np.bool_], generator: np.random.Generator) -> str:
    """Twelve words in any order: one or two of each genre that the plot tells, perhaps a stray one, and common ones."""
    lexicons = [genre.words for genre in GENRES.values()]
    words = [lexicons[g][w] for g in np.flatnonzero(in_plot) for w in generator.integers(0, 8, generator.integers(1, 3))]
    if generator.random() < STRAY_WORD:
        words.append(lexicons[generator.integers(len(lexicons))][generator.integers(8)])
    words += [COMMON_WORDS[w] for w in generator.integers(0, len(COMMON_WORDS), PLOT_LENGTH - len(words))]
    return " ".join(words[i] for i in generator.permutation(PLOT_LENGTH))
