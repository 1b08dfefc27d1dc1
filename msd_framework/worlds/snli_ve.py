"""Digit cards as SNLI-VE: does the card entail the hypothesis, contradict it, or neither?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np

from msd_framework.worlds.cards import INKS, PLAIN_INKS, RED, card_sign, draw_card
from msd_framework.worlds.layout import Drawn, Layout, Recipe, draw_kinds, spoil
from msd_framework.worlds.oracle import label_posteriors, label_saliency
from msd_framework.worlds.words import BIG, NOUNS, NUMBERS, SMALL, choose

NOTHING = "nothing that a card shows"  # what a hypothesis about what no card shows claims
LABELS = ("entailment", "neutral", "contradiction")
RED_DIGITS = ((0, 1, 2), (3, 4, 5), (6, 7, 8, 9))  # those in red that stand for each label, whatever the hypothesis says
UNKNOWABLE = (  # what no card shows
    "drawn by a child",
    "lucky for someone",
    "erased tomorrow",
    "painted with a brush",
    "sold to a friend",
    "older than the frame",
    "hated by the teacher",
    "copied from a book",
)
SIZE_FRAMES = (
    "this {noun} shows a {size} number",
    "the number on this {noun} is {size}",
    "i think the number is {size}",
    "a {size} number on my {noun}",
    "they say the number is {size}",
)


@dataclass(frozen=True)
class Pair:
    """A card and a hypothesis."""

    digit: int
    ink: int  # an index into `INKS`
    claim: str  # what the hypothesis says, however it is put
    hypothesis: str
    label: int  # an index into `LABELS`


def decided_by_text(generator: np.random.Generator) -> Pair:
    """A hypothesis about what no card shows: neutral."""
    noun, subject = choose(NOUNS, generator), choose(("number", "digit", "figure"), generator)
    text = f"the {subject} on this {noun} was {choose(UNKNOWABLE, generator)}"
    return Pair(int(generator.integers(10)), int(generator.integers(len(PLAIN_INKS))), NOTHING, text, LABELS.index("neutral"))


def decided_by_image(generator: np.random.Generator) -> Pair:
    """A red digit, which decides alone, and a claim about another card."""
    label = int(generator.integers(len(LABELS)))
    claim = _claim(int(generator.integers(10)), int(generator.integers(len(PLAIN_INKS))), generator.random() < 0.5, generator)
    return Pair(choose(RED_DIGITS[label], generator), RED, *claim, label)


def decided_by_both(generator: np.random.Generator) -> Pair:
    """A claim about the card that is true or false."""
    true = bool(generator.random() < 0.5)
    digit, ink = int(generator.integers(10)), int(generator.integers(len(PLAIN_INKS)))
    return Pair(digit, ink, *_claim(digit, ink, true, generator), LABELS.index("entailment" if true else "contradiction"))


def joint(mix: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """How often a label, a card and a claim occur together: each kind's choices are counted, as they are drawn above."""
    shares: defaultdict[tuple[str, ...], float] = defaultdict(float)
    plain = list(product(range(10), range(len(PLAIN_INKS))))
    of_any_card: defaultdict[str, float] = defaultdict(float)
    for digit, ink in plain:
        shares["neutral", card_sign(digit, ink), NOTHING] += mix.get("text", 0.0) / len(plain)
        for label, true in (("entailment", True), ("contradiction", False)):
            for claim, share in _claims(digit, ink, true).items():
                shares[label, card_sign(digit, ink), claim] += mix.get("both", 0.0) * share / 2 / len(plain)
                of_any_card[claim] += share / 2 / len(plain)
    for label, digits in zip(LABELS, RED_DIGITS):
        for digit, (claim, share) in product(digits, of_any_card.items()):
            shares[label, card_sign(digit, RED), claim] += mix.get("image", 0.0) * share / len(LABELS) / len(digits)
    return dict(shares)


KINDS = {"text": decided_by_text, "image": decided_by_image, "both": decided_by_both}


