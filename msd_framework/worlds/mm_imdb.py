"""Digit cards as MM-IMDB: the genres of a film, from its plot and from a poster of up to four digits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, compress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from msd_framework.files import write_text
from msd_framework.views import FULL
from msd_framework.worlds.cards import PLAIN_INKS, draw_poster
from msd_framework.worlds.layout import Drawn, Layout, Recipe
from msd_framework.worlds.oracle import Posterior, label_saliency
from msd_framework.worlds.words import lexicon


@dataclass(frozen=True)
class Genre:
    """A genre of the made films; the genre with index g shows as the digit g on the poster."""

    share: float  # how common it is, among all genres of all films
    in_plot: float  # how likely its words are in the plot of a film that has it
    on_poster: float  # how likely its digit is on the poster
    words: tuple[str, ...]  # eight that no other genre has


# three genres that the text tells, three that the image tells, four that both tell, none for certain
GENRES = {
    "Drama": Genre(0.35, 0.9, 0.1, lexicon("grief betrayal memory regret sacrifice hospital inheritance marriage")),
    "Comedy": Genre(0.25, 0.9, 0.1, lexicon("prank joke mishap disguise clumsy roommate laughter party")),
    "Romance": Genre(0.20, 0.9, 0.1, lexicon("love kiss wedding heart letter summer dance proposal")),
    "Thriller": Genre(0.25, 0.1, 0.95, lexicon("conspiracy stalker ransom secret witness blackmail paranoia chase")),
    "Crime": Genre(0.20, 0.1, 0.95, lexicon("heist detective gangster murder police robbery cartel prison")),
    "Action": Genre(0.20, 0.1, 0.95, lexicon("explosion fight soldier bomb mercenary gun rescue revenge")),
    "Horror": Genre(0.20, 0.6, 0.7, lexicon("ghost haunted curse demon zombie blood cemetery scream")),
    "Documentary": Genre(0.15, 0.6, 0.7, lexicon("interview archive footage history climate record science truth")),
    "Adventure": Genre(0.15, 0.6, 0.7, lexicon("treasure jungle expedition map island voyage ruins quest")),
    "Family": Genre(0.15, 0.6, 0.7, lexicon("puppy school grandmother holiday toy friendship magic birthday")),
}
GENRES_PER_FILM = sum(genre.share for genre in GENRES.values())  # on average, before a film has at least 1 and at most 4
MOST_GENRES = 4
PLOT_LENGTH = 12
STRAY_WORD = 0.5  # how often a plot has a word of a random genre
STRAY_DIGIT = 0.25  # how often an empty quarter of the poster shows a random digit
COMMON_WORDS = lexicon(
    "young old small quiet lonely busy town city night day year house road story life world friend stranger man woman child team "
    "boss plan trip job car train phone river street office morning winter home meets finds leaves returns begins"
)


class MmImdbLayout(Layout):
    """``dataset/<7 digits>.json`` with its ``.jpeg``, and ``split.json``.

    Its kinds are its genres: a share says how common one is among all genres of all films.
    """

    dataset: ClassVar[Mapping[str, Any]] = {"type": "mm_imdb"}
    images: ClassVar[str] = "dataset/{number:07d}.jpeg"
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
        records, oracle = [], []
        for i, number in enumerate(recipe.ids):
            film = {"title": f"Film {number}", "plot": [plots[i]], "genres": _names(labels[i]), "year": 2000}
            records.append({"id": number, "film": film})
            told = {"in_plot": _names(in_plot[i]), "on_poster": _names(on_poster[i])}
            known: dict[str, Any] = {"id": f"{number:07d}", "genres": _names(films[i])}
            oracle.append(known | told)
        mix = [recipe.mix.get(name, 0.0) for name in GENRES]
        for row, posteriors in zip(oracle, GenreReader(mix).posteriors(words_of(plots), digits_of(digits))):
            row |= {"posteriors": posteriors, "saliency": label_saliency(posteriors, several=True)}
        return Drawn(images, records, oracle)

    def write_index(self, folder: Path, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        numbers: dict[str, list[str]] = {}
        for split, rows in records.items():
            numbers[split] = [f"{row['id']:07d}" for row in rows]
            for number, row in zip(numbers[split], rows):
                write_text(folder / f"dataset/{number}.json", json.dumps(row["film"]))
        write_text(folder / "split.json", json.dumps(numbers))


class GenreReader:
    r"""Reads how likely each genre is from a plot's words and a poster's digits, exactly.

    .. math::
        p(g \mid x) = \sum_{G \ni g} p(G \mid x), \qquad
        p(G \mid x) \propto p(G) \, p(\mathrm{words} \mid G) \, p(\mathrm{digits} \mid G)

    over the 385 sets G of 1 to 4 genres, with the factor alone that a view shows. Which of its eight words a genre shows, and where
    a word or a digit stands, tells nothing.

    Args:
        mix: how common each genre is, float [10].
    """

    def __init__(self, mix: Sequence[float]):
        few = [c for size in range(MOST_GENRES + 1) for c in combinations(range(len(GENRES)), size)]
        self.sets = np.zeros((len(few), len(GENRES)), bool)  # [S, 10], the empty one first
        for row, members in zip(self.sets, few):
            row[list(members)] = True
        self.prior = np.zeros(len(few))  # p(G)
        place = {members: i for i, members in enumerate(few)}
        wanted = np.minimum(1, GENRES_PER_FILM * np.array(mix))
        for size in range(len(GENRES) + 1):
            for drawn in combinations(range(len(GENRES)), size):
                share = float(np.prod(np.where(np.isin(range(len(GENRES)), drawn), wanted, 1 - wanted)))
                kept = list(combinations(drawn, min(size, MOST_GENRES)))  # of too many, any four
                for members in kept:
                    self.prior[place[members]] += share / len(kept)
        for genre, share in enumerate(mix):  # one of its own for a film without any
            self.prior[place[genre,]] += self.prior[0] * share
        self.prior[0] = 0
        self.in_plot = self._shown([genre.in_plot for genre in GENRES.values()])
        self.on_poster = self._shown([genre.on_poster for genre in GENRES.values()])

    def posteriors(self, words: NDArray[np.int64], digits: NDArray[np.int64]) -> Iterator[dict[str, Posterior]]:
        """For each film, by view, by genre; words and digits count how many of each genre there are, int64 [N, 10]."""
        image = self._of_each(digits, self._digits_given) @ self.on_poster.T  # float [N, S]
        text = self._of_each(words, self._words_given) @ self.in_plot.T
        found: dict[str, NDArray[np.float64]] = {}
        for view, likelihood in {FULL: image * text, "image": image, "text": text}.items():
            weights = likelihood * self.prior
            found[view] = (weights @ self.sets / weights.sum(1, keepdims=True)).clip(0, 1)  # [N, 10]
        for i in range(len(words)):
            yield {view: dict(zip(GENRES, p[i].tolist())) for view, p in found.items()}

    def _shown(self, chance: Sequence[float]) -> NDArray[np.float64]:
        """How likely the genres of each set show as those of each other set alone, float [S, S]."""
        has, shows = self.sets[:, None], self.sets[None]
        factors = np.where(has, np.where(shows, chance, 1 - np.array(chance)), ~shows)
        return np.array(factors.prod(-1), np.float64)

    def _of_each(self, counts: NDArray[np.int64], given: Callable[[NDArray[np.int64]], NDArray[np.float64]]) -> NDArray[np.float64]:
        """How likely each film's counts are if each set of genres shows, float [N, S]; what many films share is computed once."""
        distinct, of = np.unique(counts, axis=0, return_inverse=True)
        return np.stack(list(map(given, distinct)))[of.reshape(-1)]

    def _words_given(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """One or two words of each genre, as likely, and perhaps one of any genre beside them; float [S]."""

        def without_stray(own: NDArray[np.int64]) -> NDArray[np.float64]:
            return np.array(np.where(self.sets, np.isin(own, (1, 2)) / 2, own == 0).prod(-1), np.float64)

        strays = np.stack([without_stray(counts - one) for one in np.eye(len(GENRES), dtype=np.int64)])
        return np.array((1 - STRAY_WORD) * without_stray(counts) + STRAY_WORD * strays.mean(0), np.float64)

    def _digits_given(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Each genre once, and in each quarter that is left perhaps a digit of any genre; float [S]."""
        strays = counts - self.sets  # [S, 10]
        left = 4 - self.sets.sum(1)
        blank = left - strays.sum(1)
        ways = np.array([math.factorial(n) for n in range(5)])
        can_be = (strays >= 0).all(1) & (blank >= 0)
        orders = ways[left] / (ways[strays.clip(0, 4)].prod(1) * ways[blank.clip(0, 4)])
        chance = (STRAY_DIGIT / len(GENRES)) ** strays.sum(1).clip(0) * (1 - STRAY_DIGIT) ** blank.clip(0)
        return np.where(can_be, orders * chance, 0.0)


def words_of(plots: Sequence[str]) -> NDArray[np.int64]:
    """How many words of each genre each plot has, int64 [N, 10]."""
    genre_of = {word: i for i, genre in enumerate(GENRES.values()) for word in genre.words}
    counts = np.zeros((len(plots), len(GENRES)), np.int64)
    for row, plot in zip(counts, plots):
        for word in plot.split():
            if word in genre_of:
                row[genre_of[word]] += 1
    return counts


def digits_of(quarters: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many quarters show the digit of each genre, int64 [N, 10]."""
    return np.array((quarters[..., None] == np.arange(len(GENRES))).sum(1), np.int64)


def _names(genres: NDArray[np.bool_]) -> list[str]:
    return list(compress(GENRES, genres))


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
    words: list[str] = []
    for genre in np.flatnonzero(in_plot):
        words += np.take(lexicons[genre], generator.integers(0, 8, generator.integers(1, 3))).tolist()
    if generator.random() < STRAY_WORD:
        words.append(lexicons[generator.integers(len(lexicons))][generator.integers(8)])
    words += np.take(COMMON_WORDS, generator.integers(0, len(COMMON_WORDS), PLOT_LENGTH - len(words))).tolist()
    return " ".join(np.take(words, generator.permutation(PLOT_LENGTH)))
