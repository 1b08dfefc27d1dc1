"""What a reader who mistakes nothing predicts of a made world's rows: the most that any model can know of what a view shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msd_framework.engine.evaluation import Predictions
from msd_framework.views import FULL, visible_modalities
from msd_framework.worlds.oracle import OracleRow, find_oracle

SMALLEST = 1e-12  # the nearest that a probability comes to 0 or 1


@dataclass(frozen=True)
class ExactReader:
    """The exact posteriors of a split's rows, in place of a model that takes some modalities.

    Its accuracy, ranking and log-probability on a view are the best possible in expectation; on a split a model may have a
    little more by chance.
    """

    rows: Mapping[str, OracleRow]
    modalities: Sequence[str]  # those of the model
    positive: int  # the class of label 1

    @classmethod
    def of(cls, root: object, split: str, modalities: Sequence[str], class_names: Sequence[str]) -> ExactReader | None:
        """None where no posteriors are known, or the world has no such modalities."""
        rows = find_oracle(root, split)
        if not rows:
            return None
        known = next(iter(rows.values())).saliency
        if len(class_names or (0, 1)) != 2 or not set(modalities) <= set(known):
            return None
        return cls(rows, modalities, list(class_names).index("1") if "1" in class_names else 1)

    def knows(self, ids: Sequence[str]) -> bool:
        return all(name in self.rows for name in ids)

    def predict(self, ids: Sequence[str], model: Predictions) -> Predictions:
        """The reader's predictions of the same targets on the same views, by the ids of their examples."""
        logits = {view: self._logits(ids, view) for view in model.logits}
        return Predictions(model.places, model.targets, logits, model.shown)

    def _logits(self, ids: Sequence[str], view: str) -> Tensor:
        shown, known = visible_modalities(view, self.modalities), self.rows[ids[0]].saliency
        name = FULL if len(shown) == len(known) else "+".join(shown)
        p = torch.tensor([self.rows[i].posteriors[name] for i in ids], dtype=torch.float64).clamp(SMALLEST, 1 - SMALLEST)
        of_each = [(1 - p).log(), p.log()]  # of label 0 and label 1
        return torch.stack(of_each if self.positive == 1 else of_each[::-1], 1)  # [N, 2]
