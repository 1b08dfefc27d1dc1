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
    """

    # each masker forgets what it cannot keep itself
    keeps_repeats = True

    def __init__(self, maskers: dict[str, Masker], otherwise: Masker | None = None):
        super().__init__()
        self.maskers, self.otherwise = nn.ModuleDict(maskers), otherwise
        children = self._children()
        self.removes = any(child.removes for child in children)
        self.random = any(child.random for child in children)
        self.needs_fit = any(child.needs_fit for child in children)
        self.leaves_some = any(child.leaves_some for child in children)

    def hide(self, modality: str, inputs: ModalityInputs) -> ModalityInputs | None:
        return self._masker_of(modality).hide(modality, inputs)

    def hide_in(self, batch: Batch, modality: str) -> ModalityInputs | None:
        return self._masker_of(modality).hidden(batch, modality)

    def leaves_out(self, modality: str, kind: ModalityKind) -> bool:
        masker = self._find(modality)
        return masker is not None and masker.leaves_out(modality, kind)

    def fit(self, batches: Iterable[Batch]) -> None:
        # the batches are read once for each masker
        for masker in self._children():
            if masker.needs_fit:
                masker.fit(self._hidden_by(masker, batches))

    def _children(self) -> list[Masker]:
        """The maskers, each once, though several modalities may share one."""
        children: list[Any] = [*self.maskers.values(), self.otherwise]
        return [child for child in dict.fromkeys(children) if child is not None]

    def _find(self, modality: str) -> Masker | None:
        masker: Any = self.maskers[modality] if modality in self.maskers else self.otherwise  # noqa: SIM401 (it has no get)
        return cast("Masker | None", masker)

    def _masker_of(self, modality: str) -> Masker:
        masker = self._find(modality)
        if masker is None:
            raise ValueError(f"by_modality has no masker for {modality!r}. List it under `maskers`, or give `otherwise`.")
        return masker

    def _hidden_by(self, masker: Masker, batches: Iterable[Batch]) -> Iterable[Batch]:
        for batch in batches:
            yield batch.with_inputs({m: x for m, x in batch.inputs.items() if self._find(m) is masker})

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting) -> list[str]:
        given, otherwise = options.get("maskers", {}), options.get("otherwise")
        problems = []
        for name in given:
            if name not in setting.kinds:
                known = ", ".join(sorted(setting.kinds))
                problems.append(f"maskers: {name!r} is not one of the modalities {known}.{did_you_mean(name, setting.kinds)}")
        for modality, kind in sorted(setting.kinds.items()):
            spec = given.get(modality, otherwise)
            if spec is None:
                problems.append(f"maskers: {modality!r} has none. List it, or give `otherwise`.")
            else:
                try:
                    name, own = split(spec, "masker", MASKERS)
                    masker = MASKERS.get(name)
                except ConfigError:
                    continue  # the check of the options themselves reports it
                problems += masker.check(own, replace(setting, kinds={modality: kind}))
        return problems
