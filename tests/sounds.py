"""A folder in the layout of the Free Spoken Digit Dataset, with tones for digits."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from msd_framework.data.processors.audio import write_wav

RATE = 8000


def write_fsdd(root: Path, numbers: Iterable[int] = range(14), speakers: Iterable[str] = ("ann", "bob")) -> Path:
    """Every speaker's recordings of every digit: a tone that is higher for a higher digit, and longer for a later number."""
    (root / "recordings").mkdir(parents=True)
    for digit in range(10):
        for s, speaker in enumerate(speakers):
            for number in numbers:
                time = torch.arange(400 + 20 * number) / RATE
                tone = 0.5 * torch.sin(2 * torch.pi * (300 + 250 * digit + 40 * s) * time)
                write_wav(root / "recordings" / f"{digit}_{speaker}_{number}.wav", tone, RATE)
    return root
