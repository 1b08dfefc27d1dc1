"""The official VQA evaluation: its normalisation and its accuracy, against its equations written plainly."""

import hashlib
import json
import random
import re

import pytest
import torch

from msd_framework.data.sets.vqa_answers import CONTRACTIONS, answer_score, answer_scores, normalise_answer, spelled_answers
from msd_framework.metrics.vqa import VQAAccuracy

OFFICIAL_CONTRACTIONS = "853d25c89947b7f6d41f6c5f81b2d6c3119927f4b16f557fc1b03af6ef45605e"
"""SHA-256 of the publisher's table as sorted pairs in JSON, less what is its own contraction or has a capital, which no
lower-case word is."""


def official_words(text: str) -> str:
    """The publisher's normalisation, step by step: punctuation, full stops, number words, articles, contractions."""
    out = text
    for mark in [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]:
        beside_space = (mark + " ") in text or (" " + mark) in text
        out = out.replace(mark, "") if beside_space or re.search(r"(\d)(\,)(\d)", text) is not None else out.replace(mark, " ")
    stripped, dropped = "", 0
    for i, character in enumerate(out):
        drop = character == "." and dropped < 32 and not re.match(r"\d", out[i + 1 : i + 2])
        dropped += drop
        stripped += "" if drop else character
    digits = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}
    digits |= {"six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
    kept = []
    for word in stripped.lower().split():
        word = digits.get(word, word)
        if word not in ("a", "an", "the"):
            kept.append(word)
    for i, word in enumerate(kept):
        if word in CONTRACTIONS:
            kept[i] = CONTRACTIONS[word]
    return " ".join(kept)


def official_accuracy(answer: str, answers: list[str]) -> float:
    """The publisher's accuracy: ten sets of nine people."""
    answers = [a.replace("\n", " ").replace("\t", " ").strip() for a in answers]
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    if len(set(answers)) > 1:
        answers, answer = [official_words(a) for a in answers], official_words(answer)
    scores = []
    for i in range(len(answers)):
        others = [other for j, other in enumerate(answers) if j != i]
        scores.append(min(1, sum(other == answer for other in others) / 3))
    return sum(scores) / len(scores)


FIRST = "a an the A The none zero one two Ten 7 10 1,000 3.5 .5 5. yes No red T-shirt t shirt don't dont Dont cant couldntve"
SECOND = "shes ow'sat somebody'd somebodyd've lets let's U.S. x-ray 2:30 p.m. and/or ??? ! , . '' é \u0663 \u0663,\u0663"
WORDS = [
    *FIRST.split(),
    *SECOND.split(),
    "1 ,2",
    "(left) [it]",
    "{x}",
    "",
    " ",
    "\t",
    "\n",
    "." * 40,
]


def made_answers(seed: int) -> tuple[str, list[str]]:
    """An answer and what ten people said, with everything that the normalisation treats in a way of its own."""
    drawn = random.Random(seed)

    def one() -> str:
        return drawn.choice(["", " ", "\n"]).join(drawn.choices(WORDS, k=drawn.randint(1, 3))) + drawn.choice(
            ["", "", ".", "?", " "]
        )

    few = [one() for _ in range(drawn.randint(1, 4))]
    people = [drawn.choice(few) for _ in range(10)]
    return drawn.choice([drawn.choice(people), drawn.choice(few).upper(), one()]), people


def test_contractions_are_the_publishers():
    assert hashlib.sha256(json.dumps(sorted(CONTRACTIONS.items())).encode()).hexdigest() == OFFICIAL_CONTRACTIONS


def test_5000_made_questions_score_as_the_official_evaluation_says():
    said, found = [], []
    for seed in range(5000):
        answer, people = made_answers(seed)
        assert normalise_answer(answer) == official_words(answer), repr(answer)
        said.append(official_accuracy(answer, people))
        found.append(answer_score(answer, people))
        if seed % 50 == 0:
            each = [answer_scores(people)[spelled] for spelled in spelled_answers(people)]
            assert each == pytest.approx([official_accuracy(person, people) for person in people], abs=1e-12)
    assert found == pytest.approx(said, abs=1e-12)  # tenths of thirds, added up in another order
    assert len({round(score, 3) for score in said}) == 5  # 0, 0.3, 0.6, 0.9 and 1 all occur
    assert min(map(said.count, (0.0, 1.0))) > 500


@pytest.mark.parametrize(("count", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_an_answer_scores_by_how_many_of_ten_people_gave_it(count, score):
    assert answer_score("yes", ["yes"] * count + ["no"] * (10 - count)) == pytest.approx(score)


def test_where_all_people_said_the_same_nothing_is_normalised():
    assert answer_score("dog", ["a dog"] * 10) == 0
    assert answer_score(" a dog\n", ["a dog\t"] * 10) == 1
    assert answer_score("dog", ["a dog"] * 9 + ["dog"]) == 1


def test_the_metric_is_the_official_accuracy_of_a_model_that_chooses_from_a_list():
    vocabulary = sorted({normalise_answer(word) for word in WORDS} - {""})
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, len(vocabulary), generator=generator)
    targets, wanted = torch.zeros_like(logits), []
    for n in range(len(logits)):
        people = made_answers(n)[1]
        targets[n] = torch.tensor([answer_score(answer, people) for answer in vocabulary])
        if n % 2:
            logits[n, int(targets[n].argmax())] += 9
        wanted.append(official_accuracy(vocabulary[int(logits[n].argmax())], people))
    assert VQAAccuracy()(logits, targets) == pytest.approx(sum(wanted) / len(wanted), abs=1e-7)  # targets are float32
    assert 0.2 < sum(wanted) / len(wanted) < 0.8
