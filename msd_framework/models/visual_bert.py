"""VisualBERT: one transformer that reads the words and the regions or patches of an image as one sequence."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from msd_framework.models.base import MODELS, Encoder
from msd_framework.models.image_text import NO_WEIGHTS, ImageTextModel, regions_of
from msd_framework.models.layers.distinct import OncePerInput
from msd_framework.models.layers.dropout import Dropout
from msd_framework.models.layers.heads import HEADS
from msd_framework.models.layers.packed import Segment, can_look, pack, read_layers
from msd_framework.models.layers.recorded import Direction, RecordedViews, Tape, orders
from msd_framework.models.layers.transformer import TransformerLayer, bert_initialization, whole
from msd_framework.models.layers.word_embeddings import WordTables
from msd_framework.models.pretrained.published import choose_sizes
from msd_framework.models.pretrained.visual_bert import WEIGHTS, VisualBertSizes, sizes_of, write_transformers
from msd_framework.models.pretrained.weights import read_pretrained
from msd_framework.models.single_sequence import SingleSequence
from msd_framework.structures import Inputs, ModalityInputs


class VisualBertEmbeddings(WordTables):
    r"""What the transformer reads: an embedding for each word and for each region.

    .. math::
        e_\mathrm{word} = \mathrm{word}_i + \mathrm{position}_p + \mathrm{segment}_s, \qquad
        e_\mathrm{region} = W v + b + \mathrm{visual\ position}_0 + \mathrm{visual\ segment}_t

    followed by one layer norm and dropout. All regions have visual position 0.
    """

    def __init__(self, sizes: VisualBertSizes, pad_id: int, marks: tuple[int, int], visual_token_type: int, dropout: float):
        super().__init__(sizes, pad_id, marks)
        self.visual_projection = nn.Linear(sizes.feature_size, sizes.hidden_size)
        self.visual_position = nn.Embedding(sizes.max_positions, sizes.hidden_size)
        self.visual_segment = nn.Embedding(sizes.num_segments, sizes.hidden_size)
        self.norm = nn.LayerNorm(sizes.hidden_size, sizes.layer_norm_eps)
        self.dropout = Dropout(dropout)
        self.visual_token_type = visual_token_type

    def regions(self, features: Tensor) -> Tensor:
        projected: Tensor = self.visual_projection(features)
        return projected + self.visual_position.weight[0] + self.visual_segment.weight[self.visual_token_type]


@MODELS.register("visual_bert")
class VisualBert(ImageTextModel, SingleSequence):
    r"""VisualBERT, numerically `transformers.VisualBertModel` with a classifier on its pooled output.

    .. math::
        x &= [\mathrm{text}; \mathrm{image}], \quad h = \mathrm{Transformer}(x), \quad p = \tanh(W h_1 + b) \\
        z &= \mathrm{head}(\mathrm{dropout}(p))

    Hidden by a mask or dropped, a modality gives the same numbers, since words keep their position ids and regions have none.

    All views of a batch go through the transformer in one pass without padding (`layers/packed.py`); only for an example of which
    nothing at all is shown its numbers may differ from those of the padded form. What all views share, dropout drops for all of
    them at once. If a modality is left out, what embeds it gets no gradient.

    Source: Li et al., VisualBERT: A Simple and Performant Baseline for Vision and Language, 2019.

    Args:
        visual_token_type: the segment of the regions: 1 in weights of the authors and transformers, 0 in MMF's.
        pretrained: a folder or hub name with transformers' weights of a VisualBERT, or of a BERT to begin with.
        initializer_range: standard deviation of the initial weights; 0.1 suits a model of 64 features from scratch.
        packed: whether views share one pass without padding; if not, each runs padded and for itself, with the same numbers.
        share_embedding_dropout: whether views that show the same drop the same features of their embeddings; only where `packed`.

    >>> model = VisualBert(num_classes=3, vocab_size=50, feature_size=6, hidden_size=8, num_layers=1, num_heads=2, cls_id=2)
    >>> text = ModalityInputs(torch.tensor([[2, 7, 9]]), torch.ones(1, 3, dtype=torch.bool))
    >>> image = ModalityInputs(torch.randn(1, 4, 6), torch.ones(1, 4, dtype=torch.bool))
    >>> model({"image": image, "text": text}).logits.shape, model({"text": text}).logits.shape
    (torch.Size([1, 3]), torch.Size([1, 3]))
    """

    narrows = ("embeddings.", "encoder.", "pooler.", "head.")
    reads = frozenset({"pretrained"})
    without_weights = NO_WEIGHTS

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
        self.sizes = sizes = choose_sizes(VisualBertSizes, sizes_of, locals(), weights)
        if not 0 <= visual_token_type < sizes.num_segments:
            raise ValueError(f"visual_token_type must be in 0..{sizes.num_segments - 1}, got {visual_token_type}")
        self.num_classes, self.summary_size = num_classes, sizes.hidden_size
        self.attention_dropout = attention_dropout
        self.packed, self.share_embedding_dropout = packed, share_embedding_dropout
        self.embeddings = VisualBertEmbeddings(sizes, pad_id, (cls_id, sep_id), visual_token_type, dropout)
        self.encoder = sizes.transformer(dropout, attention_dropout)
        self.pooler = nn.Linear(sizes.hidden_size, sizes.hidden_size)
        self.dropout = Dropout(dropout)
        self.head = HEADS[head](sizes.hidden_size, num_classes, sizes.layer_norm_eps)
        self.apply(bert_initialization(initializer_range))
        self.image_encoder = image_encoder
        WEIGHTS.load(self, weights)

    def classify(self, summary: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.dropout(summary)))

    def parts(self, views: Sequence[Inputs]) -> list[list[Segment]]:
        regions = OncePerInput(self._regions)
        parts = []
        for view in map(self.own, views):
            text = view["text"] if "text" in view else self.embeddings.empty(len(view["image"].mask))
            image = [regions(view["image"])] if "image" in view else []
            parts.append([self._words(text), *image])
        return parts

    def _words(self, text: ModalityInputs) -> Segment:
        e, ids = self.embeddings, text.values
        # Views of one text share these objects, whatever they hide, so its words are embedded once for all of them.
        made_of: tuple[object, ...] = (ids, text.extras.get("positions"), text.extras.get("segments"))
        # A hidden word has no place in a row, so its id does not matter; only the first one keeps its place, and is read as [PAD].
        if not (can_look(ids) and text.mask[:, 0].all()):
            ids = ids.masked_fill(~text.mask, e.pad_id)
            made_of = (ids,)
        positions, segments = e.positions(text).expand(ids.shape), e.segments(text)
        return Segment(made_of, text.mask, (ids, positions, segments), e.words, "text", text.extras.get("special"))

    def _regions(self, image: ModalityInputs) -> Segment:
        features, mask = regions_of(image, self.image_encoder, self.sizes.feature_size)
        return Segment((features,), mask, (features,), self.embeddings.regions, "image")

    def record_views(self, views: Sequence[Inputs], watched: Collection[int]) -> RecordedViews | None:
        if not self.packed or self.image_encoder is not None:
            return None
        e, drop, tape = self.embeddings, self.embeddings.dropout, Tape(self)
        parts = self.parts(views)
        embeddings, rows = pack(parts, self.encoder.token_cost, watched)  # [U, D]
        sequence = rows.place(embeddings)  # [N, D]; from here on, each row has positions of its own
        # The norm runs on the sequence, not on distinct tokens as in `_read`: the tape needs its input and gradient row by row.
        # Dropout behind it is a factor, drawn for distinct tokens or for the sequence as `_read` does.
        shared = self.share_embedding_dropout or not self.training
        kept = rows.place(drop(torch.ones_like(embeddings))) if shared else drop(torch.ones_like(sequence))

        def embed(direction: Direction) -> Tensor:
            return tape.along(direction, e, lambda: pack(parts, self.encoder.token_cost)[0])  # [U, D]

        places, firsts, by_view = orders(rows, len(views), watched)
        # embeddings have ids for inputs, so the tape embeds all views anew along a direction, each token once
        tape.keep(sequence, (), places, lambda u: places.take(rows.place(embed(u))))
        *layers, last = cast("list[TransformerLayer]", list(self.encoder.layers))
        # of the last layer, keys and values are made of all positions, and all else of the first one of each row
        of_all = last.attention.key, last.attention.value
        of_first = last.attention.query, last.attention.output, last.attention_norm, last.expand, last.contract, last.mlp_norm
        with tape.watching(([e.norm, *layers, *of_all], places), (of_first, firsts), ([self.pooler, self.head], by_view)):
            first, _ = read_layers(self.encoder, e.norm(sequence) * kept, rows, whole, ())
            logits = self.classify(self.pool(first).view(len(views), -1, self.summary_size))
        return RecordedViews(logits, tape)

    def save_transformers(self, folder: str | Path) -> None:
        """Writes the encoder for `transformers.VisualBertModel`, to be fed `visual_token_type_ids` of this `visual_token_type`."""
        others = {"hidden_dropout_prob": self.dropout.p, "attention_probs_dropout_prob": self.attention_dropout}
        others |= {"pad_token_id": self.embeddings.pad_id}
        write_transformers(Path(folder), WEIGHTS.body(self).state_dict(), self.sizes.config() | others)
