"""Digit cards as SNLI-VE: does the card entail the hypothesis, contradict it, or neither?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from msd_framework.worlds.cards import INKS, PLAIN_INKS, RED, draw_card
from msd_framework.worlds.layout import Drawn, Layout, Recipe, Split, draw_kinds, spoil
from msd_framework.worlds.words import BIG, NOUNS, NUMBERS, SMALL, choose

LABELS = ("entailment", "neutral", "contradiction")
RED_DIGITS = ((0, 1, 2), (3, 4, 5), (6, 7, 8, 9))
"""The digits in red that stand for each label, whatever the hypothesis says."""

UNKNOWABLE = (
    "drawn by a child",
    "lucky for someone",
    "erased tomorrow",
    "painted with a brush",
    "sold to a friend",
    "older than the frame",
    "hated by the teacher",
    "copied from a book",
)
"""What no card shows."""

SIZE_FRAMES = (
    "this {noun} shows a {size} number",
    "the number on this {noun} is {size}",
    "i think the number is {size}",
    "a {size} number on my {noun}",
    "they say the number is {size}",
)


@dataclass(frozen=True)
class Pair:
    """A card and a hypothesis: the digit, the ink as an index into `INKS`, the sentence, the label as one into `LABELS`."""

    digit: int
    ink: int
    hypothesis: str
    label: int


def decided_by_text(generator: np.random.Generator) -> Pair:
    """A hypothesis about what no card shows: neutral."""
    noun, subject = choose(NOUNS, generator), choose(("number", "digit", "figure"), generator)
    text = f"the {subject} on this {noun} was {choose(UNKNOWABLE, generator)}"
    return Pair(int(generator.integers(10)), int(generator.integers(len(PLAIN_INKS))), text, LABELS.index("neutral"))


def decided_by_image(generator: np.random.Generator) -> Pair:
    """A red digit, which decides alone, and a claim about another card."""
    label = int(generator.integers(len(LABELS)))
    claim = _claim(int(generator.integers(10)), int(generator.integers(len(PLAIN_INKS))), generator.random() < 0.5, generator)
    return Pair(choose(RED_DIGITS[label], generator), RED, claim, label)


def decided_by_both(generator: np.random.Generator) -> Pair:
    """A claim about the card that is true or false."""
    true = bool(generator.random() < 0.5)
    digit, ink = int(generator.integers(10)), int(generator.integers(len(PLAIN_INKS)))
    return Pair(digit, ink, _claim(digit, ink, true, generator), LABELS.index("entailment" if true else "contradiction"))


KINDS = {"text": decided_by_text, "image": decided_by_image, "both": decided_by_both}


class SnliVeLayout(Layout):
    """``snli_ve_<split>.jsonl`` and ``flickr30k_images/<id>.jpg``; a line has the extra key ``decided_by``."""

    splits: ClassVar[Mapping[str, Split]] = {"train": Split("train", 3000), "dev": Split("dev", 500), "test": Split("test", 2000)}
    dataset: ClassVar[Mapping[str, Any]] = {"type": "snli_ve"}
    index: ClassVar[str] = "snli_ve_{split}.jsonl"
    mix: ClassVar[Mapping[str, float]] = {"text": 0.3, "image": 0.2, "both": 0.5}

    def draw(self, recipe: Recipe) -> Drawn:
        generator = recipe.generator
        kinds = draw_kinds(recipe)
        pairs = [KINDS[kind](generator) for kind in kinds]
        digits, inks = (np.array(values, np.int64) for values in ([p.digit for p in pairs], [p.ink for p in pairs]))
        images = draw_card(digits, inks, recipe.bank, recipe.noise, generator)
        labels = spoil(np.array([p.label for p in pairs], np.int64), len(LABELS), recipe.label_noise, generator)
        return Drawn(
            images,
            records=[
                self._line(number, pair.hypothesis, LABELS[label], kind)
                for number, pair, label, kind in zip(recipe.ids, pairs, labels, kinds)
            ],
            oracle=[
                {
                    "id": number,
                    "kind": kind,
                    "decided_by": kind,
                    "label": LABELS[pair.label],
                    "ink": INKS[pair.ink],
                    "digit": pair.digit,
                }
                for number, pair, kind in zip(recipe.ids, pairs, kinds)
            ],
        )

    def image_path(self, split: str, number: int) -> str:
        return f"flickr30k_images/{number}.jpg"

    @staticmethod
    def _line(number: int, hypothesis: str, label: str, kind: str) -> dict[str, Any]:
        return {
            "annotator_labels": [label] * 5,
            "captionID": f"{number}.jpg#0",
            "gold_label": label,
            "pairID": f"{number}.jpg#0r1{label[0]}",
            "sentence1": "",
            "sentence2": hypothesis,
            "Flickr30K_ID": str(number),
            "decided_by": kind,
        }


def _claim(digit: int, ink: int, true: bool, generator: np.random.Generator) -> str:
    """A sentence about the ink, the size or the digit of a card that is true of it or false."""
    subject = choose((_ink_claim, _size_claim, _digit_claim), generator)
    return subject(digit, ink, true, generator)


def _ink_claim(digit: int, ink: int, true: bool, generator: np.random.Generator) -> str:
    named = ink if true else choose([i for i in range(len(PLAIN_INKS)) if i != ink], generator)
    return f"the ink on this {choose(NOUNS, generator)} is {INKS[named]}"


def _size_claim(digit: int, ink: int, true: bool, generator: np.random.Generator) -> str:
    size = choose(BIG if (digit >= 5) == true else SMALL, generator)
    return choose(SIZE_FRAMES, generator).format(noun=choose(NOUNS, generator), size=size)


def _digit_claim(digit: int, ink: int, true: bool, generator: np.random.Generator) -> str:
    named = digit if true else choose([d for d in range(10) if d != digit], generator)
    return f"the number on this {choose(NOUNS, generator)} is {NUMBERS[named]}"
