"""Random numbers apart from those of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def random_numbers_apart(seed: int | None = None, device: torch.device | None = None) -> Iterator[None]:
    """While this lasts, torch draws from a stream of its own; the run's own stream then goes on as if nothing had been drawn.

    Whatever is made in here can therefore be made earlier, later or not at all, and no number of the run changes.

    Args:
        seed: where that stream begins; where the run's stands if None.
        device: a GPU whose stream is set apart as well; the CPU's alone if None.

    >>> state = torch.get_rng_state()
    >>> with random_numbers_apart(seed=7):
    ...     _ = torch.rand(1)
    >>> torch.equal(torch.get_rng_state(), state)
    True
    """
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        if seed is not None:
            # torch.manual_seed would touch a GPU's stream too
            torch.default_generator.manual_seed(seed)
        yield
