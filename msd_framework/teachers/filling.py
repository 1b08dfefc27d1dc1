"""Runs a teacher once on each example and stores its outputs; compares stored outputs with those of now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msd_framework.array_files import FLUSH_SECONDS
from msd_framework.models.base import MultimodalModel
from msd_framework.structures import Batch, ModelOutput
from msd_framework.teachers.cached import Classify
from msd_framework.teachers.live import LiveTeacher
from msd_framework.teachers.store import MISSING, SUMMARY, UNREADABLE, Layout, Rows, TeacherStore, Writer

HALF = 2.0**-11  # the relative error of a number in float16

NOISE = {"fp32": 1e-4, "bf16": 3e-2}
"""How far two computations of the same logits may lie apart, relative to the largest of them: other batches, another device."""


@torch.no_grad()
def outputs_to_store(teacher: LiveTeacher, batch: Batch, layout: Layout) -> ModelOutput:
    """What a store of this layout keeps of a batch: logits float [V, B, C], and the summary [V, B, D] if it is stored."""
    if not layout.summary_size:
        return teacher.predict(batch, layout.views)
    summary = teacher.summarise(batch, layout.views)
    return ModelOutput(teacher.model.classify(summary).float(), {SUMMARY: summary.float()})


def fill(
    writer: Writer,
    predict: Callable[[Batch], ModelOutput],
    batches: Iterable[Batch],
    rows: Rows,
    advance: Callable[[int], None],
    flush_seconds: float = FLUSH_SECONDS,
) -> None:
    """Stores the outputs for batches, whose places count `rows`; rows whose example is in none of them are marked
    unreadable.
    """
    for batch in batches:
        writer.write(rows[list(batch.places)], predict(batch))
        writer.flush_in_time(flush_seconds)
        advance(len(batch))
    writer.flush()
    writer.mark(rows[writer.store.marks[rows] == MISSING], UNREADABLE)


@dataclass(frozen=True)
class Comparison:
    """Stored outputs beside those of now, float32 [V, B, C or D]."""

    stored: Tensor
    live: Tensor
    tolerance: Tensor  # how far apart they may lie

    @property
    def wrong(self) -> Tensor:
        """Which outputs differ, bool [V, B]."""
        return ((self.stored - self.live).abs() > self.tolerance).any(-1)

    @property
    def largest(self) -> float:
        """The largest difference of a logit, or of a feature of the summary where no logits are stored."""
        return float((self.stored - self.live).abs().max())

    @property
    def share(self) -> float:
        """The largest difference as a share of what it may be."""
        return float(((self.stored - self.live).abs() / self.tolerance).max())


def compare(store: TeacherStore, rows: Rows, output: ModelOutput, views: Sequence[str], precision: str) -> Comparison:
    """Compares what is stored in some rows with the teacher's output for some views of their examples."""
    read = {name: values.float() for name, values in store.read(rows, views).items()}
    if store.layout.num_classes:
        stored, live = read["logits"] + read["maximum"][..., None], output.logits.float().cpu()
        rounded = live.amax(-1, keepdim=True) - live  # only what lies below the maximum is rounded
    else:
        stored, live = read["summary"], output.features[SUMMARY].float().cpu()
        rounded = live.abs()
    scale = 1 + live.abs().amax(-1, keepdim=True)
    return Comparison(stored, live, HALF * rounded + NOISE[precision] * scale)


def only_head(model: MultimodalModel) -> Classify:
    """The model's classifier alone: every other weight is let go, so that the model can be used for nothing else."""
    assert model.summary_size is not None
    weights = list(model.parameters())
    with torch.enable_grad():
        for weight in weights:
            weight.requires_grad_(True)
        logits = model.classify(torch.zeros(1, model.summary_size, dtype=weights[0].dtype, device=weights[0].device))
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(logits.sum(), weights, allow_unused=True)
    for weight, gradient in zip(weights, gradients):
        weight.requires_grad_(False)
        if gradient is None:  # the classifier does not read it
            weight.data = weight.data.new_empty(0)
    return model.classify
