"""Sound files as waveforms, against scipy and the standard library; and whatever a file may hold instead."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import wavfile

from msd_framework.data.processors.audio import Waveform, read_wav, write_wav
from msd_framework.errors import DataError

TONE = (20_000 * np.sin(np.arange(600) / 7)).astype(np.int16)


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    wavfile.write(tmp_path / "tone.wav", 8000, TONE)
    return tmp_path / "tone.wav"


def written(path: Path, samples: np.ndarray, rate: int = 8000, width: int = 2, channels: int = 1) -> Path:
    """A file that the standard library wrote."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def heard_or_sentence(path: Path) -> int:
    """How many samples are heard of a file, or how long the sentence on it is."""
    try:
        return len(Waveform(8000).load(path))
    except DataError as error:
        return len(str(error).removeprefix(f"{path}: ")) if str(error).startswith(f"{path}: ") else 0


def test_samples_are_those_that_scipy_writes_and_reads(tone: Path) -> None:
    np.testing.assert_array_equal(read_wav(tone, 8000), TONE)
    assert read_wav(tone, 8000).dtype == np.int16
    np.testing.assert_array_equal(read_wav(tone, 8000), wavfile.read(tone)[1])


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    samples = torch.tensor([0.0, 0.5, -0.25, 1.0, -1.0, 2.0])
    write_wav(tmp_path / "a.wav", samples, 16000)
    rate, found = wavfile.read(tmp_path / "a.wav")
    assert (rate, found.tolist()) == (16000, [0, 16384, -8192, 32767, -32768, 32767])  # what is too loud is cut off


def test_several_channels_become_their_mean(tmp_path: Path) -> None:
    stereo = np.array([[100, 300], [-32768, -32768], [32767, 32767], [5, 6]], np.int16)
    wavfile.write(tmp_path / "stereo.wav", 8000, stereo)
    assert read_wav(tmp_path / "stereo.wav", 8000).tolist() == [200, -32768, 32767, 5]


def test_a_batch_holds_numbers_from_minus_one_to_one_and_says_which_are_there(tone: Path, tmp_path: Path) -> None:
    short = written(tmp_path / "short.wav", np.array([-32768, 16384], np.int16))
    sound = Waveform(sample_rate=8000)
    batch = sound.collate([sound.load(tone), sound.load(short)])
    assert batch.mask.sum(1).tolist() == [599, 2]  # the tone's first sample is 0, which is silence
    np.testing.assert_array_equal(batch.values[0].numpy(), TONE[1:].astype(np.float32) / 2**15)
    assert batch.values[1, :2].tolist() == [-1.0, 0.5]
    assert batch.values[1, 2:].abs().max() == 0
    assert sound.load(tone).dtype == torch.int16


@given(
    before=st.integers(0, 30),
    after=st.integers(0, 30),
    heard=st.lists(st.integers(-100, 100).filter(lambda v: abs(v) > 10), min_size=1, max_size=20),
)
def test_what_is_no_louder_than_silence_is_cut_off_at_both_ends(tmp_path_factory, before, after, heard) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.wav"
    heard, quiet = [100, *heard], [10, -10]  # a tenth of the loudest
    samples = np.array([*(quiet * before), *heard, *(quiet * after)], np.int16)
    assert Waveform(8000, silence=0.1).load(written(path, samples)).tolist() == heard
    assert Waveform(8000, silence=0.1).load(written(path, samples * 300)).tolist() == [300 * v for v in heard]


def test_silence_within_a_sound_stays_and_a_silent_file_is_one_sample(tmp_path: Path) -> None:
    sound = Waveform(8000, silence=0.1)
    loud = written(tmp_path / "a.wav", np.array([0, 9999, 0, 0, -9999, 0], np.int16))
    assert sound.load(loud).tolist() == [9999, 0, 0, -9999]
    assert sound.load(written(tmp_path / "b.wav", np.zeros(50, np.int16))).tolist() == [0]


def test_what_is_too_long_is_left_out_after_silence_is(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", np.array([0] * 10 + [9999] * 20, np.int16), rate=10)
    assert Waveform(10, max_seconds=0.5).load(path).tolist() == [9999] * 5
    assert Waveform(10, max_seconds=1e-9).max_samples == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rate": 16000}, "has 16 bits a sample at 16000 Hz, wanted 16 bits at 8000 Hz"),
        ({"width": 1}, "has 8 bits a sample at 8000 Hz, wanted 16 bits at 8000 Hz"),
        ({"width": 4}, "has 32 bits a sample at 8000 Hz, wanted 16 bits at 8000 Hz"),
    ],
)
def test_another_rate_or_width_is_told(tmp_path: Path, options: dict[str, int], text: str) -> None:
    path = written(tmp_path / "a.wav", np.zeros(16, np.int16), **options)
    with pytest.raises(DataError, match=f"a.wav: {text}"):
        Waveform(8000).load(path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", r"cannot be read as a PCM .wav file \(EOFError\)"),
        (b"RIFF", r"cannot be read as a PCM .wav file"),
        (
            b"not a sound at all, but long enough to be one",
            r"cannot be read as a PCM .wav file \(file does not start with RIFF id\)",
        ),
    ],
)
def test_a_file_that_is_no_sound_is_told(tmp_path: Path, content: bytes, text: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=f"a.wav: {text}"):
        Waveform(8000).load(tmp_path / "a.wav")


