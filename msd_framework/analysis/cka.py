"""How alike two layers are, and which of a teacher's layers each of a student's comes nearest to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    r"""Centred kernel alignment with a linear kernel: 1 if one is the other rotated and scaled, 0 if they have nothing in common.

    .. math:: \mathrm{CKA}(X, Y) = \frac{\lVert Y^\top X \rVert_F^2}{\lVert X^\top X \rVert_F \, \lVert Y^\top Y \rVert_F}

    with each feature centred over the N examples. With fewer examples than features it is too large, whatever they are.

    Source: Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019 (arXiv:1905.00414), equation 7.

    Args:
        x: float [N, D].
        y: float [N, E], of the same examples.

    Returns:
        A scalar; 0 where one of them does not vary.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> f"{linear_cka(x, -2 * x[:, [1, 2, 0]] + 5):.6f}"
    '1.000000'
    """
    x, y = x - x.mean(0), y - y.mean(0)
    together, alone, other = (torch.linalg.matrix_norm(a.T @ b) for a, b in ((y, x), (x, x), (y, y)))
    product = alone * other
    return torch.where(product > 0, together.square() / product.clamp(min=torch.finfo(x.dtype).tiny), torch.zeros_like(product))


def cka_table(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The CKA of each of the student's layers with each of the teacher's, float [n, m].

    Args:
        student: float [N, D] a layer.
        teacher: float [N, E] a layer.
    """
    return torch.stack([torch.stack([linear_cka(x, y) for y in teacher]) for x in student])


def suggested_layers(table: Tensor) -> dict[int, int]:
    """The teacher's layer for each of the student's, counted from 1, that are most alike altogether.

    No layer is paired with one below that of the layer before; and where the teacher has as many or more, none is paired twice.

    Args:
        table: how alike they are, float [n, m].

    >>> suggested_layers(torch.tensor([[0.9, 0.8, 0.1], [0.95, 0.7, 0.2]]))
    {1: 1, 2: 2}
    """
    n, m = table.shape
    apart = int(n <= m)
    best = torch.full((n + 1, m + 1), -torch.inf, dtype=torch.float64)  # of the first i layers, if layer i has one of the first j
    best[0] = 0
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            best[i, j] = torch.maximum(best[i, j - 1], best[i - 1, j - apart] + table[i - 1, j - 1])
    found, j = {}, m
    for i in range(n, 0, -1):
        while best[i, j - 1] == best[i, j]:
            j -= 1
        found[i], j = j, j - apart
    return dict(sorted(found.items()))
