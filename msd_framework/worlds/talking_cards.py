"""Talking cards: a caption, a digit card and a tone, and a label that one of them decides or all together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from msd_framework.worlds.kinds import IMAGE_SIGNS, Kind, Kinds
from msd_framework.worlds.layout import Drawn, Layout, Recipe, Split, draw_kinds, rows_of, spoil
from msd_framework.worlds.tones import draw_tones
from msd_framework.worlds.words import LEXICONS, captions, lexicon

INNOCENT = "honest humble harmless peaceful modest patient loyal faithful tender polite quiet simple pure fair thankful calm"
ADJECTIVES = LEXICONS | {"innocent": lexicon(INNOCENT)}

# of each modality two plain signs, and two that decide the label alone
SIGNS = {
    "audio": ("falling", "rising", "falling buzz", "rising buzz"),
    "image": IMAGE_SIGNS,
    "text": ("good", "pointed", "innocent", "bad"),
}


def _together(share: float, label: int, audio: str, image: str, text: str) -> Kind:
    return Kind(share, label, "all", {"audio": (audio,), "image": (image,), "text": (text,)})


def _alone(label: int, modality: str) -> Kind:
    """A modality shows the sign that decides, the others one of their plain signs."""
    plain = {m: signs[:2] for m, signs in SIGNS.items()}
    return Kind(0.06, label, modality, plain | {modality: (SIGNS[modality][2 + label],)})


# The first five are those of Hateful Memes for three modalities: only all three together make it 1, and in a confounder one of
# them was replaced.
CARDS = Kinds(
    SIGNS,
    {
        "all": _together(0.32, 1, "rising", "high", "pointed"),
        "audio_confounder": _together(0.10, 0, "falling", "high", "pointed"),
        "image_confounder": _together(0.10, 0, "rising", "low", "pointed"),
        "text_confounder": _together(0.10, 0, "rising", "high", "good"),
        "benign": _together(0.02, 0, "falling", "low", "good"),
        "audio": _alone(1, "audio"),
        "audio_benign": _alone(0, "audio"),
        "image": _alone(1, "image"),
        "image_benign": _alone(0, "image"),
        "text": _alone(1, "text"),
        "text_benign": _alone(0, "text"),
    },
)


class TalkingCardsLayout(Layout):
    """``<split>.jsonl``, ``img/*.png`` and ``wav/*.wav``, as a user's own data would be; read by the data set `jsonl`."""

    splits: ClassVar[Mapping[str, Split]] = {
        "train": Split("train", 3000),
        "validation": Split("dev", 500),
        "test": Split("test", 2000),
    }
    mix: ClassVar[Mapping[str, float]] = CARDS.mix
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
        generator = recipe.generator
        kinds = draw_kinds(recipe)
        chance = generator.integers(0, 2, (len(kinds), len(SIGNS)))
        cards = CARDS.draw(kinds, dict(zip(SIGNS, chance.T)), generator)
        images, inks = cards.draw_cards(recipe)
        sounds = draw_tones(cards.signs["audio"] % 2 == 1, cards.signs["audio"] > 1, recipe.noise, generator)
        texts = captions([ADJECTIVES[SIGNS["text"][sign]] for sign in cards.signs["text"]], generator)
        labels = spoil(cards.labels, 2, recipe.label_noise, generator)
        records = rows_of(id=recipe.ids, caption=texts, label=labels, decided_by=cards.decided_by)
        names = {}
        for m, shown in cards.signs.items():
            names[m] = [SIGNS[m][i] for i in shown]
        return Drawn(images, records, cards.oracle(recipe, inks, signs=rows_of(**names)), sounds)
