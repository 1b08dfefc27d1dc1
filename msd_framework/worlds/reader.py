"""What a reader who mistakes nothing predicts of a made world's rows: the most that any model can know of what a view shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msd_framework.engine.evaluation import Predictions
from msd_framework.structures import DatasetInfo
from msd_framework.views import FULL, visible_modalities
from msd_framework.worlds.oracle import OracleRow, Posterior, find_oracle

SMALLEST = 1e-12  # the nearest that a probability comes to 0 or 1


@dataclass(frozen=True)
class ExactReader:
    """The exact posteriors of a split's rows, in place of a model that takes some modalities.

    Its accuracy, ranking and log-probability on a view are the best possible in expectation; on a split a model may have a
    little more by chance.
    """

    rows: Mapping[str, OracleRow]
    modalities: Sequence[str]  # those of the model
    classes: Sequence[str]
    is_softmax: bool

    @classmethod
    def of(cls, root: object, split: str, modalities: Sequence[str], info: DatasetInfo) -> ExactReader | None:
        """None where no posteriors are known, or the world has no such modalities or classes."""
        rows = find_oracle(root, split)
        if not rows:
            return None
        row = next(iter(rows.values()))
        is_binary = isinstance(row.posteriors[FULL], float)
        classes = tuple(info.class_names)
        if is_binary and "1" not in classes:
            classes = ("0", "1")
        if not set(modalities) <= set(row.saliency) or len(classes) != info.num_classes:
            return None
        return cls(rows, modalities, classes, info.outcomes == "softmax")

    def knows(self, ids: Sequence[str]) -> bool:
        return all(name in self.rows for name in ids)

    def predict(self, ids: Sequence[str], model: Predictions) -> Predictions:
        """The reader's predictions of the same targets on the same views, by the ids of their examples."""
        logits = {view: self._logits(ids, view) for view in model.logits}
        return Predictions(model.places, model.targets, logits, model.shown)

    def _logits(self, ids: Sequence[str], view: str) -> Tensor:
        shown, known = visible_modalities(view, self.modalities), self.rows[ids[0]].saliency
        name = FULL if len(shown) == len(known) else "+".join(shown)
        p = torch.tensor([self._probabilities(self.rows[i].posteriors[name]) for i in ids], dtype=torch.float64)
        p = p.clamp(SMALLEST, 1 - SMALLEST)  # [N, C]
        return p.log() if self.is_softmax else p.logit()

    def _probabilities(self, posterior: float | Posterior) -> list[float]:
        """Of each class; a class that no row of the world can have has 0."""
        if isinstance(posterior, float):
            posterior = {"0": 1 - posterior, "1": posterior}
        return [posterior.get(name, 0.0) for name in self.classes]
