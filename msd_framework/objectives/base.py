"""What an objective promises: a batch in, a loss out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import nn

from msd_framework.maskers.base import Masker
from msd_framework.models.base import MultimodalModel
from msd_framework.progress import Mean, Paced, Progress
from msd_framework.structures import Batch, Setting, StepOutput


class Objective(nn.Module, ABC):
    """What is minimised. Data-parallel training wraps the objective, not the model, so that one call is one step.

    Attributes:
        model: the model that is trained.
        masker: how views hide a modality; the run fits it before the first step, and it is saved with the objective.
        teacher_masker: how they hide it from the teacher, where that is another way.
    """

    needs_teacher: ClassVar[bool] = False

    model: MultimodalModel
    masker: Masker | None
    teacher_masker: Masker | None

    @abstractmethod
    def forward(self, batch: Batch) -> StepOutput: ...

    @property
    def teacher_views(self) -> tuple[str, ...]:
        """The views that the teacher is asked about in training; one that is asked once must know them."""
        return ()

    @property
    def needs_fit(self) -> bool:
        """Whether `fit` must see the training examples before the first step."""
        return False

    def fit(self, batches: Iterable[Batch]) -> None:
        """Looks at all training examples once, where a weighting needs their statistics."""

    def begin_update(self, progress: Progress) -> None:
        """Tells every part that follows the run how far it is, before the forward passes of an update."""
        for part in self._paced():
            part.begin_update(progress)

    def end_update(self, mean: Mean) -> None:
        """Lets every part that follows the run learn from an update, once it is made."""
        for part in self._paced():
            part.end_update(mean)

    def _paced(self) -> Iterable[Paced]:
        return (module for module in self.modules() if isinstance(module, Paced))

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        """What would not work in a run, as sentences."""
        return []
