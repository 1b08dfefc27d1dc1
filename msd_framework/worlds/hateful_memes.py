"""Digit cards as Hateful Memes: a caption and a card, hateful or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from msd_framework.worlds.kinds import IMAGE_SIGNS, Kind, Kinds, SignedRows
from msd_framework.worlds.layout import Drawn, Layout, Recipe, Split, draw_kinds, rows_of, spoil
from msd_framework.worlds.words import LEXICONS, captions

# The first three are how Hateful Memes was built (Kiela et al., NeurIPS 2020): a meme that is hateful only as a whole, and its
# benign confounders, in which the image or the text was replaced.
MEMES = Kinds(
    signs={"image": IMAGE_SIGNS, "text": tuple(LEXICONS)},
    kinds={
        "both": Kind(0.30, 1, "both", {"image": ("high",), "text": ("pointed",)}),
        "image_confounder": Kind(0.20, 0, "both", {"image": ("low",), "text": ("pointed",)}),
        "text_confounder": Kind(0.20, 0, "both", {"image": ("high",), "text": ("good",)}),
        "benign": Kind(0.05, 0, "both", {"image": ("low",), "text": ("good",)}),
        "text": Kind(0.10, 1, "text", {"image": ("low", "high"), "text": ("bad",)}),
        "image": Kind(0.10, 1, "image", {"image": ("high red",), "text": ("good", "pointed")}),
        "image_benign": Kind(0.05, 0, "image", {"image": ("low red",), "text": ("good", "pointed")}),
    },
)


class HatefulMemesLayout(Layout):
    """``img/*.png`` and ``<split>.jsonl``; a line has the extra key ``decided_by``."""

    splits: ClassVar[Mapping[str, Split]] = {
        "train": Split("train", 3000),
        "dev_seen": Split("dev", 500),
        "dev_unseen": Split("dev", 0),
        "test_seen": Split("test", 2000),
        "test_unseen": Split("test", 0),
    }
    dataset: ClassVar[Mapping[str, Any]] = {"type": "hateful_memes"}
    mix: ClassVar[Mapping[str, float]] = MEMES.mix

    def draw(self, recipe: Recipe) -> Drawn:
        memes = draw_memes(recipe)
        images, inks = memes.draw_cards(recipe)
        adjectives = [MEMES.signs["text"][sign] for sign in memes.signs["text"]]
        texts = captions([LEXICONS[adjective] for adjective in adjectives], recipe.generator)
        labels = spoil(memes.labels, 2, recipe.label_noise, recipe.generator)
        paths = [self.images.format(number=number) for number in recipe.ids]
        records = rows_of(id=recipe.ids, img=paths, label=labels, text=texts, decided_by=memes.decided_by)
        return Drawn(images, records, memes.oracle(recipe, inks, adjective=adjectives))


def draw_memes(recipe: Recipe) -> SignedRows:
    """The kinds, signs and digits of some memes."""
    kinds = draw_kinds(recipe)
    text, image = recipe.generator.integers(0, 2, (2, len(kinds)))
    return MEMES.draw(kinds, {"image": image, "text": text}, recipe.generator)
