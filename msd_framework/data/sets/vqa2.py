"""VQA v2: a question about a photo, with the answers of ten people (Goyal et al., CVPR 2017)."""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from msd_framework.data.base import DATASETS, Example, SubmissionFile, check_opening
from msd_framework.data.files import DataFolder, missing, plain_texts, unknown_split
from msd_framework.data.rows.json_array import JsonArray
from msd_framework.data.rows.row import Record, Row, RowBatch, all_texts
from msd_framework.data.rows.rows import OnError, RowDataset
from msd_framework.data.sets.vqa_answers import agree, answer_scores, normalise_answer, on_one_line
from msd_framework.errors import DataError
from msd_framework.files import write_text
from msd_framework.reading import read_text
from msd_framework.structures import DatasetInfo

ROOT = "data/vqa2"
PAGE = "https://visualqa.org/download.html"
QUESTIONS, ANNOTATIONS = "v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json"
TREE = (QUESTIONS.format("<split>"), ANNOTATIONS.format("<split>"), "<split>/COCO_<split>_<12 digits>.jpg")
ANSWERS = "answers_vqa2.txt"
NUM_ANSWERS = 3129  # that are given 9 times or more in the training and validation splits
KEPT = ("question_type", "answer_type", "decided_by")
TO_CONVERT = "docs/datasets.md has the lines that convert it once, if you trust it, or take the publisher's files."


@DATASETS.register("vqa2")
class VQA2(RowDataset):
    """VQA v2 as published: a question, a photo, and how right each of the commonest answers is.

    The target of an example is the official accuracy of each answer of a list (`answer_scores` of `vqa_answers.py`), so
    `vqa_accuracy` is the number that the publisher's script gives. The list is made of the commonest answers in `train2014` and
    `val2014` if it is not there. ``question_type`` and ``answer_type`` are kept with the predictions.

    Args:
        split: which of the splits to read.
        root: the folder that holds the files and a folder of photos a split.
        answers: the file of answers, in the root.
        min_count: how often an answer must be given to be in a list that is made.
        allow_roots: folders outside the root that links in it may lead to, such as those of a shared disk.
        max_examples: how many examples to read at most, the first of the file; all if left out.
        on_error: "raise" stops at the first record that cannot be read; "skip" leaves such records out and counts them.
    """

    splits: ClassVar[tuple[str, ...]] = ("train2014", "val2014", "test2015", "test-dev2015")
    published: ClassVar[Mapping[str, int]] = dict(zip(splits, (443_757, 214_354, 447_793, 107_394)))
    overlapping: ClassVar[tuple[Set[str], ...]] = ({"test2015", "test-dev2015"},)

    def __init__(
        self,
        split: str,
        root: str = ROOT,
        answers: str = ANSWERS,
        min_count: int = 9,
        allow_roots: list[str] | None = None,
        max_examples: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ):
        check_opening(type(self), {"root": root}, split, max_examples)
        self.split, self.folder, self.photos = split, Path(root), DataFolder(Path(root), allow_roots)
        self.answers = list_of_answers(self.folder, answers, min_count) or ()
        self.written, self.normalised = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
        for c, answer in enumerate(self.answers):  # which the evaluation normalises again
            self.written[on_one_line(answer)].append(c)
            self.normalised[normalise_answer(on_one_line(answer))].append(c)
        annotated, asked = self.folder / ANNOTATIONS.format(split), self.folder / QUESTIONS.format(split)
        self.given = _Given(annotated, on_error) if annotated.is_file() else None
        self.rows = JsonArray(asked, "questions").open("question_id", self._check, on_error, max_examples)

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        root, name = Path(options.get("root", ROOT)), options.get("answers", ANSWERS)
        answers = list_of_answers(root, name, options.get("min_count", 9)) or ()
        return DatasetInfo({"image": "pixels", "text": "tokens"}, len(answers) or NUM_ANSWERS, "soft_target", answers)

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        root = Path(options.get("root", ROOT))
        sentences = unknown_split("vqa2", split, cls.splits) or missing(root / QUESTIONS.format(split), PAGE, TREE)
        if split in ("train2014", "val2014"):
            sentences = [*sentences, *missing(root / ANNOTATIONS.format(split), PAGE, TREE)]
        for folder in ("", "annotations", "defaults/annotations") if sentences else ():
            for file in (root / folder).glob("imdb_*.npy"):
                return [f"{file} is MMF's, a pickle, which runs code when it is read: {TO_CONVERT} {sentences[0]}"]
        return sentences

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        number, photo = row.record["question_id"], self.folder / photo_of(self.split, row.record["image_id"])
        inputs = {"image": photo, "text": row.record["question"]}
        given = None if self.given is None else self.given.row(number)
        if given is None:
            return Example(str(number), inputs, None, row.place)
        return Example(str(number), inputs, self._target(given), row.place, given.facts(*KEPT))

    @property
    def skipped(self) -> list[str]:
        return self.rows.skipped if self.given is None else [*self.given.rows.skipped, *self.rows.skipped]

    @property
    def submission(self) -> SubmissionFile:
        """``[{"question_id", "answer"}, ...]`` as the evaluation server and the publisher's script take it."""
        return SubmissionFile(f"submission_{self.split}.json", "[", ", ", "]")

    def submission_entries(self, places: Sequence[int], logits: Tensor) -> list[str]:
        entries = []
        for place, c in zip(places, logits.argmax(1).tolist()):
            entries.append(json.dumps({"question_id": self.rows[place].record["question_id"], "answer": self.answers[c]}))
        return entries

    def _check(self, rows: RowBatch) -> Iterable[tuple[int, str]]:
        numbers, images, texts = rows.integers("question_id"), rows.integers("image_id"), rows.texts("question")
        rows.paths(self.photos, [photo_of(self.split, image) for image in images])
        if self.given is not None:
            self.given.check(rows, numbers, images)
        return zip(images, plain_texts(texts))

    def _target(self, given: Row) -> array[float]:
        target = array("f", bytes(4 * len(self.answers)))  # how right each answer of the list is: [C]
        people = [one["answer"] for one in given.record["answers"]]
        classes = self.written if agree(people) else self.normalised
        for answer, score in answer_scores(people).items():
            for c in classes.get(answer, ()):
                target[c] = score
        return target


