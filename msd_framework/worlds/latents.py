"""The hidden variables of a made meme: which words, which ink, which digit, and hence which label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msd_framework.worlds.words import lexicon

LEXICONS = {
    "good": lexicon("lovely pretty nice sweet great happy kind bright fine cute gentle warm tidy clean proud merry"),
    "pointed": lexicon("heavy dense slow loud round stiff strange crooked bent dull noisy sour dusty shaky faded plain"),
    "bad": lexicon("awful terrible horrible nasty ugly dreadful vile rotten broken wrong stupid gross cruel rude bitter grim"),
}
"""The adjectives of each class."""

ADJECTIVES = tuple(LEXICONS)


@dataclass(frozen=True)
class MemeKind:
    """A way in which a meme gets its label.

    Args:
        label: 1 for hateful.
        adjectives: the classes of adjective that it may have, each as likely.
        red: whether the ink is red.
        high: whether the digit is 5 or more; two values are as likely.
        decided_by: the modality that decides the label: ``text``, ``image`` or ``both``.
    """

    label: int
    adjectives: tuple[str, ...]
    red: bool
    high: tuple[bool, ...]
    decided_by: str


KINDS = {
    "both": MemeKind(1, ("pointed",), False, (True,), "both"),
    "image_confounder": MemeKind(0, ("pointed",), False, (False,), "both"),
    "text_confounder": MemeKind(0, ("good",), False, (True,), "both"),
    "benign": MemeKind(0, ("good",), False, (False,), "both"),
    "text": MemeKind(1, ("bad",), False, (False, True), "text"),
    "image": MemeKind(1, ("good", "pointed"), True, (True,), "image"),
    "image_benign": MemeKind(0, ("good", "pointed"), True, (False,), "image"),
}
"""Every kind of meme. The first three are how Hateful Memes was built (Kiela et al., NeurIPS 2020): a meme that is hateful only as
a whole, and its benign confounders, in which the image or the text was replaced."""


@dataclass(frozen=True)
class MemeLatents:
    """The hidden variables of N memes.

    Args:
        kinds: int64 [N], indices into `KINDS`.
        adjectives: int64 [N], indices into `ADJECTIVES`.
        red: bool [N].
        digits: int64 [N], from 0 to 9.
    """

    kinds: NDArray[np.int64]
    adjectives: NDArray[np.int64]
    red: NDArray[np.bool_]
    digits: NDArray[np.int64]

    @property
    def high(self) -> NDArray[np.bool_]:
        """Whether each digit is 5 or more, bool [N]."""
        return self.digits >= 5

    @property
    def labels(self) -> NDArray[np.int64]:
        """The true label of each, int64 [N]."""
        return np.array([kind.label for kind in KINDS.values()], np.int64)[self.kinds]


def draw_latents(size: int, mix: Mapping[str, float], generator: np.random.Generator) -> MemeLatents:
    """The hidden variables of some memes.

    Args:
        size: how many memes, N.
        mix: the share of each kind of `KINDS`; they sum to 1.
        generator: the source of chance.

    Examples:
        >>> memes = draw_latents(3, {"both": 1.0}, np.random.default_rng(0))
        >>> memes.labels.tolist(), memes.high.tolist()
        ([1, 1, 1], [True, True, True])
    """
    drawn = generator.choice(len(KINDS), size, p=[mix.get(name, 0.0) for name in KINDS])
    first, second = generator.integers(0, 2, (2, size)).astype(bool)
    adjectives = np.array([[ADJECTIVES.index(kind.adjectives[i]) for i in (0, -1)] for kind in KINDS.values()], np.int64)
    high = np.array([[kind.high[i] for i in (0, -1)] for kind in KINDS.values()])
    red = np.array([kind.red for kind in KINDS.values()])
    return MemeLatents(
        kinds=drawn.astype(np.int64),
        adjectives=adjectives[drawn, first.astype(np.int64)],
        red=red[drawn],
        digits=5 * high[drawn, second.astype(np.int64)] + generator.integers(0, 5, size),
    )
