"""Sounds of a made world: a short tone that glides up or down, pure or with a buzz, in noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE = 4000  # samples a second
LENGTHS = (800, 1200)  # the shortest and the longest tone, in samples
PITCHES = (250.0, 400.0)  # the lower end of a glide, in Hz; its upper end is half as high again
OVERTONES = 3  # harmonics of a tone that buzzes; the highest stays below half of `RATE`


def draw_tones(
    rising: NDArray[np.bool_], buzzing: NDArray[np.bool_], noise: float, generator: np.random.Generator
) -> list[NDArray[np.float32]]:
    r"""N tones, float32 [T], from -1 to 1.

    .. math:: x(t) = a \frac{1}{K} \sum_{k=1}^{K} \sin(k \varphi(t)), \qquad
        \varphi(t) = \varphi_0 + 2 \pi \int f, \qquad f = f_0\, 1.5^{u} \text{ or } f_0\, 1.5^{1 - u}

    with u from 0 to 1 over the tone, which rises or falls, and K = 1 harmonic, or 3 where it buzzes.

    Args:
        rising: bool [N]; the others fall.
        buzzing: bool [N]; the others are pure.
        noise: the standard deviation of the noise on each sample.
    """
    size = len(rising)
    lengths = generator.integers(LENGTHS[0], LENGTHS[1] + 1, size)
    pitch, phase, loudness = (generator.uniform(low, high, size) for low, high in (PITCHES, (0, 2 * np.pi), (0.3, 0.6)))
    sounds = []
    for i in range(size):
        u = np.linspace(0, 1, lengths[i])
        frequency = pitch[i] * 1.5 ** (u if rising[i] else 1 - u)
        angle = phase[i] + 2 * np.pi * frequency.cumsum() / RATE
        harmonics = np.arange(1, (OVERTONES if buzzing[i] else 1) + 1)
        tone = loudness[i] * np.sin(angle[:, None] * harmonics).mean(1)
        noisy = tone + noise * generator.standard_normal(lengths[i])
        sounds.append(noisy.clip(-1, 1).astype(np.float32))
    return sounds
