"""A small sound encoder that starts from nothing: the log-mel spectrogram and convolutions over it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msd_framework.models.base import ENCODERS, Encoded, Encoder
from msd_framework.models.layers.pooling import masked_mean, visible
from msd_framework.ranges import below_one, positive
from msd_framework.structures import ModalityInputs

LOUDNESS_FLOOR = 1e-6


@ENCODERS.register("log_mel")
class LogMelEncoder(Encoder):
    r"""Convolutions over the energies that an ear hears, a token for each two windows of time.

    .. math:: S_{tm} = \log \Bigl(\epsilon + \sum_f M_{mf} \bigl|\mathrm{STFT}(x)_{tf}\bigr|^2\Bigr)

    with :math:`M` triangles of equal width on the mel scale, :math:`\mathrm{mel}(f) = 2595 \log_{10}(1 + f / 700)`. Each
    spectrogram is brought to mean 0 and variance 1 over the windows that hold sound, and two layers of 3 x 3 convolutions with
    max pooling follow; the bands of a window then become one token.

    Source: O'Shaughnessy, Speech Communication, 1987, p. 150; Davis and Mermelstein, 1980.

    Args:
        sample_rate: samples a second.
        num_bands: mel bands.
        window: samples of a window.
        hop: samples from one window to the next.
        num_channels: channels of the first convolution; the second has twice as many.
        hidden_size: D.
        dropout: the share of features that is dropped.
    """

    kinds = frozenset({"waveform"})

    filters: Tensor
    taper: Tensor

    def __init__(
        self,
        sample_rate: int,
        num_bands: int = 32,
        window: int = 256,
        hop: int = 128,
        num_channels: int = 16,
        hidden_size: int = 128,
        dropout: float = 0.1,
        freeze: bool = False,
    ):
        super().__init__()
        positive(sample_rate=sample_rate, num_bands=num_bands, window=window, hop=hop)
        positive(num_channels=num_channels, hidden_size=hidden_size)
        below_one(dropout=dropout)
        if num_bands < 4 or num_bands > window // 2:
            raise ValueError(f"num_bands must be 4 to {window // 2}, half of window, got {num_bands}.")
        self.width, self.window, self.hop = hidden_size, window, hop
        self.register_buffer("filters", mel_filters(sample_rate, window // 2 + 1, num_bands), persistent=False)
        self.register_buffer("taper", torch.hann_window(window), persistent=False)
        self.first = nn.Conv2d(1, num_channels, 3, padding=1)
        self.second = nn.Conv2d(num_channels, 2 * num_channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(2 * num_channels * (num_bands // 4), hidden_size)
        self.requires_grad_(not freeze)

    def forward(self, inputs: ModalityInputs) -> Encoded:
        spectrogram, mask = self.spectrogram(inputs)  # [B, L, bands], [B, L]
        x = _seen(spectrogram[:, None], mask)  # [B, 1, L, bands]
        x = F.max_pool2d(F.relu(self.first(x)), (1, 2))  # [B, channels, L, bands / 2]
        x = F.relu(self.second(_seen(x, mask)))  # [B, 2 channels, L, bands / 2]
        odd = x.shape[2] % 2
        x = F.max_pool2d(F.pad(_seen(x, mask), (0, 0, 0, odd)), 2)  # [B, 2 channels, L / 2, bands / 4]
        mask = F.pad(mask, (0, odd)).view(len(mask), -1, 2).any(2)  # [B, L / 2]
        tokens = F.relu(self.project(self.dropout(x.transpose(1, 2).flatten(2))))  # [B, L / 2, D]
        return Encoded(tokens, mask, masked_mean(tokens, mask))

    def spectrogram(self, inputs: ModalityInputs) -> tuple[Tensor, Tensor]:
        """The normalised log-mel spectrogram, float [B, L, bands], and the windows that hold sound, bool [B, L]."""
        samples = visible(inputs.values, inputs.mask)  # [B, T]
        samples = F.pad(samples.to(torch.promote_types(samples.dtype, torch.float32)), (0, self.window))
        is_sound = F.pad(inputs.mask, (0, self.window))
        windows = samples.unfold(1, self.window, self.hop)  # [B, L, window], one for each start within the sound
        mask = is_sound.unfold(1, self.window, self.hop)[..., : self.hop].any(2)  # [B, L]
        spectrum = torch.fft.rfft(windows * self.taper.to(windows))
        energy = spectrum.abs().square()  # [B, L, F]
        bands = (energy @ self.filters.to(energy) + LOUDNESS_FLOOR).log()  # [B, L, bands]
        return _normalised(bands, mask), mask


def mel_filters(sample_rate: int, num_frequencies: int, num_bands: int) -> Tensor:
    """Triangles of equal width on the mel scale, float [F, M], each between the peaks of its neighbours, from 0 Hz on."""
    highest = 2595 * math.log10(1 + sample_rate / 2 / 700)
    peaks = 700 * (10 ** (torch.linspace(0, highest, num_bands + 2, dtype=torch.float64) / 2595) - 1)  # [M + 2], in Hz
    frequencies = torch.linspace(0, sample_rate / 2, num_frequencies, dtype=torch.float64)[:, None]  # [F, 1]
    rising = (frequencies - peaks[:-2]) / (peaks[1:-1] - peaks[:-2])
    falling = (peaks[2:] - frequencies) / (peaks[2:] - peaks[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)  # [F, M]
    nearest = (frequencies - peaks[1:-1]).abs().argmin(0)  # a band that is narrower than the frequencies are apart
    filters[nearest, torch.arange(num_bands)] = filters[nearest, torch.arange(num_bands)].clamp(min=1e-3)
    return filters.float()


def _normalised(x: Tensor, mask: Tensor) -> Tensor:
    shown = mask[..., None]
    count = (mask.sum(1) * x.shape[-1]).clamp(min=1).view(-1, 1, 1)
    centred = torch.where(shown, x - torch.where(shown, x, 0.0).sum((1, 2), keepdim=True) / count, 0.0)
    return centred * (centred.square().sum((1, 2), keepdim=True) / count + 1e-5).rsqrt()


def _seen(x: Tensor, mask: Tensor) -> Tensor:
    """Planes [B, C, L, bands] with zeros in the windows [B, L] that hold nothing."""
    return x * mask[:, None, :, None].to(x.dtype)
