"""All views of a batch in one pass of a transformer: each token embedded once, and next to no padding.

A row is one view of one example. Rows stand one after the other in a flat sequence of N places. Linear layers and norms take all
of it at once; attention takes blocks of rows of one length. Rows of nearly one length are padded to the longest of them where
that costs less than another block. Against one padded pass a view this halves the time of a distillation step on a CPU
(`unpacked_over_packed_msd_fp32` in `benchmarks/README.md`).

To lay rows out by their lengths, the lengths must be read. On a CPU that is free. A GPU would have to be waited for: there rows
keep their padding, and a block is a view.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import chain
from operator import or_
from typing import TypeAlias, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from msd_framework.models.layers.pooling import visible
from msd_framework.models.layers.transformer import Attention, Transformer, TransformerLayer, whole

Move: TypeAlias = Callable[[Tensor], Tensor]  # takes some positions of a sequence, or all

# what it costs a layer to take one more block of rows, in multiplications that a CPU could do meanwhile
BLOCK_COST = 3_000_000


@dataclass(frozen=True)
class Segment:
    """Positions of a view that stand together: its words, or its regions."""

    made_of: tuple[object, ...]  # segments whose embeddings are made of the very same objects are embedded once
    mask: Tensor  # bool [B, L], which positions can be seen
    contents: tuple[Tensor, ...]  # what `embed` takes, each aligned with the positions, [B, L, ..]
    embed: Callable[..., Tensor]  # contents of U tokens to [U, D]; segments that share it are embedded in one call
    modality: str | None = None  # None if the positions belong to the model alone
    special: Tensor | None = None  # bool [B, L], those that belong to the model all the same, such as [CLS]


@dataclass(frozen=True)
class Block:
    """n rows of length L that attention takes together."""

    num_rows: int
    length: int
    mask: Tensor | None  # bool [n, L], which positions can be seen; None if all can


@dataclass(frozen=True)
class PackedRows:
    """R rows in a flat sequence of N places, block after block."""

    tokens: Tensor  # int64 [N], which of the embedded tokens stands at each place
    blocks: tuple[Block, ...]
    first: Tensor  # int64 [R], the place where each row begins, in the order of the sequence
    rank: Tensor  # int64 [R], which one of the sequence's rows each row is, in the order of the views
    kept: tuple[Tensor, ...] | None = None  # bool [B, L] of each view, its positions in the sequence; None if all, in order

    def place(self, embeddings: Tensor) -> Tensor:
        """The sequence [N, D] of embedded tokens [U, D]."""
        # the same as embeddings[self.tokens], whose derivative, an index_put that adds up, is slower
        return F.embedding(self.tokens, embeddings)

    def keep_first(self, x: Tensor) -> Tensor:
        """The first position of each row, [R, D], of a sequence [N, D]."""
        return x.index_select(0, self.first)

    def unpack(self, x: Tensor) -> list[Tensor]:
        """A sequence [N, D] as the positions [B, L, D] of each view; what stands where none was kept means nothing."""
        if self.kept is None:
            return self._split(x)
        # the n-th position that a row kept stands n - 1 places after the row's first one
        firsts = torch.split(self.first[self.rank], list(map(len, self.kept)))
        return [F.embedding(first[:, None] + kept.cumsum(1) - 1, x) for first, kept in zip(firsts, self.kept)]

    def attend(self, attention: Attention, place: Move, x: Tensor) -> Tensor:
        """What each place of a sequence reads in its row, [N, D]; `place` makes the sequence of x where that is [U, D]."""
        # Projected before it is placed: in the first layer that is once a distinct token, not once a row that shows it.
        query, key, value = place(attention.query(x)), place(attention.key(x)), place(attention.value(x))  # [N, D]
        return self._attend(attention, query, None, key, value)

    def attend_first(self, attention: Attention, place: Move, x: Tensor) -> Tensor:
        """What the first position of each row reads in its row of a sequence, [R, D]."""
        # Keys and values of all positions, but one query a row: the classifier reads no other position of the last layer.
        query, key, value = attention.query(self.keep_first(place(x))), place(attention.key(x)), place(attention.value(x))
        return self._attend(attention, query, 1, key, value)

    def _attend(self, attention: Attention, query: Tensor, num_reading: int | None, key: Tensor, value: Tensor) -> Tensor:
        queries, keys, values = self._split(query, num_reading), self._split(key), self._split(value)
        read = []
        for block, q, k, v in zip(self.blocks, queries, keys, values):
            read.append(attention.read(q, k, v, block.mask).flatten(0, 1))
        return cast(Tensor, attention.output(torch.cat(read)))

    def _split(self, x: Tensor, num_kept: int | None = None) -> list[Tensor]:
        """The blocks of a sequence, [n, L, D] each, or with so many positions of each row."""
        pieces = torch.split(x, [block.num_rows * (num_kept or block.length) for block in self.blocks])
        return [piece.view(block.num_rows, -1, x.shape[-1]) for piece, block in zip(pieces, self.blocks)]


def read_layers(
    transformer: Transformer, x: Tensor, rows: PackedRows, place: Move, layers: Collection[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """What a transformer makes of the first position of each row, [R, D], and the sequence [N, D] after some layers.

    x is the sequence, or the distinct tokens in it, [U, D], with `rows.place` as `place`. The last layer computes all positions
    only if it is among `layers`; 0 is before the first one.
    """
    *below, last = cast("list[TransformerLayer]", list(transformer.layers))
    states = {0: place(x)} if 0 in layers else {}
    for number, layer in enumerate(below, 1):
        x = layer.step(x, place, partial(rows.attend, layer.attention, place))  # [N, D]
        # From here on the same token is another thing in each row, since it has read there: x is the sequence itself.
        place = whole
        if number in layers:
            states[number] = x
    if len(transformer.layers) in layers:
        x = transformer.last_norm(last.step(x, place, partial(rows.attend, last.attention, place)))  # [N, D]
        states[len(transformer.layers)] = x
        x = rows.keep_first(x)
    else:
        x = last.step(x, lambda x: rows.keep_first(place(x)), partial(rows.attend_first, last.attention, place))
        x = transformer.last_norm(x)
    return x.index_select(0, rows.rank), states  # [R, D], from here on in the order of the views


def pack(views: Sequence[Sequence[Segment]], token_cost: int, last: Collection[int] = ()) -> tuple[Tensor, PackedRows]:
    """Embeds the tokens of all views of B examples, each once, [U, D], and puts them in V * B rows.

    Args:
        token_cost: the multiplications of a layer for one token; the more there are, the less padding a block may hold.
        last: views whose rows come after all others in the sequence, where rows are without padding.
    """
    masks, kept = [], []
    kept_of_segments: list[Tensor] = []
    for view in views:
        mask = mask_of(view)  # [B, L]
        # The first position is kept even where it is hidden: the classifier reads it. The others then do not look at it.
        keep = torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], 1)  # [B, L]
        masks.append(mask)
        kept.append(keep)
        kept_of_segments += torch.split(keep, [segment.mask.shape[1] for segment in view], 1)
    embeddings, tokens = _embed(views, kept_of_segments)
    if not can_look(embeddings):
        return embeddings, _padded_rows(tokens, masks)
    behind = torch.cat([torch.full((len(mask),), v in last) for v, mask in enumerate(masks)])  # [R]
    # A block more costs about as much as BLOCK_COST multiplications, so that much padding is cheaper than another block.
    return embeddings, _short_rows(tokens, masks, kept, BLOCK_COST // token_cost, behind)


def mask_of(view: Sequence[Segment]) -> Tensor:
    return torch.cat([segment.mask for segment in view], 1)


def can_look(tensor: Tensor) -> bool:
    """Whether a shape may depend on what is in a tensor without anything being waited for."""
    return tensor.device.type == "cpu"


def _embed(views: Sequence[Sequence[Segment]], kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Embeddings [U, D], and for each view which of them stands at each position, int64 [B, L]."""
    # Segments by what embeds them, and those by what they are made of: segments of several views that show the same are alike.
    alike: dict[Callable[..., Tensor], dict[tuple[int, ...], list[tuple[Segment, Tensor]]]] = {}
    for segment, keep in zip(chain(*views), kept):
        alike.setdefault(segment.embed, {}).setdefault(_identity(segment), []).append((segment, keep))
    embedded: list[Tensor] = []
    tokens: dict[tuple[int, ...], Tensor] = {}
    num_tokens = 0
    for embed, groups in alike.items():
        contents: list[list[Tensor]] = []
        for identity, group in groups.items():
            # A token is embedded if any view keeps it; the content of the first segment is that of all of them.
            take, place = _taking(reduce(or_, (keep for _, keep in group)))
            contents.append(list(map(take, group[0][0].contents)))
            tokens[identity] = place + num_tokens
            num_tokens += len(contents[-1][0])
        # One call for all that share `embed`; where there is one group, nothing is copied.
        joined = contents[0] if len(contents) == 1 else list(map(torch.cat, zip(*contents)))
        embedded.append(embed(*joined))  # [U', D]
    tokens_of_views = []
    for view in views:
        tokens_of_views.append(torch.cat([tokens[_identity(segment)] for segment in view], 1))  # [B, L]
    return torch.cat(embedded), tokens_of_views


