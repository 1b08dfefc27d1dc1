"""UTD-MHAD: which of 27 actions does somebody perform, by skeleton, inertial sensor and depth video? (Chen et al., 2015)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from msd_framework.data.base import DATASETS, Example, MultimodalDataset, check_opening
from msd_framework.data.files import DataFolder, unknown_split
from msd_framework.errors import DataError
from msd_framework.structures import DatasetInfo

ROOT = "data/utd_mhad"
PAGE = "https://personal.utdallas.edu/~kehtar/UTD-MHAD.html"
FOLDERS = {"depth": "Depth", "inertial": "Inertial", "skeleton": "Skeleton"}
SUBJECTS = {"train": (1, 3, 5), "validation": (7,), "trainval": (1, 3, 5, 7), "test": (2, 4, 6, 8)}
ACTIONS = (
    *("swipe left", "swipe right", "wave", "clap", "throw", "arm cross", "basketball shoot", "draw x", "draw circle clockwise"),
    *("draw circle counter-clockwise", "draw triangle", "bowling", "boxing", "baseball swing", "tennis swing", "arm curl"),
    *("tennis serve", "push", "knock", "catch", "pick up and throw", "jog", "walk", "sit to stand", "stand to sit", "lunge"),
    "squat",
)


class Performance(NamedTuple):
    """Somebody performs an action; in this order, any 27 that follow each other have as good as all actions."""

    trial: int
    subject: int
    action: int  # from 1 on, as in names of files

    def __str__(self) -> str:
        return f"a{self.action}_s{self.subject}_t{self.trial}"


@DATASETS.register("utd_mhad")
class UTDMHAD(MultimodalDataset):
    """UTD-MHAD as published, a file of MATLAB for each modality of each recording: ``Skeleton/a1_s1_t1_skeleton.mat`` and so on.

    ``Skeleton`` has the places of 20 joints in metres [20, 3, T], ``Inertial`` acceleration in g and rotation in degrees a second
    [T, 6], ``Depth`` frames in millimetres [240, 320, T]. Only the folders that a run's models take must be there.

    Subjects 1, 3, 5 and 7 are for training and the others for testing, as in the paper; here 7 is for validation, which
    ``trainval`` has with the rest of the training subjects.

    Source: Chen, Jafari and Kehtarnavaz, UTD-MHAD: A Multimodal Dataset for Human Action Recognition, ICIP 2015.

    Args:
        split: train, validation, trainval or test.
        root: the folder that holds `Skeleton/`, `Inertial/` and `Depth/`.
        allow_roots: folders outside the root that links in it may lead to, such as those of a shared disk.
        max_examples: how many examples to keep at most, the first ones, which have all actions about as often; all if left out.
        on_error: "raise" stops at the first file with a wrong name; "skip" leaves such files out and counts them.
    """

    splits: ClassVar[tuple[str, ...]] = tuple(SUBJECTS)
    published: ClassVar[Mapping[str, int]] = {"train": 323, "validation": 108, "trainval": 431, "test": 430}
    overlapping: ClassVar[tuple[set[str], ...]] = ({"train", "trainval"}, {"validation", "trainval"})

    def __init__(
        self,
        split: str,
        root: str = ROOT,
        allow_roots: list[str] | None = None,
        max_examples: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ):
        check_opening(type(self), {"root": root}, split, max_examples)
        self.root, self.skipped = Path(root), list[str]()
        there = set(self._performances(DataFolder(self.root, allow_roots), on_error))
        self.performances = sorted(p for p in there if p.subject in SUBJECTS[split])[:max_examples]

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        return DatasetInfo(dict.fromkeys(FOLDERS, "features"), len(ACTIONS), "single_label", ACTIONS)

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        root = Path(options.get("root", ROOT))
        unknown = unknown_split("utd_mhad", split, cls.splits)
        if unknown or any((root / folder).is_dir() for folder in FOLDERS.values()):
            return unknown
        names = ", ".join(f"{folder}/a1_s1_t1_{modality}.mat" for modality, folder in FOLDERS.items())
        return [f"{root} holds no recordings: download the data set from {PAGE} and unpack it so that it holds {names} and so on."]

    def __len__(self) -> int:
        return len(self.performances)

    def __getitem__(self, index: int) -> Example:
        performance = self.performances[index]
        inputs = {m: self.root / folder / f"{performance}_{m}.mat" for m, folder in FOLDERS.items()}
        facts = {"subject": str(performance.subject)}
        return Example(str(performance), inputs, performance.action - 1, f"{self.root}, {performance}", facts)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(map(str, self.performances)).encode()).hexdigest()

    def _performances(self, folder: DataFolder, on_error: str) -> Iterator[Performance]:
        for modality, name in FOLDERS.items():
            for path in sorted((folder.root / name).glob("*.mat")):
                folder.check(f"{name}/{path.name}")
                found = re.fullmatch(rf"a(\d\d?)_s([1-8])_t(\d)_{modality}", path.stem)
                if found and 1 <= int(found[1]) <= len(ACTIONS):
                    yield Performance(int(found[3]), int(found[2]), int(found[1]))
                    continue
                text = f"{path}: wanted a name of the form a<1 to 27>_s<1 to 8>_t<trial>_{modality}.mat"
                if on_error == "raise":
                    raise DataError(text)
                self.skipped.append(text)
