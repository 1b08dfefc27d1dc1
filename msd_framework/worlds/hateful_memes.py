"""Digit cards as Hateful Memes: a caption and a card, hateful or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from msd_framework.worlds import oracle
from msd_framework.worlds.cards import INKS, PLAIN_INKS, RED, draw_card
from msd_framework.worlds.latents import ADJECTIVES, KINDS, LEXICONS, draw_latents
from msd_framework.worlds.layout import Drawn, Layout, Recipe, Split, spoil
from msd_framework.worlds.words import NOUNS, choose

FRAMES = (
    "this is a {adjective} {noun}",
    "what a {adjective} {noun}",
    "such a {adjective} {noun} today",
    "look at my {adjective} {noun}",
    "a really {adjective} {noun} again",
    "i found this {adjective} {noun}",
    "they posted a {adjective} {noun}",
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
    mix: ClassVar[Mapping[str, float]] = {
        "both": 0.30,
        "image_confounder": 0.20,
        "text_confounder": 0.20,
        "benign": 0.05,
        "text": 0.10,
        "image": 0.10,
        "image_benign": 0.05,
    }

    def draw(self, recipe: Recipe) -> Drawn:
        generator, size = recipe.generator, len(recipe.ids)
        memes = draw_latents(size, recipe.mix, generator)
        inks = np.where(memes.red, RED, generator.integers(0, len(PLAIN_INKS), size))
        images = draw_card(memes.digits, inks, recipe.bank, recipe.noise, generator)
        adjectives = [ADJECTIVES[a] for a in memes.adjectives]
        texts = [
            choose(FRAMES, generator).format(adjective=choose(LEXICONS[a], generator), noun=choose(NOUNS, generator))
            for a in adjectives
        ]
        labels = spoil(memes.labels, 2, recipe.label_noise, generator)
        kinds = [list(KINDS)[k] for k in memes.kinds]
        probabilities = oracle.posteriors(memes, recipe.mix)
        scores = oracle.saliency(probabilities)
        return Drawn(
            images,
            records=[
                {
                    "id": number,
                    "img": _image(number),
                    "label": int(labels[i]),
                    "text": texts[i],
                    "decided_by": KINDS[kinds[i]].decided_by,
                }
                for i, number in enumerate(recipe.ids)
            ],
            oracle=[
                {
                    "id": number,
                    "kind": kinds[i],
                    "decided_by": KINDS[kinds[i]].decided_by,
                    "label": int(memes.labels[i]),
                    "adjective": adjectives[i],
                    "ink": INKS[inks[i]],
                    "digit": int(memes.digits[i]),
                    "posteriors": {view: float(p[i]) for view, p in probabilities.items()},
                    "saliency": {modality: float(s[i]) for modality, s in scores.items()},
                }
                for i, number in enumerate(recipe.ids)
            ],
        )

    def image_path(self, split: str, number: int) -> str:
        return _image(number)


def _image(number: int) -> str:
    return f"img/{number:05d}.png"
