"""A teacher whose outputs are read from disk, and whose weights are nowhere."""

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
from msd_framework.teachers.store import DONE, SUMMARY, Rows, TeacherStore, how_to_remove
from msd_framework.views import in_turn, recombines

Classify: TypeAlias = Callable[[Tensor], Tensor]  # summaries [.., D] to logits [.., C]


@dataclass(frozen=True)
class Opened:
    """A store with an output for each example of a split."""

    store: TeacherStore
    classify: Classify | None = None  # logits of summaries, where the store keeps no logits
    unanswered: tuple[int, ...] = ()  # places of examples that could not be read when it was filled


class CachedTeacher(Teacher):
    """Looks up a teacher's outputs for the examples of one split; the store is opened by the first prediction at the
    latest.

    They are those of the teacher to about 2^-11 of a logit's distance from the row's largest one. A look-up draws no
    random numbers and waits for no device.
    """

    def __init__(self, modalities: Sequence[str], num_classes: int, opening: Callable[[], Opened]):
        self.modalities, self.num_classes, self.opening = tuple(modalities), num_classes, opening

    @cached_property
    def opened(self) -> Opened:
        return self.opening()

    def predict(self, batch: Batch, views: Sequence[str], shown: Views | None = None) -> ModelOutput:
        """Logits float32 [V, B, C] of the batch's ids; and the summary [V, B, D] if it is stored."""
        store, device = self.opened.store, batch.targets.device
        rows = store.rows(batch.ids, batch.places)
        missing = rows < 0
        if store.num_rows:
            missing |= store.marks[rows] != DONE
        if missing.any():
            name = batch.ids[int(missing.argmax())]
            raise CacheError(
                f"the teacher cache {store.folder} has no answer for the example {name!r}: it was not in the data, or could not be "
                f"read, when the cache was filled. {how_to_remove(store.folder)}"
            )
        columns = {name: _to_device(values, device).float() for name, values in _read(store, rows, views, batch.turns).items()}
        features = {SUMMARY: columns["summary"]} if "summary" in columns else {}
        if "logits" in columns:
            return ModelOutput(columns["logits"] + columns["maximum"][..., None], features)
        assert self.opened.classify is not None
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return ModelOutput(self.opened.classify(columns["summary"]), features)

    @property
    def feature_kinds(self) -> Mapping[str, FeatureKind]:
        return {SUMMARY: "pooled"} if self.opened.store.layout.summary_size else {}

    def predict_features(
        self, batch: Batch, views: Sequence[str], wanted: Sequence[Collection[str]], shown: Views | None = None
    ) -> tuple[ModelOutput, Sequence[Mapping[str, Feature]]]:
        output = self.predict(batch, views, shown)
        return output, [{name: Feature(output.features[name][v]) for name in names} for v, names in enumerate(wanted)]


def _read(store: TeacherStore, rows: Rows, views: Sequence[str], turns: Sequence[int]) -> dict[str, Tensor]:
    """What is stored in some rows, [V, B, ..] by column; of views that show another row, at each example's turn."""
    if not any(map(recombines, views)):
        return store.read(rows, views)
    if len(turns) != len(rows):
        raise ValueError(
            "the batch does not say at which turn its examples are (Batch.turns), and a cache keeps an answer for each."
        )
    names = []
    met = sorted(set(turns))
    for view in views:
        names += in_turn(view, met)
    first = [names.index(in_turn(view, met)[0]) for view in views]
    step = torch.tensor(list(map(met.index, turns)))  # [B], how far from the first a view's name for the turn stands
    values = {}
    for column, read in store.read(rows, names).items():
        of_views = []
        for view, start in zip(views, first):
            at = start + step if recombines(view) else torch.full_like(step, start)
            of_views.append(read[at, torch.arange(len(rows))])
        values[column] = torch.stack(of_views)
    return values


def _to_device(values: Tensor, device: torch.device) -> Tensor:
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)
