"""How many operations a step needs at least, counted by hand: matrix products of what is there, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.made import FEATURE_SIZE, NUM_CLASSES
from msd_framework.structures import Batch

NUM_SPECIAL = 2
"""[CLS] and [SEP], which stay where the text is hidden."""


def step_flops(sizes: Mapping[str, int], lengths: Sequence[tuple[int, int]], views: Sequence[str]) -> int:
    """Operations of forward and backward pass of a VisualBERT; a multiplication and its addition are two.

    Only tokens that are there count, each region is projected once, the first layer projects each token once for all views
    (they share its embedding), attention is that of each view at its own length, and of the last layer only what is read counts.
    The backward pass does each product twice, for inputs and weights; regions are no weights and need no derivative.

    Args:
        sizes: the transformer's.
        lengths: words and regions of each example.
        views: the views that the student sees, `full` among them.
    """
    projected = regions_flops(sizes, lengths)
    return 3 * (transformer_flops(sizes, lengths, views) + projected) - projected


def regions_flops(sizes: Mapping[str, int], lengths: Sequence[tuple[int, int]]) -> int:
    """Regions become embeddings."""
    return 2 * sum(regions for _, regions in lengths) * FEATURE_SIZE * sizes["hidden_size"]


def transformer_flops(sizes: Mapping[str, int], lengths: Sequence[tuple[int, int]], views: Sequence[str]) -> int:
    """Embeddings become logits."""
    depth, d, wide = sizes["num_layers"], sizes["hidden_size"], sizes["intermediate_size"]
    shown = {"full": (1, 1), "image": (0, 1), "text": (1, 0)}
    rows = [length for view in views for length in row_lengths(lengths, *shown[view])]
    read, tokens, distinct = len(rows), sum(rows), sum(words + regions for words, regions in lengths)

    square, perceptron = 2 * d * d, 2 * 2 * d * wide  # a token's
    total = 0
    for layer in range(depth):
        going_on = read if layer == depth - 1 else tokens
        seen = distinct if layer == 0 else tokens
        asking = read if layer == depth - 1 else seen
        total += asking * square  # queries
        total += seen * 2 * square  # keys and values
        total += sum(4 * (1 if layer == depth - 1 else length) * length * d for length in rows)  # scores, and what is read
        total += going_on * (square + perceptron)
    return total + read * (square + 2 * d * NUM_CLASSES)  # pooler and classifier


def row_lengths(lengths: Sequence[tuple[int, int]], text: int, image: int) -> list[int]:
    """How long each example is where text, image or both are shown."""
    return [(words if text else NUM_SPECIAL) + (regions if image else 0) for words, regions in lengths]


def lengths_of(batch: Batch) -> list[tuple[int, int]]:
    """Words and regions of each example."""
    words, regions = (batch.inputs[m].mask.sum(1).tolist() for m in ("text", "image"))
    return list(zip(words, regions))
