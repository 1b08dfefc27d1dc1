"""The contract of a teacher: predictions for views of a batch, always in eval mode and without a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from msd_framework.maskers.base import Views
from msd_framework.structures import Batch, Feature, FeatureKind, ModelOutput


class Teacher(ABC):
    """Predicts for some views of some examples.

    Not a module: its weights are neither trained, nor synchronised between processes, nor saved with the student. One that changes
    in the run (`EmaTeacher`) is a module as well, and so saved.
    """

    modalities: tuple[str, ...]  # the names of its inputs, sorted
    num_classes: int

    @property
    def name(self) -> str:
        """What sentences call it: its model, where it runs one."""
        return type(getattr(self, "model", self)).__name__

    @abstractmethod
    def predict(self, batch: Batch, views: Sequence[str], shown: Views | None = None) -> ModelOutput:
        """Logits float [V, N, C] for V views of the batch, which arrives in full; `shown` are the student's views."""

    def side_of(self, batch: Batch) -> Batch:
        """The examples as it sees them; of several teachers, an example has what one of them sees."""
        return batch.teacher_side

    def shown(self, batch: Batch, view: str) -> Tensor | None:
        """Which examples have something that a view shows it, bool [B]; None where all of them do."""
        return batch.teacher_side.shown(view, self.modalities)

    @property
    def feature_kinds(self) -> Mapping[str, FeatureKind]:
        """The intermediates that `predict_features` can return, and the kind of each."""
        return {}

    def predict_features(
        self, batch: Batch, views: Sequence[str], wanted: Sequence[Collection[str]], shown: Views | None = None
    ) -> tuple[ModelOutput, Sequence[Mapping[str, Feature]]]:
        """What `predict` returns, and the wanted intermediates of each view, named as in `feature_kinds`."""
        assert not any(wanted), f"{type(self).__name__} offers no intermediates"
        return self.predict(batch, views, shown), [{} for _ in views]
