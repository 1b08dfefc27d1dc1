"""ViLBERT: a transformer for the words and one for the regions of an image, which read in each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain
from typing import Literal, cast

import torch
from torch import Tensor, nn

from msd_framework.models.base import MODELS, Encoder
from msd_framework.models.features import KINDS, SUMMARY, Features, Span, cut, layer_features, of_layers
from msd_framework.models.image_text import NO_WEIGHTS_OR_HEAD, ImageTextModel, regions_of
from msd_framework.models.layers.distinct import OncePerInput
from msd_framework.models.layers.dropout import Dropout
from msd_framework.models.layers.heads import HEADS
from msd_framework.models.layers.pooling import visible
from msd_framework.models.layers.transformer import Attention, LayerSizes, TransformerLayer, bert_initialization, whole
from msd_framework.models.layers.word_embeddings import WordEmbeddings
from msd_framework.models.pretrained.published import HEAD, choose_sizes, read_published
from msd_framework.models.pretrained.vilbert import LAYER_NORM_EPS, WEIGHTS, VilbertSizes
from msd_framework.structures import Feature, FeatureKind, Inputs, ModalityInputs, ModelOutput


@dataclass(frozen=True)
class Stream:
    """One modality on its way through the layers."""

    x: Tensor  # float [B, L, D]
    mask: Tensor  # bool [B, L], True where a position holds something
    states: tuple[Tensor, ...] = ()  # x before the first layer and after each, where they are kept

    def through(self, layer: nn.Module) -> Stream:
        x = layer(self.x, self.mask)
        return replace(self, x=x, states=(*self.states, x) if self.states else ())

    @property
    def present(self) -> Tensor:
        """Whether an example has any position in this stream, bool [B]."""
        return self.mask.any(1)

    @property
    def first(self) -> Tensor:
        """The first position of each example that is not masked, float [B, D]; any one where there is none."""
        index = self.mask.byte().argmax(1)  # [B]
        return self.x.take_along_dim(index[:, None, None], 1).squeeze(1)


class CrossAttention(Attention):
    """What one stream reads in another; where that has no position, nothing at all: zeros before the output."""

    def forward(self, x: Tensor, other: Stream | None) -> Tensor:
        """What positions [B, Q, width] read in the other stream; None is one that was left out."""
        query = self.query(x)  # [B, Q, D]
        read = torch.zeros_like(query)
        if other is not None:
            read = self.read(query, self.key(other.x), self.value(other.x), other.mask)
            # a softmax over nothing but hidden positions spreads evenly over them, so what it read is taken back
            read = read.masked_fill(~other.present[:, None, None], 0.0)
        return cast(Tensor, self.output(read))  # [B, Q, width]


class Connection(nn.Module):
    """Text and image read in each other at the same time: a layer each, whose attention is to the other stream.

    Source: Lu et al., ViLBERT, NeurIPS 2019, section 3.1.
    """

    def __init__(self, text: LayerSizes, image: LayerSizes, hidden_size: int, num_heads: int):
        super().__init__()

        def layer(own: LayerSizes, other: LayerSizes) -> TransformerLayer:
            widths = own.hidden_size, other.hidden_size
            return TransformerLayer(own, CrossAttention(*widths, hidden_size, num_heads, own.attention_dropout))

        self.text, self.image = layer(text, image), layer(image, text)

    def forward(self, text: Stream, image: Stream | None) -> tuple[Stream, Stream | None]:
        """Both streams one layer on; an image that was left out stays so."""
        read = replace(text, x=self.text.step(text.x, whole, lambda x: self.text.attention(x, image)))
        if image is None:
            return read, None
        return read, replace(image, x=self.image.step(image.x, whole, lambda x: self.image.attention(x, text)))


# how two summaries become one, and the summary that changes nothing
FUSIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {"mul": (torch.mul, 1.0), "sum": (torch.add, 0.0)}
WHATS = ("hidden", "mean", "cls")  # what a layer of either stream has; `cls` is the position that is pooled


class RegionEmbeddings(nn.Module):
    r"""Regions as ViLBERT reads them: what each shows and where.

    .. math:: e = \mathrm{dropout}(\mathrm{norm}(W v + b + W' [x_1, y_1, x_2, y_2, a] + b'))

    with the box's corners and area as shares of the image's width, height and area. A region without a box has that of the
    whole image, [0, 0, 1, 1, 1], and so has every token of an image encoder.
    """

    def __init__(self, feature_size: int, hidden_size: int, dropout: float):
        super().__init__()
        self.feature = nn.Linear(feature_size, hidden_size)
        self.location = nn.Linear(5, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, LAYER_NORM_EPS)
        self.dropout = Dropout(dropout)

    def forward(self, features: Tensor, boxes: Tensor | None) -> Tensor:
        """Regions [B, L, F] with boxes [B, L, 4 or 5] to embeddings [B, L, D]."""
        everything = features.new_tensor([0.0, 0.0, 1.0, 1.0, 1.0])
        location = everything if boxes is None else with_area(boxes).to(features.dtype)
        return cast(Tensor, self.dropout(self.norm(self.feature(features) + self.location(location))))


def with_area(boxes: Tensor) -> Tensor:
    """Boxes [.., 4 or 5] as corners and area, [.., 5]."""
    if boxes.shape[-1] not in (4, 5):
        raise ValueError(f"boxes must be [x1, y1, x2, y2] or [x1, y1, x2, y2, area], got {boxes.shape[-1]} numbers a box")
    x1, y1, x2, y2 = boxes[..., :4].unbind(-1)
    return boxes if boxes.shape[-1] == 5 else torch.cat([boxes, ((x2 - x1) * (y2 - y1))[..., None]], -1)


@MODELS.register("vilbert")
class Vilbert(ImageTextModel):
    r"""ViLBERT, numerically that of its authors and of MMF.

    .. math::
        t &= \mathrm{ReLU}(W_t\, h^\mathrm{text}_1 + b_t), \quad v = \mathrm{ReLU}(W_v\, h^\mathrm{image}_1 + b_v) \\
        z &= \mathrm{head}(\mathrm{dropout}(t \odot v))

    with :math:`h` the streams after their last layers. The last `num_connections` layers of either stream each have a connection
    before them, in which the words read in the regions and the regions in the words. Of words, the first one is pooled; of regions,
    the first that is not masked, which in the authors' features is the whole image.

    Of an example without any position in one stream, the other one reads zeros in the connections, and is alone in the fusion:
    :math:`t \odot v` becomes t, or v. What several views show alike goes through the layers before the first connection once for
    all of them, dropout included. The stream of a modality that is left out does not run and gets no gradient.

    Source: Lu et al., ViLBERT: Pretraining Task-Agnostic Visiolinguistic Representations, NeurIPS 2019.

    Args:
        hidden_size: features of the text stream; 768 if neither this nor `pretrained` says.
        image_hidden_size: features of the image stream; 1024 if neither this nor `pretrained` says.
        image_num_layers: layers of the image stream; 6 if neither this nor `pretrained` says.
        image_num_heads: heads of its attentions; 8 if this does not say.
        image_intermediate_size: features inside its perceptrons; 1024 if neither this nor `pretrained` says.
        co_hidden_size: features of the connections and of both summaries; 1024 if neither this nor `pretrained` says.
        co_num_heads: heads of the connections; 8 if this does not say.
        num_connections: how many there are; 6 if neither this nor `pretrained` says.
        fusion: how the two summaries become one, mul or sum.
    """

    reads = frozenset({"pretrained"})
    without_weights = NO_WEIGHTS_OR_HEAD
    sizes: VilbertSizes

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
        image_hidden_size: int | None = None,
        image_num_layers: int | None = None,
        image_num_heads: int | None = None,
        image_intermediate_size: int | None = None,
        co_hidden_size: int | None = None,
        co_num_heads: int | None = None,
        num_connections: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        fusion: Literal["mul", "sum"] = "mul",
        head: Literal["linear", "transform"] = "transform",
        pretrained: str | None = None,
        pretrained_head: bool = False,
        image_encoder: Encoder | None = None,
        cls_id: int = 101,
        sep_id: int = 102,
        initializer_range: float = 0.02,
    ):
        super().__init__()
        weights = read_published(pretrained) if pretrained is not None else None
        self.sizes = s = choose_sizes(VilbertSizes, WEIGHTS.sizes_of, locals(), weights)
        text, image = s.layers(dropout, attention_dropout)
        self.num_classes, self.summary_size = num_classes, s.co_hidden_size
        self.embeddings = WordEmbeddings(s, pad_id, (cls_id, sep_id), dropout, LAYER_NORM_EPS)
        self.image_embeddings = RegionEmbeddings(s.feature_size, s.image_hidden_size, dropout)
        self.text_layers = nn.ModuleList(TransformerLayer(text) for _ in range(s.num_layers))
        self.image_layers = nn.ModuleList(TransformerLayer(image) for _ in range(s.image_num_layers))
        connected = text, image, s.co_hidden_size, s.co_num_heads
        self.connections = nn.ModuleList(Connection(*connected) for _ in range(s.num_connections))
        self.text_pooler = nn.Linear(s.hidden_size, s.co_hidden_size)
        self.image_pooler = nn.Linear(s.image_hidden_size, s.co_hidden_size)
        self.fuse, self.neutral = FUSIONS[fusion]
        self.dropout = Dropout(dropout)
        self.head = HEADS[head](s.co_hidden_size, num_classes, LAYER_NORM_EPS)
        self.apply(bert_initialization(initializer_range))
        self.image_encoder = image_encoder
        WEIGHTS.load(self, weights)
        if pretrained_head:
            HEAD.load_head(self.head, weights)

    def summarise_views(self, views: Sequence[Inputs]) -> Tensor:
        return torch.stack([self.summarise(*streams) for streams in self.streams(views, keep=False)])  # [V, B, D]

    def classify(self, summary: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.dropout(summary)))

    @property
    def feature_kinds(self) -> dict[str, FeatureKind]:
        text = layer_features("text", self.sizes.num_layers, WHATS)
        image = layer_features("image", self.sizes.image_num_layers, WHATS)
        return image | text | {SUMMARY: "pooled"}

    def forward_features(self, views: Sequence[Inputs], wanted: Sequence[Collection[str]]) -> tuple[ModelOutput, list[Features]]:
        streams = self.streams(views, keep=bool(of_layers(chain(*wanted))))
        summaries = torch.stack([self.summarise(*pair) for pair in streams])  # [V, B, D]
        return ModelOutput(self.classify(summaries)), list(map(_features, views, wanted, streams, summaries))

    def streams(self, views: Sequence[Inputs], keep: bool) -> list[tuple[Stream, Stream | None]]:
        """Text and image of each view after the last layers, with their states after each layer where they are to be kept."""
        text_stream = OncePerInput(lambda text: self._begin_text(text, keep))
        image_stream = OncePerInput(lambda image: self._begin_image(image, keep))
        found = []
        for own in map(self.own, views):
            text = own["text"] if "text" in own else self.embeddings.empty(len(own["image"].mask))
            image = image_stream(own["image"]) if "image" in own else None
            found.append(self.connect(text_stream(text), image))
        return found

    def connect(self, text: Stream, image: Stream | None) -> tuple[Stream, Stream | None]:
        """Text and image after the last layers: each connection, and the layer of either stream that follows it."""
        num = self.sizes.num_connections
        for connection, text_layer, image_layer in zip(self.connections, self.text_layers[-num:], self.image_layers[-num:]):
            text, image = connection(text, image)
            text, image = text.through(text_layer), None if image is None else image.through(image_layer)
        return text, image

    def summarise(self, text: Stream, image: Stream | None) -> Tensor:
        """The fused summaries of both streams, float [B, D]; a stream that an example lacks changes nothing."""
        summaries = [self._pool(self.text_pooler, text)]
        if image is not None:
            summaries.append(self._pool(self.image_pooler, image))
        return reduce(self.fuse, summaries)

    def _pool(self, pooler: nn.Module, stream: Stream) -> Tensor:
        pooled: Tensor = torch.relu(pooler(stream.first))  # [B, D]
        return pooled.masked_fill(~stream.present[:, None], self.neutral)

    def _begin_text(self, text: ModalityInputs, keep: bool) -> Stream:
        return self._alone(self.text_layers, self.embeddings(text), text.mask, keep)

    def _begin_image(self, image: ModalityInputs, keep: bool) -> Stream:
        features, mask = regions_of(image, self.image_encoder, self.sizes.feature_size)
        boxes = image.extras.get("boxes") if self.image_encoder is None else None
        return self._alone(self.image_layers, self.image_embeddings(visible(features, mask), boxes), mask, keep)

    def _alone(self, layers: nn.ModuleList, x: Tensor, mask: Tensor, keep: bool) -> Stream:
        stream = Stream(x, mask, (x,) if keep else ())
        for layer in list(layers)[: -self.sizes.num_connections]:
            stream = stream.through(layer)
        return stream


def _features(view: Inputs, wanted: Collection[str], streams: tuple[Stream, Stream | None], summary: Tensor) -> Features:
    text, image = streams
    words = text.mask & ~view["text"].special if "text" in view else torch.zeros_like(text.mask)  # [B, L]
    parts = {"text": (text, words)}
    if image is not None:
        parts["image"] = image, image.mask
    features = {SUMMARY: Feature(summary)} if SUMMARY in wanted else {}
    for name, (part, layer, what) in of_layers(wanted).items():
        if part in parts:
            stream, mask = parts[part]
            x = stream.states[layer]
            features[name] = Feature(replace(stream, x=x).first) if what == "cls" else cut(KINDS[what], x, Span(mask))
    return features
