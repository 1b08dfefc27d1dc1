"""Hides each modality in a way of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from torch import nn

from msd_framework.components.registry import split
from msd_framework.errors import ConfigError, did_you_mean
from msd_framework.maskers.base import MASKERS, Masker
from msd_framework.structures import Batch, ModalityInputs, ModalityKind, Setting


@MASKERS.register("by_modality")
class ModalityMasker(Masker):
    """Has one masker for each modality.

    Args:
        maskers: masker by modality, such as `{text: {type: constant, token: 103}, image: mean}`.
        otherwise: masker of the modalities that are not listed; null if all are.

    >>> import torch
    >>> from msd_framework.maskers.attention import AttentionMasker
    >>> from msd_framework.maskers.drop import DropMasker
    >>> masker = ModalityMasker({"image": DropMasker()}, otherwise=AttentionMasker())
    >>> inputs = ModalityInputs(torch.tensor([[7]]), torch.tensor([[True]]))
    >>> masker.hide("image", inputs), masker.hide("text", inputs).mask, masker.removes
    (None, tensor([[False]]), True)
    """

    keeps_repeats = True  # each masker answers for its own

    def __init__(self, maskers: dict[str, Masker], otherwise: Masker | None = None):
        super().__init__()
        self.maskers = nn.ModuleDict(maskers)
        self.otherwise = otherwise
        children = [*maskers.values(), *([otherwise] if otherwise else [])]
        self.removes = any(child.removes for child in children)
        self.random = any(child.random for child in children)
        self.needs_fit = any(child.needs_fit for child in children)

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        """The modality as its masker hides it.

        Raises:
            ValueError: if it has none.
        """
        return self._listed(modality).hide(modality, inputs)

    def hide_in(self, batch: Batch, modality: str) -> ModalityInputs | None:
        """The modality as its masker hides it in a batch.

        Raises:
            ValueError: if it has none.
        """
        return self._listed(modality).hidden(batch, modality)

    def leaves_out(self, modality: str, kind: ModalityKind) -> bool:
        masker = self.masker_of(modality)
        return masker is not None and masker.leaves_out(modality, kind)

    def masker_of(self, modality: str) -> Masker | None:
        """The masker that hides a modality, if there is one."""
        masker: Any = self.maskers[modality] if modality in self.maskers else self.otherwise  # noqa: SIM401 (it has no get)
        return cast("Masker | None", masker)

    def fit(self, batches: Iterable[Batch]) -> None:
        """Shows each masker that needs it the modalities that it hides; the batches are read once for each of them."""
        children: list[Any] = [*self.maskers.values(), self.otherwise]
        for masker in dict.fromkeys(child for child in children if child is not None and child.needs_fit):
            masker.fit(self._hidden_by(masker, batches))

    def _listed(self, modality: str) -> Masker:
        masker = self.masker_of(modality)
        if masker is None:
            raise ValueError(f"by_modality has no masker for {modality!r}. List it under `maskers`, or give `otherwise`.")
        return masker

    def _hidden_by(self, masker: Masker, batches: Iterable[Batch]) -> Iterable[Batch]:
        for batch in batches:
            yield batch.with_inputs({m: x for m, x in batch.inputs.items() if self.masker_of(m) is masker})

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        given, otherwise = options.get("maskers", {}), options.get("otherwise")
        problems = [
            f"maskers: {name!r} is not one of the modalities {', '.join(sorted(setting.kinds))}.{did_you_mean(name, setting.kinds)}"
            for name in given
            if name not in setting.kinds
        ]
        for modality, kind in sorted(setting.kinds.items()):
            spec = given.get(modality, otherwise)
            if spec is None:
                problems.append(f"maskers: {modality!r} has none. List it, or give `otherwise`.")
            else:
                problems += _check(spec, replace(setting, kinds={modality: kind}))
        return problems


def _check(spec: Any, setting: Setting) -> list[str]:
    try:
        name, options = split(spec, "masker", MASKERS)
        masker = MASKERS.get(name)
    except ConfigError:  # told by the check of the options themselves
        return []
    return masker.check(options, setting)
