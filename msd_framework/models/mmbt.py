"""MMBT: BERT, with the image's regions or grid cells put before the words as if they were words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from msd_framework.models.base import MODELS, Encoder
from msd_framework.models.image_text import NO_WEIGHTS_OR_HEAD, ImageTextModel, regions_of
from msd_framework.models.layers.distinct import OncePerInput
from msd_framework.models.layers.dropout import Dropout
from msd_framework.models.layers.heads import HEADS
from msd_framework.models.layers.packed import Segment
from msd_framework.models.layers.pooling import visible
from msd_framework.models.layers.transformer import bert_initialization
from msd_framework.models.layers.word_embeddings import WordEmbeddings
from msd_framework.models.pretrained.mmbt import HEAD, WEIGHTS
from msd_framework.models.pretrained.published import choose_sizes, read_published
from msd_framework.models.pretrained.visual_bert import VisualBertSizes
from msd_framework.models.single_sequence import SingleSequence
from msd_framework.structures import Inputs, ModalityInputs


@MODELS.register("mmbt")
class Mmbt(ImageTextModel, SingleSequence):
    r"""A multimodal bitransformer, numerically that of its authors and of MMF.

    .. math::
        x &= [\mathrm{[CLS]};\ W v_1 + b;\ \ldots;\ W v_n + b;\ \mathrm{[SEP]};\ \mathrm{word}_1;\ \ldots;\ \mathrm{word}_m] \\
        h &= \mathrm{BERT}(x), \quad p = \tanh(W' h_1 + b'), \quad z = \mathrm{head}(\mathrm{dropout}(p))

    where each :math:`x` has its position and its segment added before BERT's layer norm. Positions count from 0 in both parts, that
    of the image with its [CLS] and [SEP] and that of the text, whose own [CLS] is the one before the image; masked regions are not
    counted. Two sentences of one text have segments 1 and 2, for which `num_segments` must be 3.

    Views share one pass without padding (`layers/packed.py`), and what they show alike is embedded once, dropout included. If a
    modality is left out, what embeds it gets no gradient.

    Source: Kiela et al., Supervised Multimodal Bitransformers for Classifying Images and Text, 2019, section 3.

    Args:
        max_positions: the longest text, and the most regions and two; 512 if neither this nor `pretrained` says.
        image_segment: the segment of the image's part; 1 for MMF's weights.
        text_segment: the segment of the text, to which its own segments are added; 0 for MMF's weights.
        cls_id: the id of [CLS].
        sep_id: the id of [SEP].
    """

    reads = frozenset({"pretrained"})
    without_weights = NO_WEIGHTS_OR_HEAD

    def __init__(
        self,
        num_classes: int,
        vocab_size: int | None = None,
        pad_id: int = 0,
        feature_size: int | None = None,
        hidden_size: int | None = None,
        num_layers: int | None = None,
        num_heads: int | None = None,
        intermediate_size: int | None = None,
        max_positions: int | None = None,
        num_segments: int | None = None,
        layer_norm_eps: float | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        image_segment: int = 0,
        text_segment: int = 1,
        head: Literal["linear", "transform"] = "linear",
        pretrained: str | None = None,
        pretrained_head: bool = False,
        image_encoder: Encoder | None = None,
        cls_id: int = 101,
        sep_id: int = 102,
        initializer_range: float = 0.02,
    ):
        super().__init__()
        weights = read_published(pretrained) if pretrained is not None else None
        self.sizes = sizes = choose_sizes(VisualBertSizes, WEIGHTS.sizes_of, locals(), weights)
        for name, value, size in (
            ("cls_id", cls_id, sizes.vocab_size),
            ("sep_id", sep_id, sizes.vocab_size),
            ("image_segment", image_segment, sizes.num_segments),
            ("text_segment", text_segment, sizes.num_segments),
        ):
            if not 0 <= value < size:
                raise ValueError(f"{name} must be in 0..{size - 1}, got {value}")
        self.num_classes, self.summary_size = num_classes, sizes.hidden_size
        self.image_segment, self.text_segment = image_segment, text_segment
        self.embeddings = WordEmbeddings(sizes, pad_id, (cls_id, sep_id), dropout, sizes.layer_norm_eps)
        self.image_projection = nn.Linear(sizes.feature_size, sizes.hidden_size)
        self.encoder = sizes.transformer(dropout, attention_dropout)
        self.pooler = nn.Linear(sizes.hidden_size, sizes.hidden_size)
        self.dropout = Dropout(dropout)
        self.head = HEADS[head](sizes.hidden_size, num_classes, sizes.layer_norm_eps)
        self.apply(bert_initialization(initializer_range))
        self.image_encoder = image_encoder
        WEIGHTS.load(self, weights)
        if pretrained_head:
            HEAD.load_head(self.head, weights)

    def classify(self, summary: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.dropout(summary)))

    def parts(self, views: Sequence[Inputs]) -> list[list[Segment]]:
        image_parts = OncePerInput(self._image_parts)
        parts = []
        for view in map(self.own, views):
            mask = next(iter(view.values())).mask
            first = self._mark(0, torch.zeros_like(mask[:, :1], dtype=torch.long), torch.ones_like(mask[:, :1]))
            image = image_parts(view["image"]) if "image" in view else []
            text = view["text"] if "text" in view else self.embeddings.empty(len(mask))
            parts.append([first, *image, self._words(text)])
        return parts

    def _image_parts(self, image: ModalityInputs) -> list[Segment]:
        features, mask = regions_of(image, self.image_encoder, self.sizes.feature_size)
        if mask.shape[1] + 2 > self.sizes.max_positions:
            raise ValueError(f"an image has {mask.shape[1]} regions and this model takes {self.sizes.max_positions - 2}")
        features = visible(features, mask)
        counted = mask.cumsum(1)  # [B, L]; the first region that is not masked has position 1
        regions = Segment((features,), mask, (features, counted), self._regions, "image")
        return [regions, self._mark(1, mask.sum(1, keepdim=True) + 1, mask.any(1, keepdim=True))]

    def _regions(self, features: Tensor, positions: Tensor) -> Tensor:
        segment = self.embeddings.segment.weight[self.image_segment]
        return cast(Tensor, self.image_projection(features) + self.embeddings.position(positions) + segment)

    def _mark(self, which: int, positions: Tensor, mask: Tensor) -> Segment:
        ids = self.embeddings.marks[which].expand_as(positions)
        return Segment((ids,), mask, (ids, positions, torch.full_like(positions, self.image_segment)), self.embeddings.words)

    def _words(self, text: ModalityInputs) -> Segment:
        e, ids = self.embeddings, text.values  # the text's own [CLS] is the one before the image
        made_of = (ids, text.extras.get("positions"), text.extras.get("segments"))
        positions, segments = e.positions(text).expand(ids.shape) - 1, e.segments(text) + self.text_segment
        contents = (ids[:, 1:], positions[:, 1:].clamp(min=0), segments[:, 1:])
        return Segment(made_of, text.mask[:, 1:], contents, e.words, "text", text.special[:, 1:])
