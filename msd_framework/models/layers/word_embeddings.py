"""Words as BERT reads them: what each means, where it stands, and which segment it is of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import Tensor, nn

from msd_framework.models.layers.dropout import Dropout
from msd_framework.ranges import positive
from msd_framework.structures import ModalityInputs


@dataclass(frozen=True)
class TextSizes:
    """What fixes the shapes of a BERT that reads regions beside its words, and the heads; the published ones if not given."""

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


class WordTables(nn.Module):
    """The three tables that BERT looks a word up in; a subclass adds the layer norm and the dropout behind them."""

    marks: Tensor  # the ids of [CLS] and [SEP]
    norm: nn.LayerNorm
    dropout: Dropout

    def __init__(self, sizes: TextSizes, pad_id: int, marks: tuple[int, int]):
        super().__init__()
        if not 0 <= pad_id < sizes.vocab_size:
            raise ValueError(f"pad_id must be in 0..{sizes.vocab_size - 1}, got {pad_id}")
        self.word = nn.Embedding(sizes.vocab_size, sizes.hidden_size, padding_idx=pad_id)
        self.position = nn.Embedding(sizes.max_positions, sizes.hidden_size)
        self.max_positions = sizes.max_positions  # compared with the longest text before a run, by checks/components.py
        self.segment = nn.Embedding(sizes.num_segments, sizes.hidden_size)
        self.pad_id = pad_id
        self.has_marks = min(marks) >= 0 and max(marks) < sizes.vocab_size
        self.register_buffer("marks", torch.tensor(marks), persistent=False)

    def positions(self, text: ModalityInputs) -> Tensor:
        """Position ids of words, [B, L] or [L]."""
        length, longest = text.values.shape[1], self.position.num_embeddings
        if length > longest:
            hint = "set a maximum length for its processor"
            raise ValueError(f"a text has {length} positions and this model takes {longest}; {hint}")
        return text.extras.get("positions", torch.arange(length, device=text.values.device))

    def segments(self, text: ModalityInputs) -> Tensor:
        return text.extras.get("segments", torch.zeros_like(text.values))

    def words(self, ids: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        return cast(Tensor, self.word(ids) + self.position(positions) + self.segment(segments))

    def empty(self, num_examples: int) -> ModalityInputs:
        """What stands in for texts that are left out: [CLS] and [SEP] at positions 0 and 1."""
        if not self.has_marks:
            words = f"the {self.word.num_embeddings} words of this model; set them to the tokenizer's"
            raise ValueError(f"the text is left out, and the cls_id and sep_id that stand in for it are not among {words}")
        ids = self.marks.expand(num_examples, 2)
        shown = torch.ones_like(ids, dtype=torch.bool)
        return ModalityInputs(ids, shown, {"special": shown})


class WordEmbeddings(WordTables):
    r"""BERT's embeddings of words.

    .. math:: e = \mathrm{dropout}(\mathrm{norm}(\mathrm{word}_i + \mathrm{position}_p + \mathrm{segment}_s))

    Source: Devlin et al., BERT, NAACL 2019, section 3.
    """

    def __init__(self, sizes: TextSizes, pad_id: int, marks: tuple[int, int], dropout: float, layer_norm_eps: float = 1e-12):
        super().__init__(sizes, pad_id, marks)
        self.norm = nn.LayerNorm(sizes.hidden_size, layer_norm_eps)
        self.dropout = Dropout(dropout)

    def forward(self, text: ModalityInputs) -> Tensor:
        """Words [B, L] to embeddings [B, L, D]."""
        ids = text.values.masked_fill(~text.mask, self.pad_id)
        words = self.words(ids, self.positions(text), self.segments(text))
        return cast(Tensor, self.dropout(self.norm(words)))  # [B, L, D]
