"""Kinds of row whose label follows from a few signs, which their modalities show: what is drawn, and how often each occurs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd_framework.worlds.cards import INKS, PLAIN_INKS, RED, draw_card
from msd_framework.worlds.layout import Recipe, rows_of
from msd_framework.worlds.oracle import posteriors_of, saliency

IMAGE_SIGNS = ("low", "high", "low red", "high red")  # a digit below 5, or of 5 or more, in a plain ink or in red


@dataclass(frozen=True)
class Kind:
    """A way in which a row gets its label."""

    share: float  # of all rows by default
    label: int  # 0 or 1
    decided_by: str  # the modality that decides the label; ``both`` or ``all`` where only all of them do
    signs: Mapping[str, tuple[str, ...]]  # what each modality may show, each as likely; at most two


@dataclass(frozen=True)
class Kinds:
    """The kinds of a layout, and what each of its modalities can show as far as it has to do with the label."""

    signs: Mapping[str, tuple[str, ...]]
    kinds: Mapping[str, Kind]

    @property
    def mix(self) -> dict[str, float]:
        return {name: kind.share for name, kind in self.kinds.items()}

    def draw(self, drawn: Sequence[str], chance: Mapping[str, NDArray[np.int64]], generator: np.random.Generator) -> SignedRows:
        """Rows of N kinds, whose signs are chosen by 0 or 1 for each modality, int64 [N]."""
        signs = {}
        for modality, names in self.signs.items():
            shown = []
            for kind, choice in zip(drawn, chance[modality]):
                allowed = self.kinds[kind].signs[modality]
                shown.append(names.index(allowed[choice % len(allowed)]))
            signs[modality] = np.array(shown, np.int64)
        digits = 5 * (signs["image"] % 2) + generator.integers(0, 5, len(drawn))
        return SignedRows(self, drawn, signs, digits)

    def joint(self, mix: Mapping[str, float]) -> NDArray[np.float64]:
        r"""How often each combination of label and signs occurs: float64 [2, K_1, .., K_M], which sums to 1.

        .. math:: p(y, x_1, \ldots, x_M) = \sum_k p(k)\, [y = y_k]\, \prod_m p(x_m \mid k)

        with k the kind, whose share p(k) the mix tells, y the label, and :math:`x_m` the sign that modality m shows.
        """
        table = np.zeros((2, *map(len, self.signs.values())))
        for name, kind in self.kinds.items():
            shown = [list(map(names.index, kind.signs[m])) for m, names in self.signs.items()]
            table[np.ix_([kind.label], *shown)] += mix.get(name, 0.0) / np.prod(list(map(len, shown)))
        return table


@dataclass(frozen=True)
class SignedRows:
    """N rows whose label follows from signs."""

    of: Kinds
    kinds: Sequence[str]
    signs: Mapping[str, NDArray[np.int64]]  # [N] for each modality, indices into its signs
    digits: NDArray[np.int64]  # [N], from 0 to 9

    @property
    def labels(self) -> NDArray[np.int64]:
        """The true label of each, int64 [N]."""
        return np.array([self.of.kinds[kind].label for kind in self.kinds], np.int64)

    @property
    def decided_by(self) -> list[str]:
        return [self.of.kinds[kind].decided_by for kind in self.kinds]

    def posteriors(self, mix: Mapping[str, float]) -> dict[str, NDArray[np.float64]]:
        """The exact probability of label 1 given each view, float64 [N], for a reader who mistakes no digit, word or sound.

        Digit, ink, noun and frame say nothing more about the label than the signs do.
        """
        return posteriors_of(self.of.joint(mix), self.signs)

    def draw_cards(self, recipe: Recipe) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Their images, uint8 [N, 16, 16, 3], and the inks, int64 [N]."""
        plain = recipe.generator.integers(0, len(PLAIN_INKS), len(self.digits))
        inks = np.where(self.signs["image"] > 1, RED, plain)
        return draw_card(self.digits, inks, recipe.bank, recipe.noise, recipe.generator), inks

    def oracle(self, recipe: Recipe, inks: NDArray[np.int64], **shown: Sequence[object]) -> list[dict[str, Any]]:
        """What the generator alone knows of each row, with what else the layout tells of them."""
        probabilities = self.posteriors(recipe.mix)
        return rows_of(
            id=recipe.ids,
            kind=self.kinds,
            decided_by=self.decided_by,
            label=self.labels,
            **shown,
            ink=np.take(INKS, inks),
            digit=self.digits,
            posteriors=rows_of(**probabilities),
            saliency=rows_of(**saliency(probabilities)),
        )
