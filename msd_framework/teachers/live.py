"""A teacher that runs its model for each prediction: frozen and in eval mode."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy, deepcopy

import torch
from torch import Tensor

from msd_framework.maskers.base import Masker, Views
from msd_framework.models.base import MultimodalModel
from msd_framework.structures import Batch, Feature, FeatureKind, Inputs, ModelOutput
from msd_framework.teachers.base import Teacher


class LiveTeacher(Teacher):
    """Runs a model on each view; it is put in eval mode and frozen, and stays so."""

    def __init__(self, model: MultimodalModel, masker: Masker):
        # for who trains a copy of it
        self.learned = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
        self.model, self.masker = model.requires_grad_(False).eval(), masker
        self.modalities, self.num_classes = model.modalities, model.num_classes

    def with_masker(self, masker: Masker) -> LiveTeacher:
        """The same teacher with its views made by another masker."""
        other = copy(self)
        other.masker = masker
        return other

    def trainable_copy(self) -> MultimodalModel:
        """A copy of its model in which that learns which did before it was frozen."""
        model = deepcopy(self.model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self.learned)
        return model

    @torch.no_grad()
    def predict(self, batch: Batch, views: Sequence[str], shown: Views | None = None) -> ModelOutput:
        return self.model.forward_views(self._inputs(batch, views, shown))

    @property
    def feature_kinds(self) -> Mapping[str, FeatureKind]:
        return self.model.feature_kinds

    @torch.no_grad()
    def predict_features(
        self, batch: Batch, views: Sequence[str], wanted: Sequence[Collection[str]], shown: Views | None = None
    ) -> tuple[ModelOutput, Sequence[Mapping[str, Feature]]]:
        return self.model.forward_features(self._inputs(batch, views, shown), wanted)

    @torch.no_grad()
    def summarise(self, batch: Batch, views: Sequence[str]) -> Tensor:
        """What the model's classifier reads of each view, float [V, B, D]."""
        return self.model.summarise_views(self._inputs(batch, views, None))

    def _inputs(self, batch: Batch, views: Sequence[str], shown: Views | None) -> list[Inputs]:
        side = batch.teacher_side
        # views that were made for the student are used again where they would be the same
        if shown is None or shown.masker is not self.masker or shown.batch.inputs is not side.inputs:
            shown = Views(self.masker, side)
        return [shown[name].inputs for name in views]
