"""NLVR: is what a sentence says of a drawing of three boxes true? (Suhr et al., ACL 2017)."""

from __future__ import annotations

import itertools
import os
from array import array
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, ClassVar, Literal

from msd_framework.data.base import DATASETS, Example, MultimodalDataset, check_opening
from msd_framework.data.files import DataFolder, missing, unknown_split
from msd_framework.data.rows.json_lines import JsonLines
from msd_framework.data.rows.row import Record, RowBatch
from msd_framework.errors import DataError, did_you_mean
from msd_framework.structures import DatasetInfo

ROOT = "data/nlvr"
PAGE = "https://lil.nlp.cornell.edu/nlvr/"
LABELS = ("false", "true")
NUM_PERMUTATIONS = 6


@DATASETS.register("nlvr")
class NLVR(MultimodalDataset):
    """Cornell NLVR v1 as published: a sentence and an image of three boxes, 0 for false and 1 for true.

    A line of ``<split>/<split>.json`` has ``sentence``, ``label``, ``identifier`` and ``directory``; its six images differ in the
    order of the boxes alone, and lie in one directory: none of them is on both sides of a split that is cut in two by directory.

    Args:
        split: which of the splits to read.
        root: the folder that holds a folder a split.
        permutations: how many orders of an example's boxes to use, 1 to 6; those whose image is not there are left out.
        hold_out: directories that belong to `<split>/held_out` and not to `<split>/rest`.
        allow_roots: folders outside the root that links in it may lead to, such as those of a shared disk.
        max_examples: how many examples to keep at most, the first of the file, permutations counted; all if left out.
        on_error: "raise" stops at the first line that cannot be read; "skip" leaves such lines out and counts them.
    """

    splits: ClassVar[tuple[str, ...]] = (
        *("train", "train/rest", "train/held_out", "dev", "dev/rest", "dev/held_out", "test", "test/rest", "test/held_out"),
    )
    overlapping: ClassVar[tuple[Set[str], ...]] = tuple({part.partition("/")[0], part} for part in splits if "/" in part)

    def __init__(
        self,
        split: str,
        root: str = ROOT,
        permutations: int = 1,
        hold_out: list[str] | None = None,
        allow_roots: list[str] | None = None,
        max_examples: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ):
        if not 1 <= permutations <= NUM_PERMUTATIONS:
            raise ValueError(f"permutations is {permutations}, wanted 1 to {NUM_PERMUTATIONS}")
        check_opening(type(self), {"root": root, "hold_out": hold_out}, split, max_examples)
        self.data, self.permutations = DataFolder(Path(root), allow_roots), permutations
        self.folder, _, part = split.partition("/")
        held_out, directories, lines = set(hold_out or []), set[str](), itertools.count()
        used = array("q")  # of each example, 8 * line + k

        def choose(records: Sequence[Record]) -> None:
            for record in records:
                line, directory = next(lines), record["directory"]
                directories.add(directory)
                if part and (directory in held_out) != (part == "held_out"):
                    continue
                for k in range(permutations):
                    # the first order is always used: a run then says that its file is missing
                    if k == 0 or os.path.isfile(self.data.root / self._image(record, k)):
                        used.append(8 * line + k)

        file = self.data.root / self.folder / f"{self.folder}.json"
        self.lines = JsonLines(file).open("identifier", self._check, on_error, on_taken=choose)
        self.skipped = self.lines.skipped
        for name in sorted(held_out - directories if part else ()):
            known = sorted(directories)
            hint = did_you_mean(name, known)
            raise DataError(f"{file}: no example has the directory {name!r} of hold_out.{hint} Known: {', '.join(known)}")
        if not used:
            raise DataError(f"{file}: no example is left for split {split!r}, hold_out lists every directory")
        self.used = used[:max_examples]

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        return DatasetInfo({"image": "pixels", "text": "tokens"}, 2, "single_label", LABELS)

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        folder, _, part = split.partition("/")
        tree = [f"{folder}/{folder}.json", f"{folder}/images/<directory>/{folder}-<identifier>-<0 to 5>.png"]
        found = unknown_split("nlvr", split, cls.splits)
        if not found and part and not options.get("hold_out"):
            found = [f"split {split!r} needs to know which directories are held out: list them in hold_out."]
        return found or missing(Path(options.get("root", ROOT)) / tree[0], PAGE, tree)

    def __len__(self) -> int:
        return len(self.used)

    def __getitem__(self, index: int) -> Example:
        number, k = divmod(self.used[index], 8)
        row = self.lines[number]
        inputs = {"image": self.data.root / self._image(row.record, k), "text": row.record["sentence"]}
        name, target = f"{row.record['identifier']}-{k}", LABELS.index(row.record["label"])
        return Example(name, inputs, target, row.place, row.facts("directory"))

    @property
    def fingerprint(self) -> str:
        return self.lines.fingerprint

    def _check(self, rows: RowBatch) -> None:
        for key in ("identifier", "sentence", "directory"):
            rows.texts(key)
        rows.labels("label", LABELS)
        for k in range(self.permutations):
            rows.paths(self.data, [self._image(record, k) for record in rows.records])

    def _image(self, record: Record, k: int) -> str:
        return f"{self.folder}/images/{record['directory']}/{self.folder}-{record['identifier']}-{k}.png"
