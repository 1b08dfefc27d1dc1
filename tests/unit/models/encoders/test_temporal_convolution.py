"""Convolutions over time, against sums written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_framework.models.encoders.temporal_convolution import TemporalConvolution
from msd_framework.structures import ModalityInputs


def encoder(feature_size: int = 3, num_layers: int = 2, kernel_size: int = 3) -> TemporalConvolution:
    torch.manual_seed(0)
    return TemporalConvolution(feature_size, 4, num_layers, kernel_size, dropout=0.0).double().eval()


def series(lengths: list[int], extra: int = 0, feature_size: int = 3) -> ModalityInputs:
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(length, feature_size, generator=generator, dtype=torch.float64) for length in lengths]
    longest = max(lengths) + extra
    values = torch.full((len(rows), longest, feature_size), torch.nan, dtype=torch.float64)  # padding is never read
    for row, into in zip(rows, values):
        into[: len(row)] = row
    return ModalityInputs(values, torch.arange(longest) < torch.tensor(lengths)[:, None])


def by_hand(made: TemporalConvolution, x: np.ndarray) -> np.ndarray:
    """The tokens of one series [T, F], a step and a place of the kernel at a time."""
    for layer, norm in zip(made.layers, made.norms):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()  # type: ignore[union-attr, operator]
        scale, shift = norm.weight.detach().numpy(), norm.bias.detach().numpy()  # type: ignore[union-attr, operator]
        half, steps = weight.shape[2] // 2, []
        for middle in range(0, len(x), 2):
            y = bias.copy()
            for offset in range(-half, half + 1):
                if 0 <= middle + offset < len(x):
                    y += weight[:, :, half + offset] @ x[middle + offset]
            steps.append(np.maximum((y - y.mean()) / np.sqrt(y.var() + 1e-5) * scale + shift, 0))
        x = np.array(steps)
    return x


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    extra=st.integers(0, 3),
    num_layers=st.integers(1, 4),
    kernel_size=st.sampled_from([1, 3, 5]),
)
def test_tokens_are_the_formula_whatever_else_is_in_the_batch(
    lengths: list[int], extra: int, num_layers: int, kernel_size: int
) -> None:
    made, inputs = encoder(num_layers=num_layers, kernel_size=kernel_size), series(lengths, extra)
    encoded = made(inputs)
    for i, length in enumerate(lengths):
        wanted = by_hand(made, inputs.values[i, :length].numpy())
        assert encoded.mask[i].sum() == len(wanted)
        np.testing.assert_allclose(encoded.tokens[i, : len(wanted)].detach(), wanted, atol=1e-9)  # sums in another order
        np.testing.assert_allclose(encoded.pooled[i].detach(), wanted.max(0), atol=1e-9)
        assert not encoded.tokens[i, len(wanted) :].any()


def test_a_token_sees_the_steps_that_the_page_says() -> None:
    made, inputs = encoder(num_layers=3, kernel_size=5), series([64])
    values = inputs.values.requires_grad_()
    made(ModalityInputs(values, inputs.mask)).tokens[0, 4].sum().backward()
    seen = values.grad.abs().sum(-1)[0].nonzero().flatten()  # type: ignore[union-attr]
    assert seen[-1] - seen[0] + 1 == 1 + (5 - 1) * (2**3 - 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd, so that it has a middle, got 4"),
        ({"num_layers": 0}, "num_layers must be above 0"),
        ({"hidden_size": 0}, "hidden_size must be above 0"),
        ({"dropout": 1.0}, "dropout must be 0 or more and below 1"),
    ],
)
def test_sizes_that_are_none_are_told(options: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        TemporalConvolution(3, **options)  # type: ignore[arg-type]
