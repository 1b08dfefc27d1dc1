"""Random numbers: their seeds, their states as tensors, and those that are drawn apart from the run's."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


@contextmanager
def random_numbers_apart(seed: int | None = None, device: torch.device | None = None) -> Iterator[None]:
    """While this lasts, torch draws from a stream of its own; the run's own stream then goes on as if nothing had been drawn.

    Args:
        seed: where that stream begins; where the run's stands if None.
        device: a GPU whose stream is set apart as well; the CPU's alone if None.
    """
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        if seed is not None:
            # torch.manual_seed would touch a GPU's stream too
            torch.default_generator.manual_seed(seed)
        yield


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seeds torch on every device, Python and NumPy; each process with a stream of its own, the first one with the seed itself."""
    own = seed if rank == 0 else (seed + 0x9E3779B97F4A7C15 * rank) % 2**63
    torch.manual_seed(own)
    random.seed(own)
    np.random.seed(own % 2**32)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch, its device, Python and NumPy by name."""
    numpy = np.random.get_state(legacy=False)["state"]
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(random.getstate()[1]),
        "numpy": torch.tensor([*numpy["key"].tolist(), numpy["pos"]]),
    }
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def restore_random_state(state: Mapping[str, Tensor]) -> None:
    """Puts back what `random_state` took; nothing where this process was not there when it was taken."""
    if not state:
        return
    torch.set_rng_state(state["torch"])
    random.setstate((3, tuple(state["python"].tolist()), None))
    *keys, position = state["numpy"].tolist()
    np.random.set_state({"bit_generator": "MT19937", "state": {"key": np.array(keys, dtype=np.uint32), "pos": position}})
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Whatever is drawn within, by any generator of this process, the run draws the same numbers after it."""
    state = random_state(device)
    try:
        yield
    finally:
        restore_random_state(state)
