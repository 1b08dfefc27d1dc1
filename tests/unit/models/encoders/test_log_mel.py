"""The log-mel encoder, against numpy and transformers in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from msd_framework.models.encoders.log_mel import LOUDNESS_FLOOR, LogMelEncoder, mel_filters
from msd_framework.structures import ModalityInputs

LENGTHS = (2000, 700, 1)


def sounds(dtype: torch.dtype = torch.float64) -> ModalityInputs:
    values = torch.randn(len(LENGTHS), max(LENGTHS), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return ModalityInputs(values.to(dtype), torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None])


def encoder(**options: int) -> LogMelEncoder:
    torch.manual_seed(0)
    made = LogMelEncoder(sample_rate=8000, dropout=0.0, **options)  # type: ignore[arg-type]
    made.taper = torch.hann_window(made.window, dtype=torch.float64)
    return made.eval()


def by_hand(samples: np.ndarray, filters: np.ndarray, window: int, hop: int) -> np.ndarray:
    """The normalised log-mel spectrogram of one sound, a window at a time, in float64 and without a fast transform."""
    n = np.arange(window)
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * n / window)
    transform = np.exp(-2j * np.pi * np.outer(np.arange(window // 2 + 1), n) / window)
    rows = []
    for start in range(0, len(samples), hop):
        frame = np.zeros(window)
        seen = samples[start : start + window]
        frame[: len(seen)] = seen
        rows.append(np.log(filters.T @ np.abs(transform @ (taper * frame)) ** 2 + LOUDNESS_FLOOR))
    bands = np.array(rows)
    return (bands - bands.mean()) / np.sqrt(bands.var() + 1e-5)


@pytest.mark.parametrize(("window", "hop"), [(256, 128), (200, 80), (64, 64), (64, 100)])
def test_a_spectrogram_is_the_formula_in_float64(window: int, hop: int) -> None:
    made, inputs = encoder(window=window, hop=hop, num_bands=12), sounds()
    found, mask = made.spectrogram(inputs)
    filters = made.filters.double().numpy()
    for i, length in enumerate(LENGTHS):
        wanted = by_hand(inputs.values[i, :length].numpy(), filters, window, hop)
        assert mask[i].sum() == len(wanted)
        np.testing.assert_allclose(found[i, : len(wanted)].numpy(), wanted, atol=1e-9)  # float64, sums in another order
        assert bool((found[i, len(wanted) :] == 0).all())


def test_in_float32_it_is_as_good_as_float32() -> None:
    made = encoder()
    wanted, _ = made.spectrogram(sounds())
    found, _ = made.spectrogram(sounds(torch.float32))
    torch.testing.assert_close(found.double(), wanted, atol=1e-3, rtol=0)  # logarithms of energies that are nearly nothing


@pytest.mark.parametrize(("rate", "frequencies", "bands"), [(8000, 129, 20), (16000, 257, 40), (22050, 513, 64)])
def test_filters_are_those_of_transformers(rate: int, frequencies: int, bands: int) -> None:
    from transformers.audio_utils import mel_filter_bank

    theirs = mel_filter_bank(frequencies, bands, 0.0, rate / 2, rate, norm=None, mel_scale="htk")
    np.testing.assert_allclose(mel_filters(rate, frequencies, bands).numpy(), theirs, atol=1e-6)  # float32


def test_a_band_that_lies_between_two_frequencies_hears_the_nearest_one() -> None:
    filters = mel_filters(8000, 33, 32)  # frequencies 125 Hz apart, the lowest bands 40 Hz
    assert bool((filters.sum(0) >= 1e-3).all())
    assert bool((filters <= 1).all())


def test_energies_are_those_of_transformers() -> None:
    from transformers.audio_utils import spectrogram

    made, inputs = encoder(num_bands=16), sounds()
    found, mask = made.spectrogram(inputs)
    samples = np.pad(inputs.values[0].numpy(), (0, 256))
    bands = spectrogram(
        samples, np.hanning(257)[:-1], 256, 128, power=2.0, center=False, mel_filters=made.filters.double().numpy(), mel_floor=0.0
    )
    logs = np.log(np.asarray(bands, np.float64).T[: int(mask[0].sum())] + LOUDNESS_FLOOR)
    wanted = (logs - logs.mean()) / logs.std()
    np.testing.assert_allclose(found[0, : len(wanted)].numpy(), wanted, atol=1e-4)  # theirs is complex64


def test_loudness_changes_nothing() -> None:
    """A spectrogram of mean 0: twice as loud is a sound with each log energy log 4 higher."""
    made, inputs = encoder(), sounds()
    quiet, loud = (made.spectrogram(replace(inputs, values=inputs.values * scale))[0] for scale in (1.0, 2.0))
    torch.testing.assert_close(quiet, loud, atol=1e-3, rtol=0)  # the floor under the logarithm


@pytest.mark.parametrize("odd", [128 * 5, 128 * 5 + 1, 128 * 6, 1])
def test_tokens_are_as_many_as_pairs_of_windows(odd: int) -> None:
    made = LogMelEncoder(sample_rate=8000, hidden_size=8)
    encoded = made(ModalityInputs(torch.randn(2, odd), torch.ones(2, odd, dtype=torch.bool)))
    windows = -(-odd // 128)
    assert encoded.mask.sum(1).tolist() == [-(-windows // 2)] * 2
    assert encoded.tokens.shape == (*encoded.mask.shape, 8)


def test_it_learns_to_tell_a_high_tone_from_a_low_one() -> None:
    torch.manual_seed(0)
    made = LogMelEncoder(sample_rate=8000, num_bands=8, num_channels=4, hidden_size=8)
    head = torch.nn.Linear(8, 2)
    optimizer = torch.optim.Adam([*made.parameters(), *head.parameters()], lr=1e-2)

    def batch(seed: int) -> tuple[ModalityInputs, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(2, (16,), generator=generator)
        pitch = 300 + 1200 * y + 200 * torch.rand(16, generator=generator)
        tone = torch.sin(2 * torch.pi * pitch[:, None] * torch.arange(1000) / 8000) + 0.1 * torch.randn(
            16, 1000, generator=generator
        )
        return ModalityInputs(tone, torch.ones(16, 1000, dtype=torch.bool)), y

    for step in range(15):
        x, y = batch(step)
        loss = torch.nn.functional.cross_entropy(head(made(x).pooled), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, y = batch(99)
    assert (head(made.eval()(x).pooled).argmax(1) == y).float().mean() == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sample_rate": 0}, "sample_rate must be above 0"),
        ({"hop": 0}, "hop must be above 0"),
        ({"num_channels": 0}, "num_channels must be above 0"),
        ({"num_bands": 3}, "num_bands must be 4 to 128, half of window, got 3"),
        ({"num_bands": 129}, "num_bands must be 4 to 128, half of window, got 129"),
        ({"dropout": 1.0}, "dropout must be 0 or more and below 1"),
    ],
)
def test_bad_sizes_are_told(options: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        LogMelEncoder(**{"sample_rate": 8000} | options)  # type: ignore[arg-type]