def _identity(segment: Segment) -> tuple[int, ...]:
    # the objects live as long as their segments, so no id can go to another one meanwhile
    return tuple(map(id, segment.made_of))


def _taking(kept: Tensor) -> tuple[Move, Tensor]:
    """What takes U tokens [U, ..] from positions [B, L, ..], and which of them is at each position, int64 [B, L]."""
    if can_look(kept):
        flat = kept.flatten()
        index = flat.nonzero().squeeze(1)  # [U]
        return lambda x: x.flatten(0, 1).index_select(0, index), (flat.cumsum(0) - 1).view(kept.shape)
    # How many are kept is not known without waiting for the device, so all are taken, with zeros for those that are not.
    place = torch.arange(kept.numel(), device=kept.device).view(kept.shape)
    return lambda x: visible(x, kept).flatten(0, 1), place


def _padded_rows(tokens: Sequence[Tensor], masks: Sequence[Tensor]) -> PackedRows:
    device = tokens[0].device
    blocks, first, start, total = [], [], 0, 0
    for mask in masks:
        num_rows, length = mask.shape
        blocks.append(Block(num_rows, length, mask))
        first.append(start + length * torch.arange(num_rows, device=device))
        start, total = start + num_rows * length, total + num_rows
    rank = torch.arange(total, device=device)
    return PackedRows(torch.cat([t.flatten() for t in tokens]), tuple(blocks), torch.cat(first), rank)


