"""Hides modalities of a batch, to see what a model does with the others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from msd_framework.components.registry import Registry
from msd_framework.maskers.content import special_first
from msd_framework.maskers.mixture import shown_of
from msd_framework.structures import Batch, ModalityInputs, ModalityKind, Setting
from msd_framework.views import FULL, rows_shown

ALL_KINDS: frozenset[ModalityKind] = frozenset({"tokens", "features", "pixels", "waveform"})


class Masker(nn.Module, ABC):
    """Hides modalities. A subclass implements `hide` for one modality; this class decides which ones a view hides.

    A hidden modality keeps its special tokens ([CLS], [SEP]): they belong to the model, not to the content. They move to positions
    0, 1, ..., and what replaces the content is as long for every example, so that the length of hidden content changes no logit.
    Only `attention` leaves them where they are.
    """

    kinds: ClassVar[frozenset[ModalityKind]] = ALL_KINDS  # the kinds of values that it can hide
    removes: bool = False  # whether it may leave a modality out of the inputs, which not every model can take
    random: bool = False  # whether chance or the rest of the batch decides what replaces the content
    keeps_repeats: ClassVar[bool] = False  # whether equal inputs stay equal once they are hidden, so that each is encoded once
    needs_fit: bool = False  # whether `fit` must see the training examples before the first view
    leaves_some: bool = False  # whether a part of what it hides is still to be seen

    @abstractmethod
    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        """The modality with its content hidden, or None where nothing is left of it."""

    def hide_in(self, batch: Batch, modality: str) -> ModalityInputs | None:
        """As `hide`, for maskers that need more of the batch than the modality."""
        return self.hide(modality, batch.inputs[modality])

    def hidden(self, batch: Batch, modality: str) -> ModalityInputs | None:
        """One modality of a batch as `hide` makes it; views are made of this."""
        hidden = self.hide_in(batch, modality)
        if hidden is None:
            return None
        if modality in batch.having:
            # nothing replaces what an example lacks: a view that hides it is the example in full
            hidden = special_first(hidden, ~batch.having[modality])
        return hidden if self.keeps_repeats else replace(hidden, distinct=None)

    def leaves_out(self, modality: str, kind: ModalityKind) -> bool:
        """Whether it may leave a modality with values of this kind out of the inputs."""
        return self.removes

    def fit(self, batches: Iterable[Batch]) -> None:
        """Looks at the training examples once, where a masker needs their statistics."""

    def view(self, batch: Batch, name: str) -> Batch:
        """The batch as a view shows it: `full`, `text`, `image+text`, `~text`, `image+text*`."""
        if name == FULL:
            return batch
        rows = rows_shown(name, batch.modalities)
        inputs = {}
        for modality in batch.inputs:
            value = self.hidden(batch, modality) if modality not in rows else shown_of(batch, modality, rows[modality])
            if value is not None:
                inputs[modality] = value
        return batch.with_inputs(inputs)

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        """What this masker could not hide in a run, as sentences."""
        problems, hides = [], ", ".join(sorted(cls.kinds))
        for modality, kind in sorted(setting.kinds.items()):
            if kind not in cls.kinds:
                what = f"{cls.__name__} cannot hide {modality!r}, whose values are {kind}; it hides {hides}."
                instead = f"{{type: by_modality, maskers: {{{modality}: drop, ...}}}}"
                problems.append(f"{what} Take another masker for it: {instead}.")
        return problems


MASKERS: Registry[Masker] = Registry("masker", "maskers", Masker)


class Views:
    """The views of one batch by name, each made once, so that student and teacher see the same noise."""

    def __init__(self, masker: Masker, batch: Batch):
        self.masker, self.batch = masker, batch
        self._views: dict[str, Batch] = {}

    def __getitem__(self, name: str) -> Batch:
        if name not in self._views:
            self._views[name] = self.masker.view(self.batch, name)
        return self._views[name]
