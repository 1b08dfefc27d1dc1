"""How alike layers are: against the kernels' own definition in numpy, and what it must not depend on."""

from __future__ import annotations

from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_framework.analysis.layers import cka_table, linear_cka, suggested_layers


def points(num: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 12), st.integers(1, 8), st.integers(1, 8))
def test_it_is_the_alignment_of_centred_kernels(seed: int, num: int, width: int, other: int) -> None:
    """HSIC over example-by-example kernels, the definition; ours goes by features."""
    x, y = points(num, width, seed).numpy() + 3, points(num, other, seed + 1).numpy()
    centre = np.eye(num) - 1 / num
    k, h = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    wanted = np.trace(k @ h) / np.sqrt(np.trace(k @ k) * np.trace(h @ h))
    assert linear_cka(torch.from_numpy(x), torch.from_numpy(y)).item() == pytest.approx(wanted, abs=1e-10)


def test_turning_and_scaling_change_nothing() -> None:
    x, y = points(40, 6, 0), points(40, 9, 1)
    turned = torch.linalg.qr(points(6, 6, 2)).Q
    torch.testing.assert_close(linear_cka(5 * x @ turned + 1, y), linear_cka(x, y))
    assert linear_cka(x, x @ turned).item() == pytest.approx(1)


def test_strangers_have_next_to_nothing_in_common_and_constants_nothing() -> None:
    assert linear_cka(points(5000, 4, 0), points(5000, 4, 1)) < 0.01
    assert linear_cka(torch.ones(5, 2), points(5, 3, 0).float()) == 0


def test_a_table_has_a_row_for_each_layer_of_the_student() -> None:
    student, teacher = [points(20, 3, i) for i in range(2)], [points(20, 4, 10 + i) for i in range(3)]
    table = cka_table(student, teacher)
    assert table.shape == (2, 3)
    assert table[1, 2] == linear_cka(student[1], teacher[2])


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 6))
def test_the_suggestion_is_the_best_of_all_maps_that_rise(seed: int, n: int, m: int) -> None:
    table = torch.rand(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    maps = (combinations if n <= m else combinations_with_replacement)(range(m), n)
    best = max(sum(float(table[i, j]) for i, j in enumerate(chosen)) for chosen in maps)
    found = suggested_layers(table)
    assert list(found) == list(range(1, n + 1))
    assert sum(float(table[i - 1, j - 1]) for i, j in found.items()) == pytest.approx(best, abs=1e-12)
    rises = np.diff(list(found.values()))
    assert (rises >= int(n <= m)).all()
