"""Sound files as waveforms."""

from __future__ import annotations

import wave
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msd_framework.data.base import PROCESSORS, Processor, as_array, padded
from msd_framework.errors import DataError
from msd_framework.ranges import positive
from msd_framework.structures import ModalityInputs

LARGEST = 2**15  # the absolute value of the largest 16-bit sample
MOST_OVERSHOOT = 1.5  # float samples up to it are clipped to 1, as resamplers overshoot it; beyond, they are of another scale


@PROCESSORS.register("waveform")
class Waveform(Processor):
    """A PCM `.wav` file of 16 bits a sample as numbers from -1 to 1, the mean of its channels; silence before and after it cut off.

    In place of a file there may be its samples [T], int16 or floats from -1 to 1, or `{"array": samples, "sampling_rate": 16000}`.
    Nothing is resampled: a file of another rate is an error, since the same frequencies would be another sound to a model.

    Args:
        sample_rate: samples a second, which every file must have.
        max_seconds: what is beyond it is left out.
        silence: what is still silence where sound begins or ends, as a share of the file's loudest sample; 0 cuts zeros alone.
    """

    kind = "waveform"

    def __init__(self, sample_rate: int = 16000, max_seconds: float = 1.0, silence: float = 0.0):
        positive(sample_rate=sample_rate, max_seconds=max_seconds)
        if not 0 <= silence < 1:
            raise ValueError(f"silence must be 0 or more and below 1, got {silence}.")
        self.sample_rate, self.max_seconds, self.silence = sample_rate, max_seconds, silence
        self.max_samples = max(1, round(max_seconds * sample_rate))

    def load(self, value: Any) -> Tensor:
        """A sound's samples as int16 [T], with at least one of them."""
        is_file = isinstance(value, (str, PurePath))
        samples = read_wav(Path(value), self.sample_rate) if is_file else _in_memory(value, self.sample_rate)  # [T]
        loudness = np.abs(samples.astype(np.int32))
        (loud,) = np.nonzero(loudness > self.silence * loudness.max())
        start, end = (loud[0], loud[-1] + 1) if len(loud) else (0, 1)
        return torch.from_numpy(samples[start:end][: self.max_samples].copy())

    def blank(self) -> Tensor:
        return torch.zeros(1, dtype=torch.int16)

    def collate(self, loaded: Sequence[Tensor]) -> ModalityInputs:
        """Samples float32 [B, T], padded with zeros to the longest, and which are there [B, T]."""
        values, mask = padded(loaded)  # [B, T]
        return ModalityInputs(values.float() / LARGEST, mask)

    @property
    def facts(self) -> dict[str, Any]:
        return {"sample_rate": self.sample_rate}

    @property
    def fingerprint(self) -> str:
        return f"waveform {self.sample_rate} {self.max_seconds} {self.silence}"


def read_wav(path: Path, sample_rate: int | None = None) -> np.ndarray[Any, np.dtype[np.int16]]:
    """The samples of a PCM file of 16 bits, int16 [T], the mean of its channels; it must have the rate unless that is None."""
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate, count = file.getparams()[:4]
            content = file.readframes(min(count, path.stat().st_size))  # a damaged file may claim any number
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such sound file") from error
    except Exception as error:  # a damaged file can make the reader raise anything
        raise DataError(f"{path}: cannot be read as a PCM .wav file ({str(error) or type(error).__name__})") from error
    if width != 2 or sample_rate not in (None, rate):
        raise DataError(f"{path}: has {8 * width} bits a sample at {rate} Hz, wanted 16 bits at {sample_rate or 'any'} Hz")
    if len(content) < 2 * channels * count:
        raise DataError(f"{path}: is cut off after {len(content) // (2 * channels)} of {count} samples")
    if not count:
        raise DataError(f"{path}: holds no sample")
    mean: np.ndarray[Any, Any] = np.frombuffer(content, "<i2").reshape(-1, channels).mean(1)  # [T]
    return mean.astype(np.int16)


def _in_memory(value: Any, sample_rate: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    if isinstance(value, Mapping):
        if value.get("sampling_rate") != sample_rate:
            raise DataError(f"a sound has {value.get('sampling_rate')} samples a second, wanted {sample_rate}")
        value = value.get("array")
    samples = as_array(value)
    is_whole, is_real = samples.dtype == np.int16, samples.dtype.kind == "f" and bool(np.isfinite(samples).all())
    if samples.ndim != 1 or not samples.size or not (is_whole or is_real):
        text = f"a sound is an array of {samples.dtype} {list(samples.shape)}, wanted samples [T], int16 or floats from -1 to 1"
        raise DataError(text)
    if is_real:
        loudest = np.abs(samples).max()
        if loudest > MOST_OVERSHOOT:
            raise DataError(f"a sound has a sample of {loudest:g}, wanted int16 or floats from -1 to 1")
        samples = np.clip(np.round(samples * LARGEST), -LARGEST, LARGEST - 1).astype(np.int16)
    return samples


def write_wav(path: Path, samples: Tensor, sample_rate: int) -> None:
    """Writes one channel of 16 bits a sample; ``samples`` is float [T], from -1 to 1."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((samples * LARGEST).round().clamp(-LARGEST, LARGEST - 1).to(torch.int16).numpy().astype("<i2").tobytes())
