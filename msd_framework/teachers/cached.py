"""A teacher that was asked once: its answers are read from disk, and its weights are nowhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from msd_framework.errors import CacheError
from msd_framework.maskers.base import Views
from msd_framework.structures import Batch, Feature, FeatureKind, ModelOutput
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.store import DONE, SUMMARY, Rows, TeacherStore, mend

Classify: TypeAlias = Callable[[Tensor], Tensor]
"""Summaries [.., D] to logits [.., C]."""


@dataclass(frozen=True)
class Opened:
    """A store with an answer to each example that it will be asked about.

    Args:
        store: what is read.
        classify: makes logits of the summaries, where the store keeps no logits.
        unanswered: the places in the split of examples that could not be read when the teacher was asked.
    """

    store: TeacherStore
    classify: Classify | None = None
    unanswered: tuple[int, ...] = ()


class CachedTeacher(Teacher):
    """Looks up what a teacher said of the examples of one split.

    The answers are those of the teacher to about 2^-11 of a logit's distance from the row's largest one. A look-up draws no
    random numbers and waits for no device.

    Args:
        modalities: what the teacher takes.
        num_classes: C.
        opening: finds the answers, or asks the teacher for them; called once, at the first question at the latest.
    """

    def __init__(self, modalities: Sequence[str], num_classes: int, opening: Callable[[], Opened]):
        self.modalities, self.num_classes, self.opening = tuple(modalities), num_classes, opening

    @cached_property
    def opened(self) -> Opened:
        """The store, which is filled if need be."""
        return self.opening()

    def predict(self, batch: Batch, views: Sequence[str], shown: Views | None = None) -> ModelOutput:
        """Logits float32 [V, B, C] of the batch's ids; and the summary [V, B, D] if it is stored.

        Raises:
            CacheError: if an example has no answer.
        """
        store, device = self.opened.store, batch.targets.device
        rows = store.rows(batch.ids, batch.places)
        self._check(batch, rows)
        read = {name: _moved(values, device).float() for name, values in store.read(rows, views).items()}
        features = {SUMMARY: read["summary"]} if "summary" in read else {}
        if "logits" in read:
            return ModelOutput(read["logits"] + read["maximum"][..., None], features)
        assert self.opened.classify is not None
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return ModelOutput(self.opened.classify(read["summary"]), features)

    @property
    def feature_kinds(self) -> Mapping[str, FeatureKind]:
        """The summary, if it is stored."""
        return {SUMMARY: "pooled"} if self.opened.store.layout.summary_size else {}

    def predict_features(
        self, batch: Batch, views: Sequence[str], wanted: Sequence[Collection[str]], shown: Views | None = None
    ) -> tuple[ModelOutput, Sequence[Mapping[str, Feature]]]:
        output = self.predict(batch, views, shown)
        return output, [{name: Feature(output.features[name][v]) for name in names} for v, names in enumerate(wanted)]

    def _check(self, batch: Batch, rows: Rows) -> None:
        store = self.opened.store
        unknown = (rows < 0) | (store.marks[rows] != DONE) if store.num_rows else rows < 0
        if unknown.any():
            name = batch.ids[int(unknown.argmax())]
            raise CacheError(
                f"the teacher cache {store.folder} has no answer for the example {name!r}: it was not in the data, or could not be "
                f"read, when the cache was filled. {mend(store.folder)}"
            )


def _moved(values: Tensor, device: torch.device) -> Tensor:
    """The values on a device, which need not have got there yet."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)
