"""Written and spoken digits: an image and a sound of the same digit, which nobody made together."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from msd_framework.data.base import DATASETS, Example, MultimodalDataset, check_opening
from msd_framework.data.files import DataFolder, missing, unknown_split
from msd_framework.errors import DataError, did_you_mean
from msd_framework.structures import DatasetInfo

ROOT = "data/fsdd"
PAGE = "https://github.com/Jakobovski/free-spoken-digit-dataset"
DIGITS = tuple("0123456789")
# The images of each split, in their publisher's order, which goes from writer to writer; and the recordings by their number.
IMAGES = {"train": range(1000), "validation": range(1000, 1297), "test": range(1297, 1797)}
RECORDINGS = {"train": range(10, 10**6), "validation": range(5, 10), "test": range(5)}


class Recording(NamedTuple):
    """A sound file of the Free Spoken Digit Dataset, named ``<digit>_<speaker>_<number>.wav``."""

    path: Path
    digit: int
    speaker: str
    number: int


@DATASETS.register("av_digits")
class AVDigits(MultimodalDataset):
    """Scikit-learn's handwritten digits, 8 x 8 pixels of 0 to 16, paired with the spoken digits of FSDD.

    Images and recordings are split first, and paired then, each image with recordings of its digit in its own split: no image and
    no recording is in two splits. The publisher's recordings 0 to 4 of each speaker and digit are for testing, 5 to 9 here for
    validation.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, as `sklearn.datasets.load_digits` has it;
    Jackson et al., Free Spoken Digit Dataset, 2018, CC BY-SA 4.0.

    Args:
        split: train, validation or test.
        root: the folder that holds `recordings/`.
        pairs: recordings that each image is paired with.
        pairing_seed: chooses them.
        test_speakers: who is heard in the test split alone; all speakers are in all splits if left out.
        allow_roots: folders outside the root that links to recordings may lead to, such as those of a shared disk.
        max_examples: how many examples to keep at most, the first ones; all if left out.
        on_error: "raise" stops at the first file with a wrong name; "skip" leaves such files out and counts them.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "validation", "test")

    def __init__(
        self,
        split: str,
        root: str = ROOT,
        pairs: int = 1,
        pairing_seed: int = 0,
        test_speakers: list[str] | None = None,
        allow_roots: list[str] | None = None,
        max_examples: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ):
        if pairs < 1 or pairing_seed < 0:
            raise ValueError(f"pairs must be 1 or more and pairing_seed 0 or more, got {pairs} and {pairing_seed}.")
        check_opening(type(self), {"root": root}, split, max_examples)
        from sklearn.datasets import load_digits

        self.skipped: list[str] = []
        recordings = list(self._recordings(DataFolder(Path(root) / "recordings", allow_roots), on_error))
        heard = [r for r in recordings if _is_heard(r, split, test_speakers or [])]
        known = sorted({r.speaker for r in recordings})
        for name in test_speakers or []:
            if name not in known:
                raise DataError(f"{root}: nobody is called {name!r}.{did_you_mean(name, known)} Speakers: {', '.join(known)}")
        found = load_digits()
        self.images, digits = found.images, found.target  # [N, 8, 8] and [N]
        places = list(IMAGES[split])
        recordings = list(_pair(digits[places], heard, pairs, pairing_seed, root))
        self.paired = list(zip(np.repeat(places, pairs).tolist(), recordings))[:max_examples]

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        return DatasetInfo({"audio": "waveform", "image": "pixels"}, len(DIGITS), "single_label", DIGITS)

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        unknown, folder = unknown_split("av_digits", split, cls.splits), Path(options.get("root", ROOT)) / "recordings"
        if unknown or folder.is_dir():
            return unknown
        return missing(folder, PAGE, ["recordings/<digit>_<speaker>_<number>.wav"])

    def __len__(self) -> int:
        return len(self.paired)

    def __getitem__(self, index: int) -> Example:
        image, recording = self.paired[index]
        inputs = {"audio": recording.path, "image": self.images[image]}
        name = f"{image}-{recording.path.stem}"
        return Example(name, inputs, recording.digit, str(recording.path), {"speaker": recording.speaker})

    @property
    def fingerprint(self) -> str:
        pairs = [f"{image} {recording.path.name}" for image, recording in self.paired]
        return hashlib.sha256(self.images.tobytes() + "\n".join(pairs).encode()).hexdigest()

    def _recordings(self, folder: DataFolder, on_error: str) -> Iterator[Recording]:
        for path in sorted(folder.root.glob("*.wav")):
            folder.check(path.name)
            found = re.fullmatch(r"(\d)_(\w+?)_(\d{1,6})", path.stem)
            if found:
                yield Recording(path, int(found[1]), found[2], int(found[3]))
                continue
            text = f"{path}: wanted a name of the form <digit>_<speaker>_<number>.wav"
            if on_error == "raise":
                raise DataError(text)
            self.skipped.append(text)


def _is_heard(recording: Recording, split: str, test_speakers: Sequence[str]) -> bool:
    if test_speakers and (split == "test" or recording.speaker in test_speakers):
        return (split == "test") == (recording.speaker in test_speakers)
    return recording.number in RECORDINGS[split]


def _pair(digits: np.ndarray[Any, Any], recordings: Sequence[Recording], pairs: int, seed: int, root: str) -> Iterator[Recording]:
    """For each image in turn, as many different recordings of its digit; all of a digit are used about as often."""
    random = np.random.default_rng(seed)
    dealt: dict[int, Iterator[Recording]] = {}
    for digit in sorted(set(digits.tolist())):
        own = [r for r in recordings if r.digit == digit]
        if len(own) < pairs:
            raise DataError(f"{root}: has {len(own)} recordings of {digit} for this split, wanted at least {pairs}")
        dealt[digit] = _deal(own, pairs, random)
    for digit in digits.tolist():
        yield from itertools.islice(dealt[digit], pairs)


def _deal(recordings: list[Recording], pairs: int, random: np.random.Generator) -> Iterator[Recording]:
    """All of them in random order, again and again; no hand of ``pairs`` has one twice."""
    while True:
        order = random.permutation(len(recordings))
        for place in order[: len(order) // pairs * pairs]:
            yield recordings[place]
