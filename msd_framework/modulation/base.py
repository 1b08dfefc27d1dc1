"""The contract of modulations: they change the gradients of a student's encoders before the optimizer's step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from msd_framework.components.registry import Registry
from msd_framework.models.base import MODELS, MultimodalModel
from msd_framework.schedules import UpdateHook
from msd_framework.structures import Batch, ModelOutput, Setting


class GradientModulation(UpdateHook, ABC):
    """Changes how much the encoder of each modality learns from an update.

    It looks at the examples in each forward pass of an update, and changes gradients in `after_backward`, in the same way on every
    process: by means over all of them, and random numbers from a seed of the run's. State that it keeps from one update to the
    next is in buffers.
    """

    # methods that earlier versions called, and those that took their place
    renamed: ClassVar[Mapping[str, str]] = {"change_gradients": "after_backward"}

    def prepare(self, modalities: tuple[str, ...]) -> None:
        """Makes the buffers that depend on the modalities, when an objective takes it."""

    @property
    def teacher_views(self) -> tuple[str, ...]:
        """The views on which it wants the teacher's predictions, once it is prepared."""
        return ()

    def watch_teacher(self, batch: Batch, predictions: Mapping[str, ModelOutput], shown: Callable[[str], Tensor | None]) -> None:
        """Looks at a teacher's predictions by view, before `forward` looks at the same examples.

        `shown` says which examples have something that a view shows the teacher, bool [B]; None where all do.
        """

    @abstractmethod
    def forward(self, model: MultimodalModel, batch: Batch) -> dict[str, Tensor]:
        """Looks at examples, of which nothing is hidden, after the own forward pass of a `separable` model; scalars for the log."""

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting, model: type[MultimodalModel]) -> list[str]:
        """What would not work in a run with a model of this class, as sentences."""
        if not model.separable:
            fitting = [name for name in MODELS.names() if MODELS.get(name).separable]
            return [f"needs a model with an encoder of its own for each modality. Take {' or '.join(fitting)}, or leave it out."]
        if len(setting.student_modalities) < 2:
            return [f"balances modalities, and this model takes {', '.join(setting.student_modalities)} alone. Leave it out."]
        return []


MODULATIONS: Registry[GradientModulation] = Registry("modulation", "modulations", GradientModulation)
