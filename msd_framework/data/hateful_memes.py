"""Hateful Memes: an image with a text on it, benign or hateful (Kiela et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from msd_framework.data.base import Example, MultimodalDataset
from msd_framework.data.files import DataFolder, missing, unknown_split
from msd_framework.data.json_lines import JsonLine, JsonLines
from msd_framework.errors import DataError
from msd_framework.registry import DATASETS
from msd_framework.structures import DatasetInfo

ROOT = "data/hateful_memes"
PAGE = "https://hatefulmemeschallenge.com"


class _Row(NamedTuple):
    text: str
    image: str
    target: int | None
    facts: Mapping[str, str]


@DATASETS.register("hateful_memes")
class HatefulMemes(MultimodalDataset):
    """Hateful Memes as published: a text and an image, 0 for benign and 1 for hateful.

    A line of ``<split>.jsonl`` is ``{"id": 42953, "img": "img/42953.png", "label": 0, "text": "..."}``. A split whose name
    begins with ``test`` may be blind: its lines have no ``label``, and its examples no target. An extra ``decided_by`` is
    kept with the predictions. ``dev`` and ``test`` are those of the first phase of the challenge; ``dev_seen`` and
    ``dev_unseen`` share 400 memes, so never train on one and report the other.

    Args:
        split: which of the splits to read.
        root: the folder that holds the split's jsonl file and `img/`.
        max_examples: how many examples to read at most, the first of the file; all if left out.
        on_error: "raise" stops at the first line that cannot be read; "skip" leaves such lines out and counts them.

    Attributes:
        skipped: a sentence for each line that was left out.

    Raises:
        DataError: if the file is missing, or a line of it cannot be read.
        ValueError: if ``max_examples`` is not positive.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> _ = (root / "dev_seen.jsonl").write_text('{"id": "08291", "img": "img/08291.png", "label": 1, "text": "look"}')
    >>> example = HatefulMemes("dev_seen", str(root))[0]
    >>> example.id, example.inputs["text"], example.target, example.inputs["image"].name
    ('08291', 'look', 1, '08291.png')
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "dev_seen", "dev_unseen", "test_seen", "test_unseen", "dev", "test")

    def __init__(self, split: str, root: str = ROOT, max_examples: int | None = None, on_error: Literal["raise", "skip"] = "raise"):
        if max_examples is not None and max_examples < 1:
            raise ValueError(f"max_examples is {max_examples}, wanted at least 1, or null for all")
        problems = self.check({"root": root}, split)
        if problems:
            raise DataError(" ".join(problems))
        self.folder, self.blind = DataFolder(Path(root)), split.startswith("test")
        self.lines = JsonLines(self.folder.root / f"{split}.jsonl", "id", self._row, on_error, max_examples)
        self.skipped = self.lines.skipped

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        return DatasetInfo({"image": "pixels", "text": "tokens"}, 2, "single_label", ("benign", "hateful"))

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        unknown = unknown_split("hateful_memes", split, cls.splits)
        file = Path(options.get("root", ROOT)) / f"{split}.jsonl"
        return unknown or missing(file, PAGE, [f"{split}.jsonl", "img/<id>.png"])

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Example:
        line = self.lines[index]
        text, image, target, facts = self._row(line)
        return Example(line.identifier("id"), {"image": self.folder.root / image, "text": text}, target, line.place, facts)

    @property
    def fingerprint(self) -> str:
        return self.lines.fingerprint

    def _row(self, line: JsonLine) -> _Row:
        return _Row(
            line.text("text"),
            line.path(self.folder, line.text("img")),
            None if self.blind and "label" not in line.record else line.label("label", (0, 1)),
            {"decided_by": line.text("decided_by")} if "decided_by" in line.record else {},
        )