def test_a_missing_an_empty_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b.wav: no such sound file"):
        Waveform(8000).load(tmp_path / "b.wav")
    with pytest.raises(DataError, match=r"c.wav: holds no sample"):
        Waveform(8000).load(written(tmp_path / "c.wav", np.zeros(0, np.int16)))
    with pytest.raises(DataError, match=r"cannot be read as a PCM \.wav file \(.+Is a directory"):
        Waveform(8000).load(tmp_path)


def test_a_file_that_is_cut_off_is_told_and_no_memory_is_taken_for_what_it_claims(tone: Path) -> None:
    content = tone.read_bytes()
    tone.write_bytes(content[:-101])
    with pytest.raises(DataError, match=r"tone.wav: is cut off after 549 of 600 samples"):
        Waveform(8000).load(tone)
    tone.write_bytes(content[:40] + struct.pack("<I", 2**32 - 2) + content[44:])
    with pytest.raises(DataError, match=r"tone.wav: is cut off after 600 of 2147483647 samples"):
        Waveform(8000).load(tone)


@given(data=st.data())
def test_a_damaged_file_is_a_sound_or_a_sentence(tmp_path_factory, data) -> None:
    path = tmp_path_factory.mktemp("damaged") / "a.wav"
    content = bytearray(written(path, TONE[:40]).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 60) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    assert 0 < heard_or_sentence(path) <= 8000


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sample_rate": 0}, "sample_rate must be above 0, got 0"),
        ({"max_seconds": 0.0}, "max_seconds must be above 0, got 0"),
        ({"silence": 1.0}, "silence must be 0 or more and below 1, got 1.0"),
        ({"silence": -0.1}, "silence must be 0 or more and below 1, got -0.1"),
    ],
)
def test_bad_options_are_told(options: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Waveform(**options)  # type: ignore[arg-type]


def test_a_model_is_told_the_rate_and_a_cache_what_makes_other_tensors() -> None:
    assert Waveform(8000).facts == {"sample_rate": 8000}
    made = [Waveform(), Waveform(8000), Waveform(max_seconds=2), Waveform(silence=0.1)]
    assert len({sound.fingerprint for sound in made}) == 4
    assert Waveform().fingerprint == made[0].fingerprint


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(TONE, id="int16"),
        pytest.param(TONE / 2**15, id="float"),
        pytest.param((TONE / 2**15).astype(np.longdouble), id="longdouble"),
        pytest.param(TONE.astype(">i2"), id="big-endian int16"),
        pytest.param((TONE / 2**15).astype(">f4"), id="big-endian float"),
        pytest.param(TONE[::-1].copy()[::-1], id="negative strides"),
        pytest.param(torch.from_numpy(TONE), id="tensor"),
        pytest.param(torch.from_numpy(TONE / 2**15).requires_grad_(), id="tensor with gradient"),
    ],
)
@pytest.mark.parametrize("named", [False, True], ids=["alone", "with its rate"])
def test_samples_are_heard_as_their_file(tone, samples, named):
    sound = Waveform(sample_rate=8000)
    value = {"array": samples, "sampling_rate": 8000} if named else samples
    assert torch.equal(sound.load(value), sound.load(tone))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"array": TONE, "sampling_rate": 16000}, "has 16000 samples a second, wanted 8000"),
        (TONE.astype(np.int32), r"an array of int32 \[600\], wanted samples \[T\], int16 or floats"),
        (TONE.reshape(2, 300), r"an array of int16 \[2, 300\], wanted samples"),
        (np.array([0.0, np.nan]), r"an array of float64 \[2\], wanted samples"),
        (TONE.astype(np.float32), r"a sound has a sample of \d+(\.\d+)?, wanted int16 or floats from -1 to 1$"),
        (np.array([0.0, -1.51]), "a sound has a sample of 1.51, wanted int16 or floats from -1 to 1$"),
        ([[0.5], [0.5, 0.5]], "no array can be made of a list"),
        (np.zeros(0), r"an array of float64 \[0\], wanted samples"),
        (None, r"an array of object \[\], wanted samples"),
    ],
)
def test_what_are_no_samples_is_a_sentence(value, sentence):
    with pytest.raises(DataError, match=sentence):
        Waveform(sample_rate=8000).load(value)


def test_floats_a_little_beyond_1_are_clipped_as_resamplers_overshoot_it():
    loaded = Waveform(sample_rate=8000).load(np.array([1.5, 0.5, -1.2]))
    assert loaded.tolist() == [2**15 - 1, 2**14, -(2**15)]


def test_samples_in_bfloat16_are_heard():
    loaded = Waveform(sample_rate=8000).load(torch.tensor([0.5, -0.25], dtype=torch.bfloat16, requires_grad=True))
    assert loaded.tolist() == [2**14, -(2**13)]
