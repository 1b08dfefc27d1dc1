"""What is compared on: the sizes of student and teacher, and made batches whose lengths vary as those of real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from msd_framework.structures import Batch, ModalityInputs, tree_map

VIEWS = ("full", "image", "text")
NUM_CLASSES = 3
FEATURE_SIZE = 2048
MAX_WORDS, MAX_REGIONS = 128, 100
"""The longest text and image, which scripts that pad every batch alike pad to."""


@dataclass(frozen=True)
class Sizes:
    """A student, its teacher, and a batch of B examples.

    Args:
        student: options of the student's transformer.
        teacher: the same of the teacher's.
        num_examples: B.
    """

    student: Mapping[str, int]
    teacher: Mapping[str, int]
    num_examples: int = 16


def transformer(num_layers: int, hidden_size: int, num_heads: int, intermediate_size: int) -> dict[str, int]:
    return {
        "num_layers": num_layers,
        "hidden_size": hidden_size,
        "num_heads": num_heads,
        "intermediate_size": intermediate_size,
    }


SIZES = {
    "published": Sizes(transformer(4, 312, 12, 1200), transformer(12, 768, 12, 3072)),
    "small": Sizes(transformer(2, 96, 4, 384), transformer(4, 192, 4, 768)),
}
"""TinyBERT's student (Jiao et al., 2020) and BERT-base; and a pair that is measured in a minute."""


def make_batch(num_examples: int, seed: int, first: int = 0) -> Batch:
    """Texts of about 27 words in 8..128 and 36..100 regions of 2048 features, padded to the longest of the batch.

    Args:
        num_examples: B.
        seed: what the batch is made from.
        first: the place of the first example in its split.
    """
    g = torch.Generator().manual_seed(seed)
    num_words = (torch.randn(num_examples, generator=g) * 0.35 + 3.2958).exp().round().clamp(8, MAX_WORDS).long()
    num_regions = torch.randint(36, MAX_REGIONS + 1, (num_examples,), generator=g)
    place = torch.arange(int(num_words.max()))
    mask = place < num_words[:, None]  # [B, L]
    special = (place == 0) | (place == num_words[:, None] - 1)
    ids = torch.randint(1000, 30000, mask.shape, generator=g).masked_fill(~mask, 0)
    shown = torch.arange(int(num_regions.max())) < num_regions[:, None]
    regions = torch.randn(*shown.shape, FEATURE_SIZE, generator=g) * shown[..., None]  # [B, L, F]
    inputs = {"image": ModalityInputs(regions, shown), "text": ModalityInputs(ids, mask, {"special": special & mask}, 2)}
    targets = torch.randint(NUM_CLASSES, (num_examples,), generator=g)
    places = range(first, first + num_examples)
    return Batch(inputs, targets, tuple(map(str, places)), tuple(places))


def make_batches(number: int, num_examples: int) -> list[Batch]:
    """Batches of different examples of one split."""
    return [make_batch(num_examples, seed=i, first=i * num_examples) for i in range(number)]


def first_of(batch: Batch) -> Batch:
    """The first example of a batch alone."""
    return replace(tree_map(lambda x: x[:1], batch), ids=batch.ids[:1], places=batch.places[:1])
