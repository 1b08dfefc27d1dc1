"""Hateful Memes: an image with a text on it, benign or hateful (Kiela et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from msd_framework.data.base import DATASETS, Example, SubmissionFile, check_opening
from msd_framework.data.files import DataFolder, find_layout, missing, plain_paths, plain_texts, unknown_split
from msd_framework.data.rows.json_lines import JsonLines
from msd_framework.data.rows.row import RowBatch
from msd_framework.data.rows.rows import RowDataset
from msd_framework.files import csv_line
from msd_framework.structures import DatasetInfo

ROOT = "data/hateful_memes"
PAGE = "https://hatefulmemeschallenge.com"


@DATASETS.register("hateful_memes")
class HatefulMemes(RowDataset):
    """Hateful Memes as published: a text and an image, 0 for benign and 1 for hateful.

    A line of ``<split>.jsonl`` is ``{"id": 42953, "img": "img/42953.png", "label": 0, "text": "..."}``. A split whose name
    begins with ``test`` may be blind. ``dev_seen`` and ``dev_unseen`` share 400 memes. An extra ``decided_by`` is kept.

    Args:
        split: which of the splits to read.
        root: the folder that holds the split's jsonl file and `img/`; or MMF's folder of the data set.
        allow_overlap: whether a run may use two splits that have memes in common.
        allow_roots: folders outside the root that links in it may lead to, such as those of a shared disk.
        max_examples: how many examples to read at most, the first of the file; all if left out.
        on_error: "raise" stops at the first line that cannot be read; "skip" leaves such lines out and counts them.
        unlabelled: whether lines of any split may have no ``label``.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "dev_seen", "dev_unseen", "test_seen", "test_unseen", "dev", "test")
    published: ClassVar[Mapping[str, int]] = dict(zip(splits, (8500, 500, 540, 1000, 2000, 500, 1000)))
    # those of the first phase are the later seen ones; dev_seen and dev_unseen share 400
    overlapping: ClassVar[tuple[Set[str], ...]] = ({"dev", "dev_seen", "dev_unseen"}, {"test", "test_seen"})

    def __init__(
        self,
        split: str,
        root: str = ROOT,
        allow_overlap: bool = False,
        allow_roots: list[str] | None = None,
        max_examples: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        unlabelled: bool = False,
    ):
        check_opening(type(self), {"root": root}, split, max_examples)
        file, images = find_layout(Path(root), f"{split}.jsonl")
        self.split, self.folder, self.may_share_rows = split, DataFolder(images, allow_roots), allow_overlap
        self.may_lack_labels = unlabelled or split.startswith("test")
        self.rows = JsonLines(file).open("id", self._check, on_error, max_examples)

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        return DatasetInfo({"image": "pixels", "text": "tokens"}, 2, "single_label", ("benign", "hateful"))

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        unknown = unknown_split("hateful_memes", split, cls.splits)
        file, _ = find_layout(Path(options.get("root", ROOT)), f"{split}.jsonl")
        return unknown or missing(file, PAGE, [f"{split}.jsonl", "img/<id>.png"])

    @classmethod
    def check_together(cls, options: Mapping[str, Any], splits: Mapping[str, str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for use, split in splits.items():
            for other, before in splits.items():
                if other == use or options.get("allow_overlap"):
                    break
                if split != before and any({split, before} <= shared for shared in cls.overlapping):
                    text = f"{split} has memes in common with {before}, which is data.{other}: a score on it says less than it"
                    found[use] = f"{text} seems to. Name another split, or set data.dataset.allow_overlap=true and say so."
        return found

    @property
    def submission(self) -> SubmissionFile:
        """``id,proba,label`` as the challenge takes it: the probability of being hateful, and whether it is above 0.5."""
        return SubmissionFile(f"submission_{self.split}.csv", "id,proba,label\r\n", "\r\n", "\r\n")

    def submission_entries(self, places: Sequence[int], logits: Tensor) -> list[str]:
        entries = []
        for place, p in zip(places, logits.double().softmax(-1)[:, 1].tolist()):
            entries.append(f"{csv_line([self.rows[place].identifier('id')])},{p:.6f},{int(p > 0.5)}")
        return entries

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        record = row.record
        inputs = {"image": self.folder.root / record["img"], "text": record["text"]}
        return Example(str(record["id"]), inputs, record.get("label"), row.place, row.facts("decided_by"))

    def _check(self, rows: RowBatch) -> Iterable[tuple[str, str]]:
        texts = rows.texts("text")
        images = rows.paths(self.folder, rows.texts("img"))
        rows.labels("label", (0, 1), optional=self.may_lack_labels)
        rows.texts("decided_by", optional=True)
        return zip(plain_paths(images), plain_texts(texts))
