"""A small text encoder that starts from nothing: embeddings and transformer layers."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from msd_framework.models.base import ENCODERS, Encoded, LayeredEncoder
from msd_framework.models.features import Features, Span, layer_features, layers_of, stack_features
from msd_framework.models.layers.pooling import masked_mean
from msd_framework.models.layers.transformer import LayerSizes, Transformer
from msd_framework.ranges import not_negative, positive
from msd_framework.structures import FeatureKind, ModalityInputs


@ENCODERS.register("transformer")
class TextTransformer(LayeredEncoder):
    """Word and position embeddings, transformer layers, and the mean over the words.

    Args:
        vocab_size: how many word ids there are.
        pad_id: the id of [PAD].
        hidden_size: D.
        num_layers: transformer layers.
        num_heads: heads of each attention.
        intermediate_size: features inside each layer's perceptron; 4 D if left out.
        max_positions: the longest text.
        dropout: the share of features that is dropped.
        attention_dropout: the share of attention weights that is dropped.
        norm_first: whether layer norms stand before each part of a layer, which needs no warm-up, or after, as in BERT.
    """

    kinds = frozenset({"tokens"})

    def __init__(
        self,
        vocab_size: int,
        pad_id: int = 0,
        hidden_size: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        intermediate_size: int | None = None,
        max_positions: int = 512,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        norm_first: bool = True,
        freeze: bool = False,
    ):
        super().__init__()
        positive(vocab_size=vocab_size, hidden_size=hidden_size, intermediate_size=intermediate_size, max_positions=max_positions)
        not_negative(num_layers=num_layers)
        if not 0 <= pad_id < vocab_size:
            raise ValueError(f"pad_id must be in 0..{vocab_size - 1}, got {pad_id}")
        self.width, self.pad_id = hidden_size, pad_id
        self.word = nn.Embedding(vocab_size, hidden_size, padding_idx=pad_id)
        self.position = nn.Embedding(max_positions, hidden_size)
        self.max_positions = max_positions  # compared with the longest text before a run, by checks/components.py
        for table in (self.word, self.position):
            nn.init.normal_(table.weight, std=0.05)
        self.dropout = nn.Dropout(dropout)
        sizes = hidden_size, num_heads, intermediate_size or 4 * hidden_size, dropout, attention_dropout
        self.transformer = Transformer(num_layers, LayerSizes(*sizes, norm_first, layer_norm_eps=1e-5))
        self.requires_grad_(not freeze)

    @property
    def feature_kinds(self) -> dict[str, FeatureKind]:
        return super().feature_kinds | layer_features("", len(self.transformer.layers))

    def forward_features(self, inputs: ModalityInputs, wanted: Collection[str]) -> tuple[Encoded, Features]:
        length, longest = inputs.values.shape[1], self.position.num_embeddings
        if length > longest:
            raise ValueError(f"a text has {length} positions and this encoder takes {longest}; set max_positions")
        ids = inputs.values.masked_fill(~inputs.mask, self.pad_id)
        positions = inputs.extras.get("positions", torch.arange(length, device=ids.device))
        embedded = self.dropout(self.word(ids) + self.position(positions))  # [B, L, D]
        tokens, states = self.transformer.trace(embedded, inputs.mask, layers_of(wanted))
        encoded = Encoded(tokens, inputs.mask, masked_mean(tokens, inputs.mask))
        of_layers = stack_features(wanted, self.transformer, states, inputs.mask, {"": Span(inputs.mask)})
        return encoded, encoded.features(wanted) | of_layers
