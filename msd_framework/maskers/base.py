"""Hides modalities of a batch, to see what a model does with the others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from msd_framework.components.registry import Registry
from msd_framework.maskers.content import special_first
from msd_framework.structures import Batch, ModalityInputs, ModalityKind, Setting
from msd_framework.views import FULL, visible_modalities

ALL_KINDS: frozenset[ModalityKind] = frozenset({"tokens", "features", "pixels", "waveform"})


class Masker(nn.Module, ABC):
    """A subclass says how one modality is hidden; which ones a view hides is said here.

    What is hidden keeps its special tokens ([CLS], [SEP]): they belong to the model, not to the content. They move to positions
    0, 1, ..., and what stands in for the content is as long for every example: a hidden modality of another length changes no
    logit. Only `attention` leaves them where they are.
    """

    kinds: ClassVar[frozenset[ModalityKind]] = ALL_KINDS
    """The kinds of values that it can hide."""

    removes: bool = False
    """Whether it may leave a modality out of the inputs, which not every model can take."""

    random: bool = False
    """Whether what is hidden shows something that chance or the rest of the batch decides, so that two looks may differ."""

    keeps_repeats: ClassVar[bool] = False
    """Whether inputs of a batch that are the same are hidden the same way, so that they need not be encoded one by one."""

    needs_fit: bool = False
    """Whether `fit` must see the training examples before the first view."""

    @abstractmethod
    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        """The modality with its content hidden, or None where nothing is left of it."""

    def hide_in(self, batch: Batch, modality: str) -> ModalityInputs | None:
        """One modality of a batch as `hide` shows it; for maskers that look at more of the batch than the modality."""
        return self.hide(modality, batch.inputs[modality])

    def hidden(self, batch: Batch, modality: str) -> ModalityInputs | None:
        """One modality of a batch as `hide_in` shows it, with what is known of repeated inputs only where it remains true.

        Nothing takes the place of what an example lacks: a view that hides it is the example in full.
        """
        hidden = self.hide_in(batch, modality)
        if hidden is not None and modality in batch.having:
            hidden = special_first(hidden, ~batch.having[modality])
        return hidden if hidden is None or self.keeps_repeats else replace(hidden, distinct=None)

    def leaves_out(self, modality: str, kind: ModalityKind) -> bool:
        """Whether it may leave a modality with values of this kind out of the inputs."""
        return self.removes

    def fit(self, batches: Iterable[Batch]) -> None:
        """Looks at the training examples once, where a masker needs their statistics."""

    def view(self, batch: Batch, name: str) -> Batch:
        """The batch as a view shows it: `full`, `text`, `image+text`, `~text`.

        Raises:
            ValueError: if the view names a modality that the batch lacks, or hides all of them.
        """
        if name == FULL:
            return batch
        shown = visible_modalities(name, batch.modalities)
        seen = {m: x if m in shown else self.hidden(batch, m) for m, x in batch.inputs.items()}
        return batch.with_inputs({m: x for m, x in seen.items() if x is not None})

    def only(self, batch: Batch, modality: str) -> Batch:
        """The batch with every other modality hidden."""
        return self.view(batch, modality)

    def without(self, batch: Batch, modality: str) -> Batch:
        """The batch with this modality hidden."""
        return self.view(batch, f"~{modality}")

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        """What this masker could not hide in a run, as sentences."""
        return [
            f"{cls.__name__} cannot hide {modality!r}, whose values are {kind}; it hides {', '.join(sorted(cls.kinds))}. "
            f"Take another masker for it: {{type: by_modality, maskers: {{{modality}: drop, ...}}}}."
            for modality, kind in sorted(setting.kinds.items())
            if kind not in cls.kinds
        ]


MASKERS: Registry[Masker] = Registry("masker", "maskers", Masker)


class Views:
    """The views of one batch, each made once, so that all who look at one see the same, noise included.

    Args:
        masker: how a view hides a modality.
        batch: the batch in full.
    """

    def __init__(self, masker: Masker, batch: Batch):
        self.masker, self.batch = masker, batch
        self.made: dict[str, Batch] = {}

    def __getitem__(self, name: str) -> Batch:
        if name not in self.made:
            self.made[name] = self.masker.view(self.batch, name)
        return self.made[name]