def _short_rows(
    tokens: Sequence[Tensor], masks: Sequence[Tensor], kept: Sequence[Tensor], tolerance: int, behind: Tensor
) -> PackedRows:
    """Rows without hidden positions, those behind after the others, the longest first, in blocks of (nearly) one length."""
    longest = max(mask.shape[1] for mask in masks)

    def padded(xs: Sequence[Tensor]) -> Tensor:
        return torch.cat([F.pad(x, (0, longest - x.shape[1])) for x in xs])  # [R, L]

    keep, token, mask = padded(kept), padded(tokens), padded(masks)
    # Longest first, so that rows of nearly one length are neighbours; stable, so that the same batch is always laid out alike.
    order = (keep.sum(1) - (longest + 1) * behind).argsort(descending=True, stable=True)
    keep, token, mask = keep[order], token[order], mask[order]
    # What a row keeps moves to its left end. Position ids are in the embeddings already, so places mean nothing any more.
    lengths = keep.sum(1)
    filled = torch.arange(longest) < lengths[:, None]  # [R, L]
    token = torch.zeros_like(token).masked_scatter(filled, token[keep])
    mask = torch.zeros_like(mask).masked_scatter(filled, mask[keep])
    # older versions of torch have no tolist within torch.func.jvp
    counted = list(map(int, lengths.unbind()))
    # no block holds rows of both kinds: what is behind must be one slice of the sequence (`layers/recorded.py`)
    front = len(counted) - int(behind.sum())
    ends = _cuts(counted[:front], tolerance) + [(front + end, length) for end, length in _cuts(counted[front:], tolerance)]
    blocks, places, first, begin, size = [], [], [], 0, 0
    for end, length in ends:
        seen = mask[begin:end, :length]
        # most blocks have no padding, and attention is faster without a mask
        blocks.append(Block(end - begin, length, None if seen.all() else seen))
        places.append(token[begin:end, :length].flatten())
        first.append(torch.arange(size, size + (end - begin) * length, length))
        begin, size = end, size + (end - begin) * length
    return PackedRows(torch.cat(places), tuple(blocks), torch.cat(first), order.argsort(), tuple(kept))


def _cuts(lengths: list[int], tolerance: int) -> list[tuple[int, int]]:
    """Where blocks of rows, the longest first, end and how long they are, with no more padding each than is tolerated."""
    if not lengths:
        return []
    cuts, length, padding = [], lengths[0], 0
    for row, shorter in enumerate(lengths):
        padding += length - shorter
        if padding > tolerance:
            cuts.append((row, length))
            length, padding = shorter, 0
    return [*cuts, (len(lengths), length)]
