"""Asks a teacher about each example once and writes down what it says; compares what is written with what it says now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msd_framework.models.base import MultimodalModel
from msd_framework.structures import Batch, ModelOutput, check_logits
from msd_framework.teachers.cached import Classify
from msd_framework.teachers.live import LiveTeacher
from msd_framework.teachers.store import MISSING, SUMMARY, UNREADABLE, Layout, Rows, TeacherStore, Writer

FLUSH_SECONDS = 2.0
"""How much work a process that is killed may lose."""

HALF = 2.0**-11
"""The relative error of a number in float16."""

NOISE = {"fp32": 1e-4, "bf16": 3e-2}
"""How far two computations of the same logits may lie apart, relative to the largest of them: other batches, another device."""


@torch.no_grad()
def ask(teacher: LiveTeacher, batch: Batch, layout: Layout) -> ModelOutput:
    """What a store of this layout keeps of a batch: logits float [V, B, C], and the summary [V, B, D] if it is stored.

    Raises:
        ConfigError: if the logits have not a row for each target.
    """
    if not layout.summary_size:
        output = teacher.predict(batch, layout.views)
        check_logits(output.logits, batch, teacher.name)
        return output
    summary = teacher.summarise(batch, layout.views)
    return ModelOutput(teacher.model.classify(summary).float(), {SUMMARY: summary.float()})


def fill(
    writer: Writer,
    say: Callable[[Batch], ModelOutput],
    batches: Iterable[Batch],
    rows: Rows,
    advance: Callable[[int], None],
    flush_seconds: float = FLUSH_SECONDS,
) -> None:
    """Writes what the teacher says of each batch; rows whose example is in none of them are marked as unreadable.

    Args:
        writer: where to.
        say: asks the teacher, as `ask` does.
        batches: examples, each with its place among `rows`.
        rows: the row of each place; those that no batch has cannot be read.
        advance: is told how many examples are done.
        flush_seconds: after how long what was written is marked as done.
    """
    flushed = time.monotonic()
    for batch in batches:
        writer.write(rows[list(batch.places)], say(batch))
        if time.monotonic() - flushed >= flush_seconds:
            writer.flush()
            flushed = time.monotonic()
        advance(len(batch))
    writer.flush()
    writer.mark(rows[writer.store.marks[rows] == MISSING], UNREADABLE)


@dataclass(frozen=True)
class Compared:
    """Stored answers beside those that the teacher gives now.

    Args:
        stored: what is stored, float32 [V, B, C or D].
        said: what the teacher says, the same.
        tolerance: how far apart they may lie, float32 [V, B, C or D].
    """

    stored: Tensor
    said: Tensor
    tolerance: Tensor

    @property
    def wrong(self) -> Tensor:
        """Which answers differ, bool [V, B]."""
        return ((self.stored - self.said).abs() > self.tolerance).any(-1)

    @property
    def largest(self) -> float:
        """The largest difference of a logit, or of a feature of the summary where no logits are stored."""
        return float((self.stored - self.said).abs().max())

    @property
    def share(self) -> float:
        """The largest difference as a share of what it may be."""
        return float(((self.stored - self.said).abs() / self.tolerance).max())


def compare(store: TeacherStore, rows: Rows, said: ModelOutput, views: Sequence[str], precision: str) -> Compared:
    """What is stored in some rows beside what the teacher says of some views of their examples now."""
    read = {name: values.float() for name, values in store.read(rows, views).items()}
    if store.layout.num_classes:
        stored, now = read["logits"] + read["maximum"][..., None], said.logits.float().cpu()
        rounded = now.amax(-1, keepdim=True) - now  # only what lies below the maximum is rounded
    else:
        stored, now = read["summary"], said.features[SUMMARY].float().cpu()
        rounded = now.abs()
    scale = 1 + now.abs().amax(-1, keepdim=True)
    return Compared(stored, now, HALF * rounded + NOISE[precision] * scale)


def only_head(model: MultimodalModel) -> Classify:
    """The model's classifier alone: every other weight is let go, so that the model can be used for nothing else."""
    assert model.summary_size is not None
    weights = dict(model.named_parameters())
    like = next(iter(weights.values()))
    with torch.enable_grad():
        for weight in weights.values():
            weight.requires_grad_(True)
        logits = model.classify(torch.zeros(1, model.summary_size, dtype=like.dtype, device=like.device))
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(logits.sum(), list(weights.values()), allow_unused=True)
    for weight, gradient in zip(weights.values(), gradients):
        weight.requires_grad_(False)
        if gradient is None:  # the classifier does not look at it
            weight.data = weight.data.new_empty(0)
    return model.classify
