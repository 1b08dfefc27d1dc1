"""A teacher that is the moving average of the student."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy

import torch

from msd_framework.maskers.base import Masker, Views
from msd_framework.models.base import MultimodalModel
from msd_framework.schedules import Mean, Number, Scheduled, UpdateHook
from msd_framework.structures import Batch, Feature, FeatureKind, ModelOutput
from msd_framework.teachers.base import Teacher
from msd_framework.teachers.live import LiveTeacher


class EmaTeacher(UpdateHook, Teacher):
    r"""The exponential moving average of the student's weights, which changes after each update.

    .. math:: \theta_T \leftarrow a \, \theta_T + (1 - a) \, \theta

    from the student's first weights on, with :math:`\theta` those after the update and a the decay or its schedule.
    What a batch norm has measured is averaged in the same way, over the processes as well. Unlike other teachers it is
    a module: as part of the objective it is saved and resumed with the run, and its weights are no parameters to be
    trained.

    Source: Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017 (arXiv:1703.01780), section 3.
    """

    average: MultimodalModel

    def __init__(self, student: MultimodalModel, masker: Masker, decay: Number = 0.999):
        super().__init__()
        self.decay = decay_of(decay)
        self.average = deepcopy(student)
        self.live = LiveTeacher(self.average, masker)
        self.modalities, self.num_classes = student.modalities, student.num_classes
        self.student = (student,)  # in a tuple: it is a part of the objective already

    def predict(self, batch: Batch, views: Sequence[str], shown: Views | None = None) -> ModelOutput:
        return self.live.predict(batch, views, shown)

    @property
    def feature_kinds(self) -> Mapping[str, FeatureKind]:
        return self.live.feature_kinds

    def predict_features(
        self, batch: Batch, views: Sequence[str], wanted: Sequence[Collection[str]], shown: Views | None = None
    ) -> tuple[ModelOutput, Sequence[Mapping[str, Feature]]]:
        return self.live.predict_features(batch, views, wanted, shown)

    @torch.no_grad()
    def end_update(self, mean: Mean) -> None:
        (student,), change = self.student, 1 - self.decay.value
        for average, weight in zip(self.average.parameters(), student.parameters(), strict=True):
            average.lerp_(weight, change)
        for measured, now in zip(self.average.buffers(), student.buffers(), strict=True):
            if now.is_floating_point():
                measured.lerp_(mean(now), change)
            else:
                measured.copy_(now)

    def train(self, mode: bool = True) -> EmaTeacher:
        super().train(mode)
        self.average.eval()  # whatever becomes of the objective
        return self


def decay_of(number: Number) -> Scheduled:
    """The share of itself that an average keeps in an update."""
    scheduled = Scheduled("ema", number)
    for value in scheduled.ends:
        if not 0 <= value < 1:
            raise ValueError(f"ema must be at least 0 and below 1, got {value}.")
    return scheduled
