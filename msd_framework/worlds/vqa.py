"""Digit cards as VQA v2: a question about a card, and the answers of ten people."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from msd_framework.files import write_text
from msd_framework.worlds.cards import INKS, PLAIN_INKS, card_sign, draw_card
from msd_framework.worlds.layout import Drawn, Layout, Recipe, Split, draw_kinds, spoil
from msd_framework.worlds.oracle import label_posteriors, label_saliency
from msd_framework.worlds.words import BIG, NOUNS, NUMBERS, SMALL, choose

# all that is ever answered; numbers are written as digits, as the official normalisation of VQA has them
ANSWERS = (*map(str, range(10)), *PLAIN_INKS, "yes", "no")
ANSWER_TYPES = {**dict.fromkeys(ANSWERS[:10], "number"), **dict.fromkeys(PLAIN_INKS, "other"), "yes": "yes/no", "no": "yes/no"}
NUM_ANNOTATORS = 10
ANNOTATOR_NOISE = 0.1  # how often one of the ten gives an answer at random


@dataclass(frozen=True)
class Question:
    """A question about a card."""

    asks: str  # what it asks, however it is put
    text: str
    type: str  # as the publisher calls it
    answer: str
    decided_by: str = "both"  # the modality


def which_digit(digit: int, ink: int, generator: np.random.Generator) -> Question:
    frames = ("what number is this", "what digit is on this {noun}", "what number is on the {noun}")
    return Question("digit", choose(frames, generator).format(noun=choose(NOUNS, generator)), "what", str(digit))


def which_ink(digit: int, ink: int, generator: np.random.Generator) -> Question:
    frames = ("what color is the digit", "what color is the ink on this {noun}", "what color is the {noun}")
    return Question("ink", choose(frames, generator).format(noun=choose(NOUNS, generator)), "what color is the", INKS[ink])


def is_it_big(digit: int, ink: int, generator: np.random.Generator) -> Question:
    """Asks whether the digit is big, which is 5 or more, or small."""
    big = bool(generator.random() < 0.5)
    text = f"is the number on this {choose(NOUNS, generator)} {choose(BIG if big else SMALL, generator)}"
    return Question(_size(big), text, "is the", _yes_no((digit >= 5) == big))


def is_it_this(digit: int, ink: int, generator: np.random.Generator) -> Question:
    """Asks whether the digit is a given one, which it is in half of the questions and by chance."""
    named = digit if generator.random() < 0.5 else int(generator.integers(10))
    text = f"is the number on this {choose(NOUNS, generator)} {NUMBERS[named]}"
    return Question(NUMBERS[named], text, "is the", _yes_no(digit == named))


def what_sum(digit: int, ink: int, generator: np.random.Generator) -> Question:
    """Asks for a sum that has nothing to do with the card."""
    first, second = map(int, generator.integers(0, 5, 2))
    text = f"what is {NUMBERS[first]} plus {NUMBERS[second]}"
    return Question(f"the sum {first + second}", text, "what is", str(first + second), decided_by="text")


def joint(mix: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """How often an answer, a card and what is asked occur together: each kind's choices are counted, as they are drawn above."""
    shares: defaultdict[tuple[str, ...], float] = defaultdict(float)
    cards = list(product(range(10), range(len(PLAIN_INKS))))
    for digit, ink in cards:
        card, share = card_sign(digit, ink), {kind: of_kind / len(cards) for kind, of_kind in mix.items()}
        shares[str(digit), card, "digit"] += share.get("digit", 0.0)
        shares[INKS[ink], card, "ink"] += share.get("ink", 0.0)
        for big in (True, False):
            shares[_yes_no((digit >= 5) == big), card, _size(big)] += share.get("size", 0.0) / 2
        shares["yes", card, NUMBERS[digit]] += share.get("check", 0.0) / 2
        for named in range(10):
            shares[_yes_no(digit == named), card, NUMBERS[named]] += share.get("check", 0.0) / 2 / 10
        for first, second in product(range(5), range(5)):
            shares[str(first + second), card, f"the sum {first + second}"] += share.get("sum", 0.0) / 25
    return {key: share for key, share in shares.items() if share > 0}


