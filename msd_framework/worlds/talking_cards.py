"""Talking cards: a caption, a digit card and a tone, and a label that one of them decides or all together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from msd_framework.worlds import oracle
from msd_framework.worlds.cards import INKS, PLAIN_INKS, RED, draw_card
from msd_framework.worlds.hateful_memes import FRAMES
from msd_framework.worlds.latents import LEXICONS
from msd_framework.worlds.layout import Drawn, Layout, Recipe, Split, spoil
from msd_framework.worlds.tones import draw_tones
from msd_framework.worlds.words import NOUNS, choose, lexicon

ADJECTIVES = LEXICONS | {
    "innocent": lexicon(
        "honest humble harmless peaceful modest patient loyal faithful tender polite quiet simple pure fair thankful calm"
    )
}
"""The adjectives of each class."""

SIGNS = {
    "audio": ("falling", "rising", "falling buzz", "rising buzz"),
    "image": ("low", "high", "low red", "high red"),
    "text": ("good", "pointed", "innocent", "bad"),
}
"""What a modality can show, as far as it has to do with the label: two plain signs, and two that decide the label alone."""

TOGETHER = "all"


@dataclass(frozen=True)
class CardKind:
    """A way in which a talking card gets its label.

    Args:
        label: 0 or 1.
        decided_by: the modality that decides the label, or ``all``.
        signs: what each modality may show, each as likely.
    """

    label: int
    decided_by: str
    signs: Mapping[str, tuple[str, ...]]


def _together(label: int, audio: str, image: str, text: str) -> CardKind:
    return CardKind(label, TOGETHER, {"audio": (audio,), "image": (image,), "text": (text,)})


def _alone(label: int, modality: str) -> CardKind:
    """A modality shows the sign that decides, the others one of their plain signs."""
    return CardKind(label, modality, {m: (signs[2 + label],) if m == modality else signs[:2] for m, signs in SIGNS.items()})


KINDS = {
    "all": _together(1, "rising", "high", "pointed"),
    "audio_confounder": _together(0, "falling", "high", "pointed"),
    "image_confounder": _together(0, "rising", "low", "pointed"),
    "text_confounder": _together(0, "rising", "high", "good"),
    "benign": _together(0, "falling", "low", "good"),
    "audio": _alone(1, "audio"),
    "audio_benign": _alone(0, "audio"),
    "image": _alone(1, "image"),
    "image_benign": _alone(0, "image"),
    "text": _alone(1, "text"),
    "text_benign": _alone(0, "text"),
}
"""Every kind of card. The first five are those of Hateful Memes for three modalities: only all three together make it 1, and in a
confounder one of them was replaced."""


def joint(mix: Mapping[str, float]) -> NDArray[np.float64]:
    """How often each combination of label and signs occurs: float64 [2, 4, 4, 4] in the order label, audio, image, text."""
    table = np.zeros((2, *(len(signs) for signs in SIGNS.values())))
    for name, kind in KINDS.items():
        cells = np.ix_([kind.label], *([SIGNS[m].index(sign) for sign in signs] for m, signs in kind.signs.items()))
        table[cells] += mix.get(name, 0.0) / np.prod([len(signs) for signs in kind.signs.values()])
    return table


class TalkingCardsLayout(Layout):
    """``<split>.jsonl``, ``img/*.png`` and ``wav/*.wav``, as a user's own data would be; read by the data set `jsonl`."""

    splits: ClassVar[Mapping[str, Split]] = {
        "train": Split("train", 3000),
        "validation": Split("dev", 500),
        "test": Split("test", 2000),
    }
    mix: ClassVar[Mapping[str, float]] = {
        "all": 0.32,
        "audio_confounder": 0.10,
        "image_confounder": 0.10,
        "text_confounder": 0.10,
        "benign": 0.02,
        "audio": 0.06,
        "audio_benign": 0.06,
        "image": 0.06,
        "image_benign": 0.06,
        "text": 0.06,
        "text_benign": 0.06,
    }
    sounds: ClassVar[str] = "wav"
    dataset: ClassVar[Mapping[str, Any]] = {
        "type": "jsonl",
        "texts": {"text": "caption"},
        "images": {"image": "img/{id}.png"},
        "audio": {"audio": "wav/{id}.wav"},
        "label": "label",
        "classes": [0, 1],
        "id_column": "id",
        "keep": ["decided_by"],
    }

    def draw(self, recipe: Recipe) -> Drawn:
        generator, size = recipe.generator, len(recipe.ids)
        drawn = [list(KINDS)[k] for k in generator.choice(len(KINDS), size, p=[recipe.mix.get(name, 0.0) for name in KINDS])]
        kinds = [KINDS[name] for name in drawn]
        chance = generator.integers(0, 2, (size, len(SIGNS)))
        signs = {
            m: np.array([SIGNS[m].index(k.signs[m][c % len(k.signs[m])]) for k, c in zip(kinds, chance[:, i])], np.int64)
            for i, m in enumerate(SIGNS)
        }
        digits = 5 * (signs["image"] % 2) + generator.integers(0, 5, size)
        inks = np.where(signs["image"] > 1, RED, generator.integers(0, len(PLAIN_INKS), size))
        images = draw_card(digits, inks, recipe.bank, recipe.noise, generator)
        sounds = draw_tones(signs["audio"] % 2 == 1, signs["audio"] > 1, recipe.noise, generator)
        captions = [
            choose(FRAMES, generator).format(
                adjective=choose(ADJECTIVES[SIGNS["text"][sign]], generator), noun=choose(NOUNS, generator)
            )
            for sign in signs["text"]
        ]
        labels = np.array([kind.label for kind in kinds], np.int64)
        written = spoil(labels, 2, recipe.label_noise, generator)
        probabilities = oracle.posteriors_of(joint(recipe.mix), signs)
        scores = oracle.saliency(probabilities)
        return Drawn(
            images,
            sounds=sounds,
            records=[
                {"id": number, "caption": captions[i], "label": int(written[i]), "decided_by": kinds[i].decided_by}
                for i, number in enumerate(recipe.ids)
            ],
            oracle=[
                {
                    "id": number,
                    "kind": drawn[i],
                    "decided_by": kinds[i].decided_by,
                    "label": int(labels[i]),
                    "signs": {m: SIGNS[m][sign[i]] for m, sign in signs.items()},
                    "ink": INKS[inks[i]],
                    "digit": int(digits[i]),
                    "posteriors": {view: float(p[i]) for view, p in probabilities.items()},
                    "saliency": {modality: float(s[i]) for modality, s in scores.items()},
                }
                for i, number in enumerate(recipe.ids)
            ],
        )

    def image_path(self, split: str, number: int) -> str:
        return f"img/{number}.png"
