"""What architectures of transformers read of a sound, made as their feature extractors make it, for a whole batch at once."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SILENCE = 1e-7  # what is added to the variance of a sound that is brought to variance 1


class SoundFeatures(nn.Module, ABC):
    """Makes what one kind of architecture reads of sounds; samples beyond a sound's length are zeros and change nothing."""

    fewest: int  # samples that a sound must have; a shorter one counts as if zeros were of it
    least: int  # samples that there must be, beyond the sound or of it
    most: int | None = None  # samples beyond which a sound is cut off, as its feature extractor does

    @abstractmethod
    def forward(self, samples: Tensor, is_sound: Tensor) -> Tensor:
        """What the architecture reads of samples [B, T]; `is_sound`, bool [B, T], says which are of a sound: the first of each."""


class RawSamples(SoundFeatures):
    """The samples themselves, brought to mean 0 and variance 1 over each sound where the architecture was trained so."""

    def __init__(self, kernels: Sequence[int], strides: Sequence[int], normalise: bool):
        super().__init__()
        self.fewest = 1
        for kernel, stride in zip(reversed(kernels), reversed(strides)):
            self.fewest = (self.fewest - 1) * stride + kernel
        self.least, self.normalise = self.fewest, normalise

    def forward(self, samples: Tensor, is_sound: Tensor) -> Tensor:
        if not self.normalise:
            return samples
        count = is_sound.sum(1, keepdim=True)
        centred = torch.where(is_sound, samples - samples.sum(1, keepdim=True) / count, 0.0)
        return centred * (centred.square().sum(1, keepdim=True) / count + SILENCE).rsqrt()


class KaldiMel(SoundFeatures):
    r"""Log-mel energies in windows of 400 samples, one every 160, as the Audio Spectrogram Transformer reads them.

    .. math:: S_{tm} = \log \max\Bigl(\epsilon, \sum_f M_{mf} |\mathrm{FFT}(w \odot \mathrm{emphasised}(x_t - \bar x_t))_f|^2\Bigr)

    and then :math:`(S - \mu) / 2\sigma`, mean and deviation; windows that a sound does not fill are 0 before that.
    """

    WINDOW, HOP, FFT, EMPHASIS, FLOOR = 400, 160, 512, 0.97, 1.192092955078125e-07

    filters: Tensor
    taper: Tensor

    def __init__(self, sample_rate: int, num_bands: int, num_windows: int, mean: float, std: float, normalise: bool):
        super().__init__()
        self.fewest = self.least = self.WINDOW
        self.most = self.WINDOW + self.HOP * (num_windows - 1)
        self.num_windows = num_windows
        self.mean, self.scale = (mean, 2 * std) if normalise else (0.0, 1.0)
        self.register_buffer("filters", kaldi_filters(sample_rate, self.FFT, num_bands), persistent=False)
        self.register_buffer("taper", torch.hann_window(self.WINDOW, periodic=False), persistent=False)

    def forward(self, samples: Tensor, is_sound: Tensor) -> Tensor:
        """Spectrograms [B, num_windows, bands]."""
        frames = samples.unfold(1, self.WINDOW, self.HOP)  # [B, L, window]
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], -1)
        spectrum = torch.fft.rfft((frames - self.EMPHASIS * before) * self.taper.to(frames), self.FFT)
        bands = (spectrum.abs().square() @ self.filters.to(frames)).clamp(min=self.FLOOR).log()  # [B, L, bands]
        count = (is_sound.sum(1) - self.WINDOW) // self.HOP + 1  # [B]
        filled = torch.arange(bands.shape[1], device=bands.device) < count[:, None]
        bands = torch.where(filled[..., None], bands, torch.zeros_like(bands))
        return (F.pad(bands, (0, 0, 0, self.num_windows - bands.shape[1])) - self.mean) / self.scale


class WhisperMel(SoundFeatures):
    r"""Log-mel energies of as much time as Whisper's encoder takes, silence after the sound included.

    .. math:: S = \tfrac14 \Bigl(4 + \max\bigl(\log_{10} \max(10^{-10}, M |\mathrm{STFT}(x)|^2), \max(\cdot) - 8\bigr)\Bigr)
    """

    filters: Tensor  # [F, bands]
    taper: Tensor

    def __init__(self, filters: Tensor, fft: int, hop: int, num_windows: int):
        super().__init__()
        self.fewest, self.least, self.most = 1, num_windows * hop, num_windows * hop
        self.fft, self.hop = fft, hop
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("taper", torch.hann_window(fft), persistent=False)

    def forward(self, samples: Tensor, is_sound: Tensor) -> Tensor:
        """Spectrograms [B, bands, num_windows]."""
        spectrum = torch.stft(samples, self.fft, self.hop, window=self.taper.to(samples), return_complex=True)[..., :-1]
        energy = self.filters.to(samples).T @ spectrum.abs().square()  # [B, bands, L]
        bands = energy.clamp(min=1e-10).log10()
        return (torch.maximum(bands, bands.amax((1, 2), keepdim=True) - 8) + 4) / 4


def kaldi_filters(sample_rate: int, fft: int, num_bands: int, lowest: float = 20.0) -> Tensor:
    """Triangles on the mel scale of Kaldi, 1127 ln(1 + f / 700), straight in mel rather than in Hz: float [fft / 2 + 1, M]."""
    low, high = (1127 * math.log(1 + f / 700) for f in (lowest, sample_rate // 2))
    corners = torch.linspace(low, high, num_bands + 2, dtype=torch.float64)  # [M + 2]
    mel = 1127 * torch.log(1 + torch.arange(fft // 2 + 1, dtype=torch.float64) * (sample_rate / fft) / 700)[:, None]  # [F, 1]
    rising = (mel - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - mel) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()
