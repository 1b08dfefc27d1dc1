"""What a batch holds of each modality: content, special positions, padding, and rows that differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from msd_framework.analysis.doctor.finding import Finding, sizes
from msd_framework.maskers.content import over
from msd_framework.structures import Batch, ModalityInputs, tree_map

COLUMNS = ("modality", "values", "tokens a row", "most", "special", "padding", "empty rows")


@dataclass(frozen=True)
class Shape:
    """One modality of the batch."""

    modality: str
    values: tuple[int, ...]
    positions: int  # L, what its mask counts
    tokens: float  # positions with content, the mean over the rows
    most: int  # the most that a row has
    special: float  # positions that belong to the model, the mean over the rows
    padding: float  # the share of positions that hold nothing
    absent: int  # rows without any content
    distinct: int  # rows whose content differs from that of the row that they change places with


def measure(batch: Batch) -> list[Shape]:
    """What each modality of a batch is like, and each that the teacher sees in tensors of its own."""
    shapes, tensors = [], dict(batch.inputs)
    is_alone = all(teachers == (0,) for _, teachers in batch.teacher_inputs)
    for (modality, teachers), inputs in batch.teacher_inputs.items():
        if inputs is not None:
            who = "the teacher" if is_alone else f"teacher {', '.join(str(k + 1) for k in teachers)}"
            tensors[f"{modality} of {who}"] = inputs
    for modality, inputs in tensors.items():
        content, special = inputs.mask & ~inputs.special, inputs.mask & inputs.special
        tokens = content.sum(1)  # [B]
        shape = Shape(
            modality=modality,
            values=tuple(inputs.values.shape),
            positions=inputs.mask.shape[1],
            tokens=float(tokens.float().mean()),
            most=int(tokens.max()),
            special=float(special.sum(1).float().mean()),
            padding=float((~inputs.mask).float().mean()),
            absent=int((tokens == 0).sum()),
            distinct=swapped(inputs)[1],
        )
        shapes.append(shape)
    return shapes


def judge(shape: Shape, rows: int) -> Iterator[Finding]:
    """What is wrong with a modality of a batch of so many rows."""
    where = f"data, {shape.modality}"
    if shape.absent:
        text = f"{shape.absent} of {rows} rows of the batch have no content"
        yield Finding(where, text, "some in every row", "Look at these rows, unless they lack it on purpose.", shape.absent == rows)
    if rows > 1 and not shape.distinct:
        do = f"Look at how the data set finds its {shape.modality}."
        yield Finding(where, f"all {rows} rows of the batch have the same content", "other content in other rows", do)


def row(shape: Shape) -> list[str]:
    numbers = [f"{shape.tokens:.1f}", f"{shape.most}", f"{shape.special:.1f}", f"{100 * shape.padding:.0f} %", f"{shape.absent}"]
    return [shape.modality, sizes(shape.values), *numbers]


def swapped(inputs: ModalityInputs) -> tuple[ModalityInputs, int]:
    """A modality with its rows moved on in a circle, as far as makes most of them differ; and how many do."""
    each = replace(inputs, distinct=None)
    values, mask = each.values.flatten(1), each.mask
    best, most = 0, 0
    for shift in range(1, min(len(values), 8)):
        differ = (values != values.roll(shift, 0)).any(1) | (mask != mask.roll(shift, 0)).any(1)
        if differ.sum() > most:
            best, most = shift, int(differ.sum())
    return tree_map(lambda x: x.roll(best, 0), each), most


def with_other_content(inputs: ModalityInputs, rows: Sequence[int]) -> ModalityInputs:
    """A modality whose content, in some rows, is that of other rows; its mask and special positions stay."""
    other, _ = swapped(inputs)
    chosen = torch.zeros(len(inputs.values), 1, dtype=torch.bool, device=inputs.mask.device)
    chosen[list(rows)] = True
    content = inputs.mask & ~inputs.special & other.mask & ~other.special & chosen  # [B, L]
    values = torch.where(over(content, inputs.values), other.values, inputs.values)
    extras = dict(inputs.extras)
    for name, x in extras.items():
        if x.is_floating_point():  # whole numbers are marks of positions, which stay
            extras[name] = torch.where(over(content, x), other.extras[name], x)
    return replace(inputs, values=values, extras=extras, distinct=None)
