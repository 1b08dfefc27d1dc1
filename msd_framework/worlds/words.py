"""Words that several layouts share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Choice = TypeVar("Choice")


def lexicon(words: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(words.split())


NOUNS = lexicon("card picture photo thing post sketch scan print drawing page note sheet")
NUMBERS = lexicon("zero one two three four five six seven eight nine")
BIG = lexicon("big large high huge heavy giant tall grand")
SMALL = lexicon("small little low tiny light short slim petite")

# the adjectives of each class
LEXICONS = {
    "good": lexicon("lovely pretty nice sweet great happy kind bright fine cute gentle warm tidy clean proud merry"),
    "pointed": lexicon("heavy dense slow loud round stiff strange crooked bent dull noisy sour dusty shaky faded plain"),
    "bad": lexicon("awful terrible horrible nasty ugly dreadful vile rotten broken wrong stupid gross cruel rude bitter grim"),
}
FRAMES = (
    "this is a {adjective} {noun}",
    "what a {adjective} {noun}",
    "such a {adjective} {noun} today",
    "look at my {adjective} {noun}",
    "a really {adjective} {noun} again",
    "i found this {adjective} {noun}",
    "they posted a {adjective} {noun}",
)


def choose(options: Sequence[Choice], generator: np.random.Generator) -> Choice:
    """One of the options, at random."""
    return options[int(generator.integers(len(options)))]


def captions(adjectives: Sequence[Sequence[str]], generator: np.random.Generator) -> list[str]:
    """Captions, each with one of its adjectives."""
    texts = []
    for own in adjectives:
        frame = choose(FRAMES, generator)
        texts.append(frame.format(adjective=choose(own, generator), noun=choose(NOUNS, generator)))
    return texts
