"""What a teacher promises: its predictions for views of a batch, always in eval mode and without a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from msd_framework.maskers.base import Views
from msd_framework.structures import Batch, ModelOutput


class Teacher(ABC):
    """Answers what it predicts for some views of some examples.

    Not a module: its weights are neither trained, nor synchronised between processes, nor saved with the student.

    Attributes:
        modalities: the names of what it takes, sorted.
        num_classes: C.
    """

    modalities: tuple[str, ...]
    num_classes: int

    @abstractmethod
    def predict(self, batch: Batch, views: Sequence[str], shown: Views | None = None) -> ModelOutput:
        """Logits float [V, B, C] for the views of the batch, which arrives in full.

        Args:
            batch: the examples.
            views: names of V views.
            shown: the views as the student sees them, for a teacher that looks at them in the same way.
        """
