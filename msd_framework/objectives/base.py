"""The contract of objectives: a batch in, a loss out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from msd_framework.components.registry import Registry
from msd_framework.maskers.base import Masker
from msd_framework.models.base import MultimodalModel
from msd_framework.modulation.base import GradientModulation
from msd_framework.schedules import HeldOut, Mean, Progress, Step, UpdateHook
from msd_framework.structures import Batch, Setting, StepOutput
from msd_framework.teachers.base import Teacher

T = TypeVar("T", bound="Objective")


class Objective(nn.Module, ABC):
    """A loss of a model. Data-parallel training wraps the objective, not the model, so that one call is one step."""

    needs_teacher: ClassVar[bool] = False
    copies_teacher: ClassVar[bool] = False  # whether it trains a copy of the teacher, which must be one finished run that runs live
    takes_unlabelled: ClassVar[bool] = False  # whether it can learn from batches in which some examples have no label

    renamed: ClassVar[Mapping[str, str]] = {"learn": "after_step", "change_gradients": "after_backward", "looks_ahead": "rehearses"}

    model: MultimodalModel
    masker: Masker | None  # hides modalities in views; the run fits it before the first step, and it is saved with the objective
    teacher_masker: nn.Module | None  # hides them from the teacher, where that is another masker; or all such maskers
    evaluation_masker: nn.Module | None  # those that hide them in evaluations alone, saved with it
    modulation: GradientModulation | None

    @abstractmethod
    def forward(self, batch: Batch) -> StepOutput: ...

    def train(self: T, mode: bool = True) -> T:
        """As torch's, but for parts of the models in which nothing learns: they drop nothing and keep their statistics."""
        super().train(mode)
        for part in (part for model in self.trained_models for part in model.modules()):
            parameters = list(part.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                part.eval()
        return self

    @property
    def trained_models(self) -> tuple[MultimodalModel, ...]:
        """The models that it trains, the student first."""
        return (self.model,)

    @property
    def teacher_views(self) -> tuple[str, ...]:
        """The views on which the teacher predicts in training; a cached teacher is asked for all of them beforehand."""
        return ()

    @property
    def needs_dry_run(self) -> bool:
        """Whether `dry_run` must see a batch before there is an optimizer."""
        return False

    def dry_run(self, batch: Batch, teacher: Teacher | None = None, num_examples: int | None = None) -> None:
        """Makes parameters that depend on the shapes of the models' intermediates, by a pass over one batch; trains nothing.

        Args:
            batch: training examples, the same ones in every process.
            teacher: a live teacher, where the objective's own one is cached.
            num_examples: how many examples the training split has.
        """

    @property
    def needs_fit(self) -> bool:
        """Whether `fit` must see the training examples before the first step."""
        return False

    def fit(self, batches: Iterable[Batch]) -> None:
        """Looks at all training examples once, where a weighting needs their statistics."""

    def begin_update(self, progress: Progress) -> None:
        for hook in self._hooks():
            hook.begin_update(progress)

    def after_backward(self, mean: Mean) -> None:
        for hook in self._hooks():
            hook.after_backward(mean)

    def after_step(self, step: Step) -> None:
        for hook in self._hooks():
            hook.after_step(step)

    def end_update(self, mean: Mean) -> None:
        for hook in self._hooks():
            hook.end_update(mean)

    def _hooks(self) -> Iterator[UpdateHook]:
        return (module for module in self.modules() if isinstance(module, UpdateHook))

    def take(self, modulation: GradientModulation | None) -> None:
        """Takes the modulation, in a constructor, once the model is known."""
        self.modulation = modulation
        if modulation is not None:
            modulation.prepare(self.model.modalities)

    def modulate(self, batch: Batch) -> dict[str, Tensor]:
        """Lets the modulation look at a batch after the model's own forward pass; returns scalars for the log."""
        return {} if self.modulation is None else self.modulation(self.model, batch)

    @property
    def held_out(self) -> HeldOut | None:
        """The training examples that it learns from beside its batches, which must not hold them; None if there are none."""
        return None

    @property
    def rehearses(self) -> bool:
        """Whether the update that is under way is made on trial first, for `after_step` to learn from where it leads."""
        return False

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        """What would not work in a run, as sentences."""
        return []


OBJECTIVES: Registry[Objective] = Registry("objective", "objectives", Objective)
