"""Models whose transformer reads all modalities as one sequence, and whose classifier reads its first position."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from msd_framework.models.base import SummaryModel
from msd_framework.models.features import FUSED, NO_CLS, SUMMARY, Features, Span, layer_features, layers_of, stack_features
from msd_framework.models.layers.dropout import Dropout
from msd_framework.models.layers.packed import Move, Segment, mask_of, pack, read_layers
from msd_framework.models.layers.pooling import visible
from msd_framework.models.layers.transformer import Transformer, whole
from msd_framework.structures import Feature, FeatureKind, Inputs, ModelOutput


class SingleSequence(SummaryModel):
    r"""A transformer over the parts of all modalities, one after the other.

    .. math:: h = \mathrm{Transformer}(\mathrm{dropout}(\mathrm{norm}([e_1; \ldots; e_L]))), \qquad p = \tanh(W h_1 + b)

    A subclass says which parts stand in the sequence of a view, and makes logits of p.
    """

    encoder: Transformer
    pooler: nn.Linear  # W and b
    # whether all views share one pass without padding (`layers/packed.py`); if not, each runs padded, with the same numbers
    packed: bool = True
    # whether views that show the same drop the same features of their embeddings; only where `packed`
    share_embedding_dropout: bool = True

    @abstractmethod
    def parts(self, views: Sequence[Inputs]) -> list[list[Segment]]:
        """What stands in the sequence of each view, in order; the first position of the first part is the one that is pooled."""

    @property
    def before_first_layer(self) -> tuple[nn.LayerNorm, Dropout]:
        """What embeddings go through to be read by the transformer."""
        owner: Any = getattr(self, "embeddings", self)
        return owner.norm, owner.dropout

    def spans(self, view: Sequence[Segment]) -> dict[str, Span]:
        """Where each modality has its positions in the sequence of a view, and all of them as `fused`."""
        spans: dict[str, Span] = {}
        start = 0
        for segment in view:
            if segment.modality is not None:
                own = segment.mask if segment.special is None else segment.mask & ~segment.special
                spans[segment.modality] = Span(own, start)
            start += segment.mask.shape[1]
        return spans | {FUSED: Span(mask_of(view))}

    def summarise_views(self, views: Sequence[Inputs]) -> Tensor:
        return self._read(self.parts(views), ())[0]  # [V, B, D]

    @property
    def feature_kinds(self) -> dict[str, FeatureKind]:
        # [CLS] and [SEP] belong to no modality's part
        num_layers = len(self.encoder.layers)
        kinds: dict[str, FeatureKind] = layer_features(FUSED, num_layers) | {SUMMARY: "pooled"}
        for modality in self.modalities:
            kinds |= layer_features(modality, num_layers, NO_CLS)
        return kinds

    def forward_features(self, views: Sequence[Inputs], wanted: Sequence[Collection[str]]) -> tuple[ModelOutput, list[Features]]:
        parts = self.parts(views)
        summaries, states = self._read(parts, layers_of(chain(*wanted)))
        features: list[Features] = []
        for view, of_view, names, summary in zip(parts, states, wanted, summaries):
            spans = self.spans(view)
            of_layers = stack_features(names, self.encoder, of_view, spans[FUSED].mask, spans)
            features.append(of_layers | {SUMMARY: Feature(summary)} if SUMMARY in names else of_layers)
        return ModelOutput(self.classify(summaries)), features

    def embed(self, view: Sequence[Segment]) -> tuple[Tensor, Tensor]:
        """The sequence that the transformer reads, padded, float [B, L, D], and its mask, bool [B, L]."""
        norm, dropout = self.before_first_layer
        embedded = []
        for segment in view:
            # what is hidden may be no number at all, which even an attention of 0 would let through
            contents = [visible(x, segment.mask) if x.is_floating_point() else x for x in segment.contents]
            embedded.append(dropout(norm(segment.embed(*contents))))
        return torch.cat(embedded, 1), mask_of(view)

    def pool(self, first: Tensor) -> Tensor:
        return torch.tanh(self.pooler(first))

    def _read(self, views: Sequence[Sequence[Segment]], layers: Collection[int]) -> tuple[Tensor, list[Mapping[int, Tensor]]]:
        """The summaries [V, B, D] of several views, and the states [B, L, D] of some layers in each of them."""
        states: list[dict[int, Tensor]]
        if self.packed:
            norm, dropout = self.before_first_layer
            x, rows = pack(views, self.encoder.token_cost)
            x, place = norm(x), cast(Move, rows.place)  # [U, D]
            # Dropped before tokens are put into rows, they are alike in all views, and the first layer projects each of them once.
            if self.training and not self.share_embedding_dropout:
                x, place = place(x), whole  # [N, D]
            first, packed = read_layers(self.encoder, dropout(x), rows, place, layers)  # [V * B, D]
            states = [{} for _ in views]
            for layer, sequence in packed.items():
                for of_view, x in zip(states, rows.unpack(sequence)):
                    of_view[layer] = x
        else:
            padded = [self.encoder.trace(*self.embed(view), layers) for view in views]
            first = torch.cat([hidden[:, 0] for hidden, _ in padded])
            states = [of_view for _, of_view in padded]
        return self.pool(first).view(len(views), -1, self.summary_size), [*states]