class _Given:
    def __init__(self, file: Path, on_error: OnError):
        numbers, images = array("q"), array("q")

        def note(records: Sequence[Record]) -> None:
            numbers.extend(record["question_id"] for record in records)
            images.extend(record["image_id"] for record in records)

        self.rows = JsonArray(file, "annotations").open("question_id", _check_answers, on_error, on_taken=note)
        self.order = np.array(numbers).argsort()  # rows in the order of their questions' ids
        self.numbers, self.images = np.array(numbers)[self.order], np.array(images)[self.order]

    def row(self, number: int) -> Row | None:
        at = int(self.numbers.searchsorted(number))
        return self.rows[int(self.order[at])] if at < len(self.numbers) and self.numbers[at] == number else None

    def check(self, questions: RowBatch, numbers: Sequence[int], images: Sequence[int]) -> None:
        """Refuses questions that have no answers, or answers about another image."""
        at = self.numbers.searchsorted(numbers).clip(max=len(self.numbers) - 1)
        if (self.numbers[at] == numbers).all() and (self.images[at] == images).all():
            return
        for question, number, image in zip(questions, numbers, images):
            given = self.row(number)
            if given is None:
                raise DataError(f"{question.place}: question {number} has no answers in {self.rows.file}")
            if (about := given.record["image_id"]) != image:
                text = f"question {number} is about image {image}, and in {given.place} about {about}"
                raise DataError(f"{question.place}: {text}")


def _check_answers(rows: RowBatch) -> None:
    rows.integers("question_id")
    rows.integers("image_id")
    answers: list[Any] = []
    for given in rows.column("answers"):
        people = given if type(given) is list and given else [None]
        answers += [one.get("answer") if type(one) is dict else None for one in people]
    if not all_texts(answers):
        raise rows.one().wrong("answers", "a list of {answer: text}, one a person")
    for name in KEPT:
        rows.texts(name, optional=True)


def photo_of(split: str, image: int) -> str:
    photos = split.replace("test-dev", "test")  # which has those of `test-dev2015`
    return f"{photos}/COCO_{photos}_{image:012d}.jpg"


def list_of_answers(root: Path, name: str, min_count: int) -> tuple[str, ...] | None:
    """The answers that a model chooses from; their file is written if it is not there. None if there is nothing to make it of."""
    if min_count < 1:
        raise ValueError(f"min_count is {min_count}, wanted at least 1")
    file = root / name
    if not file.is_file():
        annotated = list(filter(Path.is_file, (root / ANNOTATIONS.format(split) for split in ("train2014", "val2014"))))
        if not annotated:
            return None
        try:
            write_text(file, "".join(f"{answer}\n" for answer in common_answers(annotated, min_count)))
        except OSError as error:
            raise DataError(f"{file}: cannot be written ({error.strerror}); name another file in data.dataset.answers") from error
    answers = read_text(file).splitlines()
    counts = Counter(answers)
    for number, answer in enumerate(answers, 1):
        if not answer.strip() or counts[answer] > 1:
            raise DataError(f"{file}:{number}: is {answer!r}, wanted an answer a line, each another one")
    known = answers[answers[:1] == ["<unk>"] :]  # with which MMF's list begins
    if not known:
        raise DataError(f"{file}: has no answers, wanted one a line")
    return tuple(known)


def common_answers(files: Sequence[Path], min_count: int) -> list[str]:
    """Normalised answers that are given often, the commonest first, equally common ones by their letters."""
    spelled = Counter[str]()
    for file in files:
        JsonArray(file, "annotations").open(None, lambda rows: spelled.update(rows.texts("multiple_choice_answer")))
    counts = Counter[str]()
    for answer, count in spelled.items():
        counts[normalise_answer(answer)] += count
    common = [answer for answer, count in counts.items() if count >= min_count and answer]
    if not common:
        names = ", ".join(map(str, files))
        raise DataError(f"no answer is given {min_count} times in {names}; lower data.dataset.min_count")
    return sorted(common, key=lambda answer: (-counts[answer], answer))
