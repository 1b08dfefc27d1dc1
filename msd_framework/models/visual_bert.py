"""VisualBERT: one transformer that reads the words and the regions or patches of an image as one sequence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from msd_framework.models.base import MODELS, Encoded, Encoder, MultimodalModel, encoder_problems
from msd_framework.models.distinct import encode_once
from msd_framework.models.dropout import Dropout
from msd_framework.models.features import FUSED, KINDS, SUMMARY, Span, Trace, layer_features, layers_of
from msd_framework.models.heads import HEADS
from msd_framework.models.packed import Move, Part, Rows, can_look, pack, read_first, read_layers
from msd_framework.models.pooling import visible
from msd_framework.models.recorded import Direction, RecordedViews, Tape, Wheres
from msd_framework.models.transformer import Transformer, TransformerLayer, bert_initialization, whole
from msd_framework.models.visual_bert_weights import VisualBertSizes, our_tensors, write_transformers
from msd_framework.models.weights import load_exactly, read_pretrained
from msd_framework.ranges import positive
from msd_framework.structures import Feature, FeatureKind, Inputs, ModalityInputs, ModelOutput, Setting


class VisualBertEmbeddings(nn.Module):
    r"""What the transformer reads: an embedding for each word and for each region.

    .. math::
        e_\mathrm{word} = \mathrm{word}_i + \mathrm{position}_p + \mathrm{segment}_s, \qquad
        e_\mathrm{region} = W v + b + \mathrm{visual\ position}_0 + \mathrm{visual\ segment}_t

    followed by one layer norm and dropout. All regions have visual position 0.

    Args:
        sizes: the sizes of the model.
        pad_id: the word that learns nothing.
        visual_token_type: t, the segment of every region.
        dropout: the share of features that is dropped.
    """

    def __init__(self, sizes: VisualBertSizes, pad_id: int, visual_token_type: int, dropout: float):
        super().__init__()
        self.word = nn.Embedding(sizes.vocab_size, sizes.hidden_size, padding_idx=pad_id)
        self.position = nn.Embedding(sizes.max_positions, sizes.hidden_size)
        self.max_positions = sizes.max_positions
        self.segment = nn.Embedding(sizes.num_segments, sizes.hidden_size)
        self.visual_projection = nn.Linear(sizes.feature_size, sizes.hidden_size)
        self.visual_position = nn.Embedding(sizes.max_positions, sizes.hidden_size)
        self.visual_segment = nn.Embedding(sizes.num_segments, sizes.hidden_size)
        self.norm = nn.LayerNorm(sizes.hidden_size, sizes.layer_norm_eps)
        self.dropout = Dropout(dropout)
        self.pad_id, self.visual_token_type = pad_id, visual_token_type

    def text(self, text: ModalityInputs) -> Tensor:
        """Words [B, L] to embeddings [B, L, D].

        Raises:
            ValueError: if there are more words than positions.
        """
        ids = text.values.masked_fill(~text.mask, self.pad_id)
        return self.finish(self.words(ids, self.positions(text), self.segments(text)))  # [B, L, D]

    def image(self, features: Tensor, mask: Tensor) -> Tensor:
        """Regions [B, L, F] to embeddings [B, L, D]."""
        return self.finish(self.regions(visible(features, mask)))  # [B, L, D]

    def positions(self, text: ModalityInputs) -> Tensor:
        """Position ids of words, [B, L] or [L].

        Raises:
            ValueError: if there are more words than positions.
        """
        length, longest = text.values.shape[1], self.max_positions
        if length > longest:
            raise ValueError(
                f"a text has {length} positions and this model takes {longest}; set a maximum length for its processor"
            )
        return text.extras.get("positions", torch.arange(length, device=text.values.device))

    def segments(self, text: ModalityInputs) -> Tensor:
        """Segments of words, [B, L]."""
        return text.extras.get("segments", torch.zeros_like(text.values))

    def words(self, ids: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        """Words [..] to the sums of their embeddings [.., D]."""
        embedded: Tensor = self.word(ids) + self.position(positions) + self.segment(segments)
        return embedded

    def regions(self, features: Tensor) -> Tensor:
        """Regions [.., F] to the sums of their embeddings [.., D]."""
        projected: Tensor = self.visual_projection(features)
        return projected + self.visual_position.weight[0] + self.visual_segment.weight[self.visual_token_type]

    def finish(self, embeddings: Tensor) -> Tensor:
        """Sums of embeddings to what the transformer reads."""
        finished: Tensor = self.dropout(self.norm(embeddings))
        return finished


@MODELS.register("visual_bert")
class VisualBert(MultimodalModel):
    r"""VisualBERT, numerically `transformers.VisualBertModel` with a classifier on its pooled output.

    .. math::
        x &= [\mathrm{text}; \mathrm{image}], \quad h = \mathrm{Transformer}(x), \quad p = \tanh(W h_1 + b) \\
        z &= \mathrm{head}(\mathrm{dropout}(p))

    Regions are features [B, L, F], or the tokens that an image encoder makes of pixels. The first word is [CLS]; the
    text carries its special words in ``extras["special"]``, so that they stay when the text is hidden. If the text is
    left out altogether, [CLS] and [SEP] stand in for it at positions 0 and 1. Hidden by a mask or dropped, a modality
    gives the same numbers, since words keep their position ids and regions have none.

    All views of a batch go through the transformer in one pass without padding (`models/packed.py`), and the last layer computes
    only what the classifier reads. The numbers are those of the padded form, which ``packed: false`` keeps; only for an example of
    which nothing at all is shown the two may differ. Dropout has the same distribution in each view. What all views share, it
    drops for all of them at once: inside an image encoder, which runs once for an image, and in the embeddings, unless told not to.

    If a modality is left out, what embeds it gets no gradient: under DDP one view of a step must show it.

    Source: Li et al., VisualBERT: A Simple and Performant Baseline for Vision and Language, 2019.

    Args:
        num_classes: C.
        vocab_size: how many word ids there are; 30522 if neither this nor `pretrained` says.
        pad_id: the id of [PAD], which has no meaning to learn.
        feature_size: F, features a region; 2048 if neither this nor `pretrained` says. An image encoder sets it.
        hidden_size: D; 768 if neither this nor `pretrained` says.
        num_layers: transformer layers; 12 if neither this nor `pretrained` says.
        num_heads: heads of each attention; 12 if neither this nor `pretrained` says.
        intermediate_size: features inside each layer's perceptron; 3072 if neither this nor `pretrained` says.
        max_positions: the longest text; 512 if neither this nor `pretrained` says.
        num_segments: segments that words and regions can have; 2 if neither this nor `pretrained` says.
        layer_norm_eps: what layer norms add to the variance; 1e-12 if neither this nor `pretrained` says.
        dropout: the share of features that is dropped.
        attention_dropout: the share of attention weights that is dropped.
        visual_token_type: the segment of the regions. Weights trained by VisualBERT's authors or transformers have 1; MMF
            feeds 0, and its weights give other numbers with 1.
        head: the classifier, one linear layer or MMF's dense, GELU, layer norm and linear.
        pretrained: a folder or hub name with transformers' weights of a VisualBERT, or of a BERT whose segments and positions
            then begin those of the regions.
        image_encoder: turns pixels into regions; none if the image comes as features.
        cls_id: the id of [CLS], used only where the text is left out.
        sep_id: the id of [SEP], used only where the text is left out.
        initializer_range: standard deviation of the initial weights; 0.1 suits a model of 64 features from scratch.
        packed: whether views share one pass without padding; if not, each runs padded and for itself, with the same numbers.
        share_embedding_dropout: whether views that show the same words or regions drop the same features of their embeddings, so
            that the first layer projects each of them once; if not, each view draws its own. Only where `packed`.

    Raises:
        ValueError: if a size contradicts the pretrained weights, or if they do not fit.

    >>> model = VisualBert(num_classes=3, vocab_size=50, feature_size=6, hidden_size=8, num_layers=1, num_heads=2, cls_id=2)
    >>> text = ModalityInputs(torch.tensor([[2, 7, 9]]), torch.ones(1, 3, dtype=torch.bool))
    >>> image = ModalityInputs(torch.randn(1, 4, 6), torch.ones(1, 4, dtype=torch.bool))
    >>> model({"image": image, "text": text}).logits.shape, model({"text": text}).logits.shape
    (torch.Size([1, 3]), torch.Size([1, 3]))
    """

    modalities = ("image", "text")
    narrows = ("embeddings.", "encoder.", "pooler.", "head.")
    reads = frozenset({"pretrained"})
    no_text: Tensor

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
        visual_token_type: int = 1,
        head: Literal["linear", "transform"] = "linear",
        pretrained: str | None = None,
        image_encoder: Encoder | None = None,
        cls_id: int = 101,
        sep_id: int = 102,
        initializer_range: float = 0.02,
        packed: bool = True,
        share_embedding_dropout: bool = True,
    ):
        super().__init__()
        weights = read_pretrained(pretrained) if pretrained is not None else None
        given = {
            "vocab_size": vocab_size,
            "feature_size": feature_size if image_encoder is None else image_encoder.width,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "intermediate_size": intermediate_size,
            "max_positions": max_positions,
            "num_segments": num_segments,
            "layer_norm_eps": layer_norm_eps,
        }
        self.sizes = sizes = VisualBertSizes.choose(given, weights)
        positive(**asdict(sizes))
        for name, value, count in (
            ("pad_id", pad_id, sizes.vocab_size),
            ("visual_token_type", visual_token_type, sizes.num_segments),
        ):
            if not 0 <= value < count:
                raise ValueError(f"{name} must be in 0..{count - 1}, got {value}")
        self.num_classes = num_classes
        self.attention_dropout = attention_dropout
        self.packed, self.share_embedding_dropout = packed, share_embedding_dropout
        self.register_buffer("no_text", torch.tensor([cls_id, sep_id]), persistent=False)
        self.can_miss_text = max(cls_id, sep_id) < sizes.vocab_size
        self.embeddings = VisualBertEmbeddings(sizes, pad_id, visual_token_type, dropout)
        self.encoder = Transformer(
            sizes.num_layers,
            sizes.hidden_size,
            sizes.num_heads,
            sizes.intermediate_size,
            dropout,
            attention_dropout,
            layer_norm_eps=sizes.layer_norm_eps,
        )
        self.pooler = nn.Linear(sizes.hidden_size, sizes.hidden_size)
        self.dropout = Dropout(dropout)
        self.head = HEADS[head](sizes.hidden_size, num_classes, sizes.layer_norm_eps)
        self.apply(bert_initialization(initializer_range))
        self.image_encoder = image_encoder
        if weights is not None:
            body = self._body()
            load_exactly(body, our_tensors(weights, body.state_dict()), weights.source)

    @classmethod
    def modalities_of(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        return cls.modalities

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        encoder, image, text = options.get("image_encoder"), setting.kinds.get("image"), setting.kinds.get("text")
        problems = [] if encoder is None else encoder_problems("image_encoder", encoder, "image", setting)
        if encoder is None and image not in (None, "features"):
            problems.append(f"image_encoder: must be given, since the values of 'image' are {image} and no features.")
        if text not in (None, "tokens"):
            problems.append(f"the values of 'text' must be tokens, and the processor makes {text}.")
        return problems

    def rebuild_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        encoder = {} if self.image_encoder is None else {"image_encoder": self.image_encoder.rebuild_spec(options["image_encoder"])}
        return {**options, **asdict(self.sizes), **encoder, "pretrained": None}

    def forward(self, inputs: Inputs) -> ModelOutput:
        if self.packed:
            return ModelOutput(self.forward_views([inputs]).logits[0])  # [B, C]
        return ModelOutput(self.classify(self.encode(inputs).pooled))  # [B, C]

    def forward_views(self, views: Sequence[Inputs]) -> ModelOutput:
        if not self.packed:
            return super().forward_views(views)
        return ModelOutput(self.classify(self.summarise_views(views)))  # [V, B, C]

    @property
    def offered(self) -> dict[str, FeatureKind]:
        """Layers of the whole sequence and of either modality's part of it, to which [CLS] and [SEP] do not belong."""
        of_modality = [what for what in KINDS if what != "cls"]
        layers = self.sizes.num_layers
        fused = layer_features(FUSED, layers) | {SUMMARY: "pooled"}
        return fused | layer_features("image", layers, of_modality) | layer_features("text", layers, of_modality)

    def forward_features(
        self, views: Sequence[Inputs], wanted: Sequence[Collection[str]]
    ) -> tuple[ModelOutput, list[dict[str, Feature]]]:
        if not any(wanted):
            return self.forward_views(views), [{} for _ in views]
        layers = layers_of(name for names in wanted for name in names)
        pooled, traces = self._traces([self.own(view) for view in views], layers)
        features = [trace.features(names) for trace, names in zip(traces, wanted)]
        for found, names, summary in zip(features, wanted, pooled):
            found |= {SUMMARY: Feature(summary)} if SUMMARY in names else {}
        return ModelOutput(self.classify(pooled)), features

    def _traces(self, views: Sequence[Inputs], layers: Collection[int]) -> tuple[Tensor, list[Trace]]:
        """The summaries [V, B, D] of several views, and the states of some layers in each of them."""
        if self.packed:
            parts = self._parts(views)
            masks = [torch.cat([part.mask for part in view], 1) for view in parts]  # [B, L]
            x, rows, place = self._packed(parts)
            first, states = read_layers(self.encoder, x, rows, place, layers)
            unpacked = {layer: rows.unpack(x) for layer, x in states.items()}
            kept = [{layer: found[v] for layer, found in unpacked.items()} for v in range(len(views))]
        else:
            sequences, masks = (list(x) for x in zip(*(self.embed(view) for view in views)))
            read = [self.encoder.trace(x, mask, layers) for x, mask in zip(sequences, masks)]
            first, kept = torch.cat([hidden[:, 0] for hidden, _ in read]), [states for _, states in read]
        seen = zip(kept, views, masks)
        traces = [Trace(self.encoder, states, mask, self.spans(view, mask)) for states, view, mask in seen]
        return self._pool(first).view(len(views), -1, self.sizes.hidden_size), traces

    def spans(self, view: Inputs, mask: Tensor) -> dict[str, Span]:
        """Where either modality stands in the sequence of a view, of its mask [B, L]."""
        text, end = self._text(view), mask.shape[1]
        words = text.mask.shape[1]
        image = {"image": Span(words, end, mask[:, words:])} if "image" in view else {}
        return {FUSED: Span(0, end, mask), "text": Span(0, words, text.mask & ~text.special), **image}

    @property
    def summary_size(self) -> int:
        return self.sizes.hidden_size

    def summarise_views(self, views: Sequence[Inputs]) -> Tensor:
        if not self.packed:
            return torch.stack([self.encode(view).pooled for view in views])  # [V, B, D]
        first = read_first(self.encoder, *self._packed(self._parts([self.own(view) for view in views])))  # [V * B, D]
        return self._pool(first).view(len(views), -1, self.sizes.hidden_size)  # [V, B, D]

    def _packed(self, views: Sequence[Sequence[Part]]) -> tuple[Tensor, Rows, Move]:
        """What the first layer reads of all views, [U, D] or [N, D], its rows, and what puts it into them."""
        embeddings, rows = pack(views, self.encoder.token_cost)
        embeddings, drop = self.embeddings.norm(embeddings), self.embeddings.dropout  # [U, D]
        if self.share_embedding_dropout or not self.training:
            return drop(embeddings), rows, rows.place
        return drop(rows.place(embeddings)), rows, whole

    def record_views(self, views: Sequence[Inputs], watched: Collection[int]) -> RecordedViews | None:
        if not self.packed or self.image_encoder is not None:
            return None
        e, drop, tape = self.embeddings, self.embeddings.dropout, Tape(self)
        parts = self._parts([self.own(view) for view in views])
        embeddings, rows = pack(parts, self.encoder.token_cost, watched)  # [U, D]
        sequence = rows.place(embeddings)  # [N, D]; from here on, each row has positions of its own
        shared = self.share_embedding_dropout or not self.training
        kept = rows.place(drop(torch.ones_like(embeddings))) if shared else drop(torch.ones_like(sequence))

        def embed(direction: Direction) -> Tensor:
            return tape.along(direction, e, lambda: pack(parts, self.encoder.token_cost)[0])  # [U, D]

        where = Wheres.of(rows, len(views), watched)
        tape.keep(sequence, (), where.places, lambda u: where.places.take(rows.place(embed(u))))
        *layers, last = cast("list[TransformerLayer]", list(self.encoder.layers))
        reads = last.attention.key, last.attention.value
        firsts = last.attention.query, last.attention.output, last.attention_norm, last.expand, last.contract, last.mlp_norm
        groups = ([e.norm, *layers, *reads], where.places), (firsts, where.firsts), ([self.pooler, self.head], where.views)
        with tape.watching(*groups):
            first = read_first(self.encoder, e.norm(sequence) * kept, rows)
            logits = self.classify(self._pool(first).view(len(views), -1, self.sizes.hidden_size))
        return RecordedViews(logits, tape)

    def encode(self, inputs: Inputs) -> Encoded:
        """The sequence after the last layer, words first, and its pooled summary."""
        sequence, mask = self.embed(inputs)
        hidden = self.encoder(sequence, mask)  # [B, L, D]
        return Encoded(hidden, mask, self._pool(hidden[:, 0]))

    def embed(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The sequence that the transformer reads, float [B, L, D], and its mask, bool [B, L]; words come first."""
        own = self.own(inputs)
        text = self._text(own)
        parts = [(self.embeddings.text(text), text.mask)]
        if "image" in own:
            features, mask = self._regions(own["image"])
            parts.append((self.embeddings.image(features, mask), mask))
        embedded, masks = zip(*parts)
        return torch.cat(embedded, 1), torch.cat(masks, 1)

    def save_transformers(self, folder: str | Path) -> None:
        """Writes the encoder, without classifier and image encoder, for `transformers.VisualBertModel.from_pretrained`.

        Feed that model ``visual_token_type_ids`` of this model's `visual_token_type`: left to itself it takes 1.
        """
        others = {
            "hidden_dropout_prob": self.dropout.p,
            "attention_probs_dropout_prob": self.attention_dropout,
            "pad_token_id": self.embeddings.pad_id,
        }
        write_transformers(Path(folder), self._body().state_dict(), self.sizes.config() | others)

    def _body(self) -> nn.ModuleDict:
        return nn.ModuleDict({"embeddings": self.embeddings, "encoder": self.encoder, "pooler": self.pooler})

    def _regions(self, image: ModalityInputs) -> tuple[Tensor, Tensor]:
        if self.image_encoder is not None:
            encoded = encode_once(self.image_encoder, image, self.image_encoder)
            return encoded.tokens, encoded.mask
        if image.values.ndim != 3 or image.values.shape[-1] != self.sizes.feature_size:
            raise ValueError(
                f"image must be features [B, L, {self.sizes.feature_size}], got {list(image.values.shape)}; "
                f"set feature_size, or give pixels an image_encoder"
            )
        return image.values, image.mask

    def _pool(self, first: Tensor) -> Tensor:
        return torch.tanh(self.pooler(first))

    def classify(self, summary: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(summary))
        return logits

    def _parts(self, views: Sequence[Inputs]) -> list[list[Part]]:
        images = {id(view["image"]): view["image"] for view in views if "image" in view}
        regions = {i: self._region_part(*self._regions(image)) for i, image in images.items()}  # an encoder runs once an image
        words = [self._word_part(self._text(view)) for view in views]
        return [[text, *([regions[id(view["image"])]] if "image" in view else [])] for text, view in zip(words, views)]

    def _word_part(self, text: ModalityInputs) -> Part:
        e, ids = self.embeddings, text.values
        made_of: tuple[object, ...] = (ids, text.extras.get("positions"), text.extras.get("segments"))
        if not (can_look(ids) and text.mask[:, 0].all()):  # a row that may begin with a hidden word, which is read as [PAD]
            ids = ids.masked_fill(~text.mask, e.pad_id)
            made_of = (ids,)
        positions, segments = e.positions(text).expand(ids.shape), e.segments(text)
        return Part(made_of, text.mask, (ids, positions, segments), e.words)

    def _region_part(self, features: Tensor, mask: Tensor) -> Part:
        return Part((features,), mask, (features,), self.embeddings.regions)

    def _text(self, inputs: Inputs) -> ModalityInputs:
        return inputs["text"] if "text" in inputs else self._no_text(inputs["image"])

    def _no_text(self, image: ModalityInputs) -> ModalityInputs:
        if not self.can_miss_text:
            raise ValueError(
                f"the text is left out, and the cls_id and sep_id that stand in for it are not among the {self.sizes.vocab_size} "
                f"words of this model; set them to the tokenizer's"
            )
        ids = self.no_text.expand(len(image.mask), 2)
        shown = torch.ones_like(ids, dtype=torch.bool)
        return ModalityInputs(ids, shown, {"special": shown})
