"""One transformer that reads any number of modalities as one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from msd_framework.models.base import MODELS, Encoded, Encoder, ModelOfEncoders
from msd_framework.models.layers.distinct import OncePerInput, encode_once, mixes_examples
from msd_framework.models.layers.dropout import Dropout
from msd_framework.models.layers.packed import Segment
from msd_framework.models.layers.transformer import LayerSizes, Transformer, bert_initialization
from msd_framework.models.single_sequence import SingleSequence
from msd_framework.ranges import positive
from msd_framework.structures import Inputs, ModalityInputs


class Reader(nn.Module):
    """Tokens of one modality to what the transformer reads: projected, and marked as of this modality."""

    def __init__(self, width: int, hidden_size: int):
        super().__init__()
        self.project = nn.Linear(width, hidden_size)
        self.mark = nn.Parameter(torch.empty(hidden_size))

    def forward(self, tokens: Tensor) -> Tensor:
        projected: Tensor = self.project(tokens)
        return projected + self.mark


@MODELS.register("single_stream")
class SingleStream(ModelOfEncoders, SingleSequence):
    r"""An encoder a modality, whose tokens one transformer reads as one sequence, after a token of its own.

    .. math::
        h &= \mathrm{Transformer}\bigl(\mathrm{norm}([c; W_1 t_1 + b_1 + u_1; \ldots; W_M t_M + b_M + u_M])\bigr) \\
        z &= W\, \mathrm{dropout}(\tanh(W_p h_1 + b_p)) + b, \qquad t_m = \mathrm{encoder}_m(\mathrm{input}_m)

    with c a learned [CLS], and :math:`u_m` what marks modality m. Where a token stands within its modality is its encoder's to say;
    what is hidden is not in the sequence, special positions included. Encoders may be as small as embeddings:
    `{type: transformer, num_layers: 0}` for words, `patches` for pixels.

    Args:
        hidden_size: D.
        num_layers: transformer layers.
        num_heads: heads of each attention.
        intermediate_size: features inside each layer's perceptron; 4 D if left out.
        dropout: the share of features that is dropped.
        attention_dropout: the share of attention weights that is dropped.
        initializer_range: standard deviation of the initial weights of all but the encoders.
    """

    def __init__(
        self,
        encoders: dict[str, Encoder],
        num_classes: int,
        hidden_size: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        intermediate_size: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        initializer_range: float = 0.02,
    ):
        super().__init__(encoders, num_classes)
        positive(hidden_size=hidden_size, num_layers=num_layers, intermediate_size=intermediate_size)
        self.summary_size = hidden_size
        self.first = nn.Parameter(torch.empty(hidden_size))
        self.readers = nn.ModuleDict({m: Reader(encoders[m].width, hidden_size) for m in self.modalities})
        self.norm = nn.LayerNorm(hidden_size)
        sizes = hidden_size, num_heads, intermediate_size or 4 * hidden_size, dropout, attention_dropout
        self.encoder = Transformer(num_layers, LayerSizes(*sizes, layer_norm_eps=1e-5))
        self.pooler = nn.Linear(hidden_size, hidden_size)
        self.dropout = Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, num_classes)
        self.apply(bert_initialization(initializer_range))
        for vector in (self.first, *(reader.mark for reader in self.readers.values())):
            nn.init.normal_(vector, std=initializer_range)  # type: ignore[arg-type]
        self.encoders = nn.ModuleDict(dict(sorted(encoders.items())))

    def classify(self, summary: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(self.dropout(summary)))

    def parts(self, views: Sequence[Inputs]) -> list[list[Segment]]:
        own = list(map(self.own, views))
        mask = torch.ones_like(next(iter(own[0].values())).mask[:, :1])  # [B, 1]
        place = torch.zeros_like(mask, dtype=torch.long)
        first = Segment((place,), mask, (place,), lambda place: self.first.expand(*place.shape, -1))
        segment = {}
        for m in self.modalities:
            segment[m] = OncePerInput(partial(self._part, m), mixes_examples(self.encoders[m]))
        parts = []
        for view in own:
            parts.append([first, *(segment[m](inputs) for m, inputs in view.items())])
        return parts

    def _part(self, modality: str, inputs: ModalityInputs) -> Segment:
        encoder = self.encoders[modality]
        encoded: Encoded = encode_once(encoder, inputs, encoder)
        mask = encoded.mask & inputs.present[:, None]  # [B, L]
        return Segment((encoded.tokens,), mask, (encoded.tokens,), self.readers[modality], modality)
