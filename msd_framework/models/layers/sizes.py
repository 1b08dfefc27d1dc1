"""The sizes of a BERT that reads the regions of an image beside its words."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from msd_framework.ranges import positive


@dataclass(frozen=True)
class TextSizes:
    """What fixes the shapes of its weights, and the heads; the defaults are those of the published models."""

    vocab_size: int = 30522
    feature_size: int = 2048
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    num_segments: int = 2

    def __post_init__(self) -> None:
        positive(**asdict(self))