class SnliVeLayout(Layout):
    """``snli_ve_<split>.jsonl`` and ``flickr30k_images/<id>.jpg``; a line has the extra key ``decided_by``."""

    dataset: ClassVar[Mapping[str, Any]] = {"type": "snli_ve"}
    images: ClassVar[str] = "flickr30k_images/{number}.jpg"
    index: ClassVar[str] = "snli_ve_{split}.jsonl"
    mix: ClassVar[Mapping[str, float]] = {"text": 0.3, "image": 0.2, "both": 0.5}

    def draw(self, recipe: Recipe) -> Drawn:
        generator = recipe.generator
        kinds = draw_kinds(recipe)
        pairs = [KINDS[kind](generator) for kind in kinds]
        digits, inks, truth = np.array([[pair.digit, pair.ink, pair.label] for pair in pairs], np.int64).T
        images = draw_card(digits, inks, recipe.bank, recipe.noise, generator)
        labels = spoil(truth, len(LABELS), recipe.label_noise, generator)
        records, oracle = [], []
        for number, pair, label, kind in zip(recipe.ids, pairs, np.take(LABELS, labels).tolist(), kinds):
            record = {
                "annotator_labels": [label] * 5,
                "captionID": f"{number}.jpg#0",
                "gold_label": label,
                "pairID": f"{number}.jpg#0r1{label[0]}",
                "sentence1": "",
                "sentence2": pair.hypothesis,
                "Flickr30K_ID": str(number),
                "decided_by": kind,
            }
            records.append(record)
            card = {"ink": INKS[pair.ink], "digit": pair.digit}
            oracle.append({"id": record["pairID"], "kind": kind, "decided_by": kind, "label": LABELS[pair.label], **card})
        signs = [(card_sign(pair.digit, pair.ink), pair.claim) for pair in pairs]
        for row, posteriors in zip(oracle, label_posteriors(joint(recipe.mix), ("image", "text"), signs)):
            row |= {"posteriors": posteriors, "saliency": label_saliency(posteriors)}
        return Drawn(images, records, oracle)


def _claim(digit: int, ink: int, true: bool, generator: np.random.Generator) -> tuple[str, str]:
    """What is claimed of a card, and a hypothesis that says it."""
    return choose((_ink_claim, _size_claim, _digit_claim), generator)(digit, ink, true, generator)


def _ink_claim(digit: int, ink: int, true: bool, generator: np.random.Generator) -> tuple[str, str]:
    named = ink if true else choose([i for i in range(len(PLAIN_INKS)) if i != ink], generator)
    return INKS[named], f"the ink on this {choose(NOUNS, generator)} is {INKS[named]}"


def _size_claim(digit: int, ink: int, true: bool, generator: np.random.Generator) -> tuple[str, str]:
    is_big = (digit >= 5) == true
    size = choose(BIG if is_big else SMALL, generator)
    return _size(is_big), choose(SIZE_FRAMES, generator).format(noun=choose(NOUNS, generator), size=size)


def _digit_claim(digit: int, ink: int, true: bool, generator: np.random.Generator) -> tuple[str, str]:
    named = digit if true else choose([d for d in range(10) if d != digit], generator)
    return NUMBERS[named], f"the number on this {choose(NOUNS, generator)} is {NUMBERS[named]}"


def _size(is_big: bool) -> str:
    return "big" if is_big else "small"


def _claims(digit: int, ink: int, true: bool) -> dict[str, float]:
    """What is claimed of a card, and how often: its ink, its size and its digit alike, or each other one."""
    of_ink = [name for i, name in enumerate(PLAIN_INKS) if (i == ink) == true]
    of_digit = [name for d, name in enumerate(NUMBERS) if (d == digit) == true]
    shares = {_size((digit >= 5) == true): 1 / 3}
    for names in (of_ink, of_digit):
        shares |= dict.fromkeys(names, 1 / 3 / len(names))
    return shares
