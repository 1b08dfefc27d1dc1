"""Predictions as rows of a table: an example a row, by id, with what is predicted of it on each view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from msd_framework.data.base import MultimodalDataset
from msd_framework.engine.evaluation import Predictions
from msd_framework.structures import DatasetInfo, probabilities
from msd_framework.views import FULL

MOST_COLUMNS = 100  # the most classes that have a column each
PREDICTION = "prediction"  # the column of the predicted class, by name; of several labels, those with a probability above 0.5
BETWEEN_LABELS = ";"


def names_of(info: DatasetInfo) -> tuple[str, ...]:
    """The names of C classes; their numbers where nobody named them."""
    return info.class_names or tuple(map(str, range(info.num_classes)))


def predicted_names(logits: Tensor, info: DatasetInfo) -> list[tuple[str, ...]]:
    """What logits [N, C] predict: the name of the likeliest class, or of several labels those with a probability above 0.5."""
    names = names_of(info)
    if info.task != "multi_label":
        return [(names[c],) for c in logits.argmax(1).tolist()]
    return [tuple(name for name, yes in zip(names, row) if yes) for row in (logits > 0).tolist()]


class PredictionTable:
    """The rows of `predictions_<split>.csv`.

    A row has the id, what the data set keeps with the example, the label, and for each view the predicted class and a column of
    probabilities a class. Of more than `MOST_COLUMNS` classes, the most probable one and its probability; of scores, those that are
    not 0. Cells of a view that shows nothing of an example are empty. Where an example has several targets, each has a row.
    """

    def __init__(self, dataset: MultimodalDataset, info: DatasetInfo, views: Sequence[str]):
        self.dataset, self.info, self.views = dataset, info, views
        self.names = names_of(info)
        self.is_wide = info.num_classes > MOST_COLUMNS
        self.facts: dict[str, None] = {}  # the names of columns that are kept with an example, in their order
        for i in range(len(dataset)):
            self.facts.update(dict.fromkeys(dataset[i].facts))

    @property
    def header(self) -> list[str]:
        """The columns' names; those of views other than the full one have the view's name in front."""
        columns = ["id", *self.facts, "label"]
        of_view = (PREDICTION, "probability") if self.is_wide else (PREDICTION, *self.names)
        for view in self.views:
            columns += [name if view == FULL else f"{view}/{name}" for name in of_view]
        return columns

    def rows(self, found: Predictions) -> list[list[Any]]:
        """A row for each of some predictions."""
        cells = [self._cells_of_view(found, view) for view in self.views]
        rows = []
        for i, (place, target, known) in enumerate(zip(found.places.tolist(), found.targets.tolist(), found.labelled.tolist())):
            example = self.dataset[place]
            row = [example.id, *(example.facts.get(name, "") for name in self.facts), self._label(target) if known else ""]
            for of_view in cells:
                row += of_view[i]
            rows.append(row)
        return rows

    def _cells_of_view(self, found: Predictions, view: str) -> list[list[str]]:
        logits, shown = found.logits[view], found.shown.get(view)
        wanted = [len(found.places), self.info.num_classes]
        if list(logits.shape) != wanted:
            raise ValueError(f"a table of predictions takes logits {wanted}, a row for each target, got {list(logits.shape)}.")
        cells = self._cells(logits)
        if shown is None:
            return cells
        return [row if there else [""] * len(row) for row, there in zip(cells, shown.tolist())]

    def _cells(self, logits: Tensor) -> list[list[str]]:
        p = probabilities(logits, self.info.outcomes)
        if self.is_wide:
            best = p.max(1)
            return [[self.names[c], f"{x:.6f}"] for c, x in zip(best.indices.tolist(), best.values.tolist())]
        cells = []
        for names, row in zip(predicted_names(logits, self.info), p.tolist()):
            cells.append([BETWEEN_LABELS.join(names), *(f"{x:.6f}" for x in row)])
        return cells

    def _label(self, target: int | list[float]) -> str | int:
        if isinstance(target, int):
            return target
        if self.is_wide:
            return " ".join(f"{name}:{score:g}" for name, score in zip(self.names, target) if score)
        return " ".join(map("{:g}".format, target))
