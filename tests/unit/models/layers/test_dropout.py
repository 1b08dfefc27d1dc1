"""Dropout with 16-bit draws keeps the promises of torch's."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msd_framework.models.layers.dropout import Dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_it_drops_its_share_and_scales_the_rest(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    n = 400_000
    y = Dropout(p)(torch.ones(n, dtype=dtype))
    dropped = int((y == 0).sum())
    assert abs(dropped - p * n) < 5 * math.sqrt(n * p * (1 - p))  # five standard deviations of a binomial
    torch.testing.assert_close(y[y != 0].double().unique(), torch.tensor([1 / (1 - p)], dtype=torch.float64), rtol=4e-3, atol=0)


def test_the_mean_is_kept_to_the_draws_precision() -> None:
    step = 2**-16
    dropout = Dropout(0.1)
    share = round(0.1 / step) * step
    y = dropout(torch.ones(1000, dtype=torch.float64))
    assert y.max().item() == pytest.approx(1 / (1 - share), rel=1e-15)
    assert abs(share - 0.1) <= step / 2


def test_draws_of_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(1_000_000)) != 0).double() - 0.5
    for lag in (1, 2, 3, 4, 8):  # four draws share a word of 64 bits
        assert abs((kept[lag:] * kept[:-lag]).mean().item()) < 5 * 0.25 / 1000


@given(shape=st.lists(st.integers(0, 7), max_size=3).map(tuple))
def test_any_shape_is_taken(shape: tuple[int, ...]) -> None:
    x = torch.ones(shape)
    assert Dropout(0.3)(x).shape == x.shape


def test_the_same_features_are_dropped_from_the_gradient() -> None:
    x = torch.randn(100, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.5)(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, (y / x).detach(), rtol=1e-12, atol=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # torch's own, when it first loads its forward mode
def test_forward_derivatives_equal_backward_ones() -> None:
    x = torch.randn(50, dtype=torch.float64)

    def dropped(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return Dropout(0.4)(x)

    y, tangent = torch.func.jvp(dropped, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, y / x, rtol=1e-12, atol=0)


def test_the_seed_decides() -> None:
    x = torch.ones(1000)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(Dropout(0.3)(x))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_nothing_is_dropped_outside_training_or_at_zero() -> None:
    x = torch.randn(10)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_all_is_dropped_at_one() -> None:
    x = torch.randn(10, requires_grad=True)
    y = Dropout(1.0)(x)
    assert torch.equal(y, torch.zeros(10))
    y.sum().backward()
    assert torch.equal(x.grad, torch.zeros(10))  # type: ignore[arg-type]


@pytest.mark.parametrize("p", [-0.1, 1.5])
def test_a_share_must_be_one(p: float) -> None:
    with pytest.raises(ValueError, match="dropout must lie between 0 and 1, got"):
        Dropout(p)
