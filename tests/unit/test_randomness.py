"""Random numbers that are drawn apart from a run's."""

from __future__ import annotations

import torch

from msd_framework.randomness import random_numbers_apart


def test_numbers_drawn_apart_change_none_of_the_run():
    state = torch.get_rng_state()
    with random_numbers_apart(seed=7):
        first = torch.rand(1)
    with random_numbers_apart(seed=7):
        assert torch.rand(1) == first
    assert torch.equal(torch.get_rng_state(), state)
