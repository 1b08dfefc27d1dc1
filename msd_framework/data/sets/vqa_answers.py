"""Answers to visual questions as the VQA evaluation sees them: what counts as the same answer, and how right one is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
NUMBERS |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
APOSTROPHES = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's "
    "how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock "
    "oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd "
    "someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd "
    "they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's "
    "where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've "
    "you'd you'd've you'll you're you've"
)
CONTRACTIONS = {"somebody'd": "somebodyd"}  # which the evaluation writes without an apostrophe; others lack one of theirs
for _word in APOSTROPHES.split():
    for _mark in re.finditer("'", _word):
        CONTRACTIONS[_word[: _mark.start()] + _word[_mark.end() :]] = _word
MOST_PERIODS = 32  # of an answer that are dropped, as in the publisher's script

_PERIOD = re.compile(r"\.(?!\d)")
_COMMA_IN_A_NUMBER = re.compile(r"\d,\d")


@lru_cache(maxsize=1 << 16)
def normalise_answer(answer: str) -> str:
    """An answer without punctuation, capitals and articles, with number words as digits and contractions with apostrophes.

    Punctuation is dropped where a space stands beside it somewhere in the answer, or the answer has a comma between two digits;
    elsewhere it becomes a space. A full stop before a digit stays.

    Source: Antol et al., VQA, ICCV 2015; `vqaEval.py` of the publisher, as of 2021.

    >>> normalise_answer("The T-shirt, two dogs."), normalise_answer("10,000"), normalise_answer("dont")
    ('t shirt 2 dogs', '10000', "don't")
    """
    text, in_number = answer, bool(_COMMA_IN_A_NUMBER.search(answer))
    for mark in PUNCTUATION:
        text = text.replace(mark, "" if in_number or f"{mark} " in answer or f" {mark}" in answer else " ")
    text = _PERIOD.sub("", text, count=MOST_PERIODS)
    words = []
    for word in text.lower().split():
        word = NUMBERS.get(word, word)
        if word not in ARTICLES:
            words.append(CONTRACTIONS.get(word, word))
    return " ".join(words)


def answer_scores(answers: Sequence[str]) -> dict[str, float]:
    r"""How right each answer is that somebody gave: the official accuracy of VQA.

    .. math:: s(a) = \frac{1}{n} \sum_{i=1}^{n} \min\left(1, \frac{1}{3} \sum_{j \ne i} [a_j = a]\right)

    with the answers :math:`a_1 \dots a_n` of n people, ten in VQA: the mean over leaving out one of them. They are normalised
    unless all of them are the same. An answer that nobody gave scores 0.

    >>> answer_scores(["yes"] * 8 + ["no", "Nope."])
    {'yes': 1.0, 'no': 0.3, 'nope': 0.3}
    """
    counts, n = Counter(spelled_answers(answers)), len(answers)
    # the mean over leaving out one who said so, count times, and one who did not
    return {said: (count * min(3, count - 1) + (n - count) * min(3, count)) / (3 * n) for said, count in counts.items()}


def answer_score(answer: str, answers: Sequence[str]) -> float:
    """How right a model's answer is, given what people said: its official accuracy, from 0 to 1."""
    return answer_scores(answers).get(on_one_line(answer) if agree(answers) else normalise_answer(on_one_line(answer)), 0.0)


def agree(answers: Sequence[str]) -> bool:
    """Whether all people said the same, letter by letter: then nothing is normalised."""
    return len(set(map(on_one_line, answers))) == 1


def spelled_answers(answers: Sequence[str]) -> list[str]:
    """What people said in the spelling that it is compared in: as it is if all said the same, else normalised."""
    plain = list(map(on_one_line, answers))
    return plain if agree(answers) else list(map(normalise_answer, plain))


def on_one_line(answer: str) -> str:
    """An answer without line breaks, tabs and white space around it."""
    return answer.replace("\n", " ").replace("\t", " ").strip()
