"""SNLI-VE: does a photo entail a sentence, contradict it, or neither? (Xie et al., 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, NamedTuple

from msd_framework.data.base import DATASETS, Example, check_opening
from msd_framework.data.files import DataFolder, find_layout, missing, plain_texts, unknown_split
from msd_framework.data.rows.json_lines import JsonLines
from msd_framework.data.rows.rows import NotAnExample, Record, Row, RowDataset
from msd_framework.structures import DatasetInfo

ROOT = "data/snli_ve"
PAGE = "https://github.com/necla-ml/SNLI-VE"
LABELS = ("entailment", "neutral", "contradiction")
NO_LABEL = "-"
"""What stands for the label where its annotators did not agree."""

SPELLINGS = ("Flickr30K_ID", "Flickr30kID", "Flikr30kID")
"""How the key of the photo's id is spelled in one release or another."""


class _Row(NamedTuple):
    hypothesis: str
    photo: str
    target: int
    facts: Mapping[str, str]


@DATASETS.register("snli_ve")
class SNLIVE(RowDataset):
    """SNLI-VE as published: a photo of Flickr30k and a sentence, 0 for entailment, 1 for neutral, 2 for contradiction.

    A line of ``snli_ve_<split>.jsonl`` has ``sentence2``, ``gold_label``, ``pairID`` and the photo's id as ``Flickr30K_ID``,
    ``Flickr30kID`` or ``Flikr30kID``, with or without `.jpg`; where it has none, the id is read from ``pairID``
    ("4705552913.jpg#2r1n"). Lines whose ``gold_label`` is "-" hold no example. ``sentence1`` describes the photo and is not read.

    Args:
        split: which of the splits to read.
        root: the folder that holds the jsonl files and the photos; or MMF's folder of the data set.
        images: the folder of the photos, in the root.
        allow_roots: folders outside the root that links in it may lead to, such as those of a shared disk.
        max_examples: how many examples to read at most, the first of the file; all if left out.
        on_error: "raise" stops at the first line that cannot be read; "skip" leaves such lines out and counts them.

    Attributes:
        skipped: a sentence for each line that was left out for a mistake.

    Raises:
        DataError: if the file is missing, or a line of it cannot be read.
        ValueError: if ``max_examples`` is not positive.

    >>> SNLIVE.describe({}).class_names
    ('entailment', 'neutral', 'contradiction')
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "dev", "test")
    published: ClassVar[Mapping[str, int]] = {"train": 529_527, "dev": 17_858, "test": 17_901}

    def __init__(
        self,
        split: str,
        root: str = ROOT,
        images: str = "flickr30k_images",
        allow_roots: list[str] | None = None,
        max_examples: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ):
        check_opening(type(self), {"root": root}, split, max_examples)
        file, folder = find_layout(Path(root), f"snli_ve_{split}.jsonl")
        self.folder = DataFolder(folder / images, allow_roots)
        self.rows = JsonLines(file).open("pairID", self._row, on_error, max_examples, contents=_contents)
        self.skipped = self.rows.skipped

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        return DatasetInfo({"image": "pixels", "text": "tokens"}, len(LABELS), "single_label", LABELS)

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        name = f"snli_ve_{split}.jsonl"
        file, _ = find_layout(Path(options.get("root", ROOT)), name)
        tree = [
            name,
            f"{options.get('images', 'flickr30k_images')}/<id>.jpg (from https://shannon.cs.illinois.edu/DenotationGraph)",
        ]
        return unknown_split("snli_ve", split, cls.splits) or missing(file, PAGE, tree)

    def __getitem__(self, index: int) -> Example:
        line = self.rows[index]
        row = self._row(line)
        inputs = {"image": self.folder.root / row.photo, "text": row.hypothesis}
        return Example(line.identifier("pairID"), inputs, row.target, line.place, row.facts)

    def _row(self, line: Row) -> _Row:
        if line.record.get("gold_label") == NO_LABEL:
            raise NotAnExample
        return _Row(
            line.text("sentence2"),
            line.path(self.folder, _photo(line)),
            line.label("gold_label", LABELS),
            {"decided_by": line.text("decided_by")} if "decided_by" in line.record else {},
        )


def _contents(records: Sequence[Record]) -> Iterable[tuple[str, ...]]:
    photos = [str(r[next((spelling for spelling in SPELLINGS if spelling in r), "pairID")]) for r in records]
    return zip(plain_texts([r["sentence2"] for r in records]), photos)


def _photo(line: Row) -> str:
    """The name of the photo's file.

    >>> _photo(Row({"Flickr30kID": 4705552913}, "dev", 1)), _photo(Row({"pairID": "47.jpg#2r1n"}, "dev", 1))
    ('4705552913.jpg', '47.jpg')
    """
    key = next((spelling for spelling in SPELLINGS if spelling in line.record), "pairID")
    name = line.identifier(key).partition("#")[0]
    return name if PurePosixPath(name).suffix else f"{name}.jpg"
