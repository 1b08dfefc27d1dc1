"""Written and spoken digits, from recordings that are made here in the publisher's layout, and from the real ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from msd_framework.data.processors.audio import Waveform
from msd_framework.data.sets.av_digits import AVDigits
from msd_framework.errors import DataError
from tests.sounds import write_fsdd

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two speakers, recordings 0 to 13 of every digit."""
    return str(write_fsdd(tmp_path_factory.mktemp("fsdd")))


def parts(dataset: AVDigits) -> list[tuple[int, str]]:
    """The image and the recording of each example."""
    names = [dataset[i].id.split("-", 1) for i in range(len(dataset))]
    return [(int(image), recording) for image, recording in names]


def test_an_example_is_an_image_and_a_sound_of_the_same_digit(root: str) -> None:
    digits, dataset = load_digits(), AVDigits("validation", root)
    for index in (0, 17, 296):
        example = dataset[index]
        image, recording = parts(dataset)[index]
        np.testing.assert_array_equal(example.inputs["image"], digits.images[image])
        assert example.inputs["audio"] == Path(root) / "recordings" / f"{recording}.wav"
        assert example.target == digits.target[image] == int(recording[0])
        assert example.facts == {"speaker": recording.split("_")[1]}
        assert example.source == str(example.inputs["audio"])
        assert len(Waveform(8000).load(example.inputs["audio"])) > 300


def test_a_link_to_a_recording_is_followed_where_it_is_allowed(root: str, tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    for file in (Path(root) / "recordings").iterdir():
        (tmp_path / "recordings" / file.name).symlink_to(file)
    with pytest.raises(DataError, match=r"\.wav' does not lie inside .+recordings: a link leads to .+allow_roots=\["):
        AVDigits("test", str(tmp_path))
    assert parts(AVDigits("test", str(tmp_path), allow_roots=[root])) == parts(AVDigits("test", root))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=8)
@given(pairs=st.integers(1, 8), seed=st.integers(0, 3), speakers=st.sampled_from([None, ["ann"]]))
def test_no_image_and_no_recording_is_in_two_splits_and_no_image_has_one_twice(
    root: str, pairs: int, seed: int, speakers: list[str] | None
) -> None:
    pairs = min(pairs, 4 if speakers is None else 3)
    found = {s: parts(AVDigits(s, root, pairs, seed, speakers)) for s in SPLITS}
    for which in (0, 1):
        seen = [{part[which] for part in found[s]} for s in SPLITS]
        assert seen[0].isdisjoint(seen[1])
        assert seen[0].isdisjoint(seen[2])
        assert seen[1].isdisjoint(seen[2])
    for split, size in zip(SPLITS, (1000, 297, 500)):
        assert len(set(found[split])) == len(found[split]) == size * pairs
        assert set(Counter(image for image, _ in found[split]).values()) == {pairs}


def test_recordings_are_those_of_the_publishers_split_and_used_about_as_often(root: str) -> None:
    numbers = {"train": {10, 11, 12, 13}, "validation": {5, 6, 7, 8, 9}, "test": {0, 1, 2, 3, 4}}
    for split, wanted in numbers.items():
        used = Counter(recording for _, recording in parts(AVDigits(split, root)))
        assert {int(r.split("_")[2]) for r in used} == wanted
        for digit in "0123456789":
            counts = [n for r, n in used.items() if r[0] == digit]
            assert max(counts) - min(counts) <= 1


def test_held_out_speakers_are_heard_in_the_test_split_alone(root: str) -> None:
    for split in SPLITS:
        heard = {recording.split("_")[1] for _, recording in parts(AVDigits(split, root, test_speakers=["bob"]))}
        assert heard == ({"bob"} if split == "test" else {"ann"})


def test_the_pairing_is_chosen_by_its_seed_alone(root: str) -> None:
    assert parts(AVDigits("test", root)) == parts(AVDigits("test", root))
    assert parts(AVDigits("test", root)) != parts(AVDigits("test", root, pairing_seed=1))
    assert parts(AVDigits("test", root, max_examples=7)) == parts(AVDigits("test", root))[:7]


def test_a_fingerprint_is_that_of_the_pairs_wherever_the_files_lie(root: str, tmp_path: Path) -> None:
    (tmp_path / "moved").symlink_to(root)
    made = [AVDigits("test", root), AVDigits("test", root, pairing_seed=1), AVDigits("test", root, 2), AVDigits("validation", root)]
    assert len({dataset.fingerprint for dataset in made}) == 4
    assert AVDigits("test", str(tmp_path / "moved")).fingerprint == made[0].fingerprint


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pairs": 0}, "pairs must be 1 or more and pairing_seed 0 or more, got 0 and 0"),
        ({"pairing_seed": -1}, "pairs must be 1 or more and pairing_seed 0 or more, got 1 and -1"),
        ({"max_examples": 0}, "max_examples is 0, wanted at least 1, or null for all"),
    ],
)
def test_numbers_out_of_range_are_told(root: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        AVDigits("test", root, **options)


def test_an_unknown_speaker_is_told_with_the_nearest(root: str) -> None:
    with pytest.raises(DataError, match=r"nobody is called 'bop'. Did you mean 'bob'\? Speakers: ann, bob"):
        AVDigits("test", root, test_speakers=["bop"])


def test_too_few_recordings_are_told(root: str) -> None:
    with pytest.raises(DataError, match="has 8 recordings of 0 for this split, wanted at least 9"):
        AVDigits("train", root, pairs=9)


def test_what_is_missing_is_told_with_where_to_get_it(tmp_path: Path, root: str) -> None:
    text = "recordings is missing: download the data set from https://github.com/Jakobovski/free-spoken-digit-dataset"
    assert text in AVDigits.check({"root": str(tmp_path)}, "test")[0]
    with pytest.raises(DataError, match=text):
        AVDigits("test", str(tmp_path))
    assert AVDigits.check({"root": root}, "tset") == [
        "av_digits has no split 'tset'. Did you mean 'test'? Its splits: train, validation, test."
    ]
    assert AVDigits.check({"root": root}, "test") == []


def test_a_file_of_another_name_stops_or_is_left_out(tmp_path: Path) -> None:
    root = write_fsdd(tmp_path / "fsdd", numbers=(0, 5, 10), speakers=["ann"])
    (root / "recordings" / "seven_ann_1.wav").touch()
    (root / "recordings" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"seven_ann_1.wav: wanted a name of the form <digit>_<speaker>_<number>.wav"):
        AVDigits("test", str(root))
    dataset = AVDigits("test", str(root), on_error="skip")
    assert len(dataset) == 500
    assert [text.split(": ")[0] for text in dataset.skipped] == [str(root / "recordings" / "seven_ann_1.wav")]


def test_the_real_recordings_can_all_be_read(shared_data: Path) -> None:
    root = shared_data / "fsdd"
    sound = Waveform(sample_rate=8000, silence=0.1)
    for split, size in zip(SPLITS, (3000, 891, 1500)):
        dataset = AVDigits(split, str(root), pairs=3)
        assert len(dataset) == size
        assert {dataset[i].facts["speaker"] for i in range(200)} == {"george", "jackson", "lucas", "nicolas", "theo", "yweweler"}
        lengths = [len(sound.load(dataset[i].inputs["audio"])) for i in range(0, size, 10)]
        assert 400 < min(lengths) <= max(lengths) <= 8000
