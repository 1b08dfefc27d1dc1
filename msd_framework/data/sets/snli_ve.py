"""SNLI-VE: does a photo entail a sentence, contradict it, or neither? (Xie et al., 2019)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from msd_framework.data.base import DATASETS, Example, check_opening
from msd_framework.data.files import DataFolder, find_layout, missing, plain_texts, unknown_split
from msd_framework.data.rows.json_lines import JsonLines
from msd_framework.data.rows.row import NotAnExample, Record, RowBatch
from msd_framework.data.rows.rows import RowDataset
from msd_framework.structures import DatasetInfo

ROOT = "data/snli_ve"
PAGE = "https://github.com/necla-ml/SNLI-VE"
LABELS = ("entailment", "neutral", "contradiction")
SPELLINGS = ("Flickr30K_ID", "Flickr30kID", "Flikr30kID")  # of the photo's id, in one release or another


@DATASETS.register("snli_ve")
class SNLIVE(RowDataset):
    """SNLI-VE as published: a photo of Flickr30k and a sentence, 0 for entailment, 1 for neutral, 2 for contradiction.

    A line of ``snli_ve_<split>.jsonl`` has ``sentence2``, ``gold_label``, ``pairID`` ("4705552913.jpg#2r1n") and perhaps the
    photo's id. Lines whose ``gold_label`` is "-" hold no example. ``sentence1`` describes the photo and is not read.

    Args:
        split: which of the splits to read.
        root: the folder that holds the jsonl files and the photos; or MMF's folder of the data set.
        images: the folder of the photos, in the root.
        allow_roots: folders outside the root that links in it may lead to, such as those of a shared disk.
        max_examples: how many examples to read at most, the first of the file; all if left out.
        on_error: "raise" stops at the first line that cannot be read; "skip" leaves such lines out and counts them.
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
        self.rows = JsonLines(file).open("pairID", self._check, on_error, max_examples)

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        return DatasetInfo({"image": "pixels", "text": "tokens"}, len(LABELS), "single_label", LABELS)

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        name = f"snli_ve_{split}.jsonl"
        file, _ = find_layout(Path(options.get("root", ROOT)), name)
        photos = f"{options.get('images', 'flickr30k_images')}/<id>.jpg (from https://shannon.cs.illinois.edu/DenotationGraph)"
        return unknown_split("snli_ve", split, cls.splits) or missing(file, PAGE, [name, photos])

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        record = row.record
        inputs = {"image": self.folder.root / photo_of(record), "text": record["sentence2"]}
        return Example(str(record["pairID"]), inputs, LABELS.index(record["gold_label"]), row.place, row.facts("decided_by"))

    def _check(self, rows: RowBatch) -> Iterable[tuple[str, str]]:
        if "-" in rows.column("gold_label"):  # its annotators did not agree
            raise NotAnExample
        texts = rows.texts("sentence2")
        for key in {_photo_key(record) for record in rows.records}:
            rows.ids(key)
        photos = rows.paths(self.folder, list(map(photo_of, rows.records)))
        rows.labels("gold_label", LABELS)
        rows.texts("decided_by", optional=True)
        return zip(plain_texts(texts), photos)


def photo_of(record: Record) -> str:
    """The name of the photo's file: 4705552913.jpg of the id 4705552913, 47.jpg of the pair 47.jpg#2r1n."""
    name = str(record[_photo_key(record)]).partition("#")[0]
    return name if os.path.splitext(name)[1] else f"{name}.jpg"


def _photo_key(record: Record) -> str:
    return next((spelling for spelling in SPELLINGS if spelling in record), "pairID")