KINDS = {"digit": which_digit, "ink": which_ink, "size": is_it_big, "check": is_it_this, "sum": what_sum}


class VqaLayout(Layout):
    """Questions, annotations and ``<split>/COCO_<split>_<12 digits>.jpg``; an annotation has the extra key ``decided_by``.

    The annotations of ``test2015``, which the publisher keeps back, are written too.
    """

    splits: ClassVar[Mapping[str, Split]] = {
        "train2014": Split("train", 3000),
        "val2014": Split("dev", 500),
        "test2015": Split("test", 2000),
    }
    dataset: ClassVar[Mapping[str, Any]] = {"type": "vqa2"}
    images: ClassVar[str] = "{split}/COCO_{split}_{number:012d}.jpg"
    mix: ClassVar[Mapping[str, float]] = dict.fromkeys(KINDS, 0.2)

    def draw(self, recipe: Recipe) -> Drawn:
        generator, size = recipe.generator, len(recipe.ids)
        kinds = draw_kinds(recipe)
        digits, inks = generator.integers(0, 10, size), generator.integers(0, len(PLAIN_INKS), size)
        images = draw_card(digits, inks, recipe.bank, recipe.noise, generator)
        questions = [KINDS[kind](int(d), int(i), generator) for kind, d, i in zip(kinds, digits, inks)]
        truth = np.array([ANSWERS.index(q.answer) for q in questions], np.int64)
        agreed = spoil(truth, len(ANSWERS), recipe.label_noise, generator)
        astray = generator.random((size, NUM_ANNOTATORS)) < ANNOTATOR_NOISE
        given = np.where(astray, generator.integers(0, len(ANSWERS), astray.shape), agreed[:, None])  # [N, 10]
        records, oracle = [], []
        for number, kind, question, digit, ink, row in zip(recipe.ids, kinds, questions, digits, inks, given):
            records.append(_record(number, question, np.take(ANSWERS, row).tolist()))
            known = {"id": question_id(number), "kind": kind, "decided_by": question.decided_by, "label": question.answer}
            oracle.append({**known, "ink": INKS[ink], "digit": int(digit)})
        signs = [(card_sign(d, i), question.asks) for d, i, question in zip(digits, inks, questions)]
        for known, posteriors in zip(oracle, label_posteriors(joint(recipe.mix), ("image", "text"), signs)):
            known |= {"posteriors": posteriors, "saliency": label_saliency(posteriors)}
        return Drawn(images, records, oracle)

    def write_index(self, folder: Path, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        for split, rows in records.items():
            head = {"info": {"description": "digit cards"}, "data_type": "mscoco", "license": {}, "data_subtype": split}
            questions = {**head, "task_type": "Open-Ended", "questions": [row["question"] for row in rows]}
            annotations = {**head, "annotations": [row["annotation"] for row in rows]}
            write_text(folder / f"v2_OpenEnded_mscoco_{split}_questions.json", json.dumps(questions))
            write_text(folder / f"v2_mscoco_{split}_annotations.json", json.dumps(annotations))


def question_id(number: int) -> int:
    """The id of the only question about an image, numbered as in COCO."""
    return number * 1000


def _record(number: int, question: Question, answers: Sequence[str]) -> dict[str, Any]:
    commonest = Counter(answers).most_common(1)[0][0]
    return {
        "question": {"image_id": number, "question": f"{question.text}?", "question_id": question_id(number)},
        "annotation": {
            "question_id": question_id(number),
            "image_id": number,
            "question_type": question.type,
            "answer_type": ANSWER_TYPES[commonest],
            "multiple_choice_answer": commonest,
            "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(answers, 1)],
            "decided_by": question.decided_by,
        },
    }


def _size(big: bool) -> str:
    return "big" if big else "small"


def _yes_no(true: bool) -> str:
    return "yes" if true else "no"
