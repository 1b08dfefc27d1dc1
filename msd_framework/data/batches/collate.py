"""Loaded examples become a batch, in which inputs that several examples share are made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from msd_framework.data.base import Example, Processor, input_name
from msd_framework.data.batches.reader import Loaded, NotMade, TeacherOverrides
from msd_framework.errors import DataError
from msd_framework.structures import Batch, DatasetInfo, Distinct, ModalityInputs, TeacherKey, tree_map

K = TypeVar("K")


class Collator:
    """Makes a batch of loaded examples.

    They may lack a label; where `unlabelled` is True those that have one are counted, and where it is False none may
    lack it.
    """

    def __init__(
        self,
        processors: Mapping[str, Processor],
        info: DatasetInfo,
        unlabelled: bool | None = None,
        teacher_overrides: TeacherOverrides | None = None,
    ):
        self.processors, self.info, self.unlabelled = processors, info, unlabelled
        self.teacher_overrides = {} if teacher_overrides is None else teacher_overrides

    def __call__(self, loaded: list[Loaded], places: tuple[int, ...] = ()) -> Batch:
        """A batch of B examples, in their order."""
        examples = [one.example for one in loaded]
        inputs = {}
        for m in sorted(self.processors):
            inputs[m] = collate(self.processors[m], [e.inputs[m] for e in examples], [one.inputs[m] for one in loaded])
        having = _some_lack({m: x.present for m, x in inputs.items()})
        teacher_inputs: dict[TeacherKey, ModalityInputs | None] = {}
        present: dict[TeacherKey, Tensor] = {}
        for key, processor in sorted(self.teacher_overrides.items()):
            values = [one.example.inputs[key[0]] for one in loaded]
            if isinstance(processor, NotMade):
                teacher_inputs[key], present[key] = None, torch.tensor(list(map(processor.is_present, values)))
            else:
                own = collate(processor, values, [one.teacher_values.get(key) for one in loaded])
                teacher_inputs[key], present[key] = own, own.present
        names, targets, num_labelled = tuple(e.id for e in examples), self.targets(examples), self.num_labelled(examples)
        return Batch(inputs, targets, names, places, num_labelled, having, teacher_inputs, _some_lack(present))

    def num_labelled(self, examples: Sequence[Example]) -> Tensor | None:
        """How many of the examples have a label, where they are counted."""
        without = [e for e in examples if e.target is None]
        if without and self.unlabelled is False:
            text = f"{without[0].source}: the training example {without[0].id!r} has no label."
            raise DataError(f"{text} To learn from the teacher alone where there is none, set data.unlabelled=true.")
        return torch.tensor(float(len(examples) - len(without)), dtype=torch.float64) if self.unlabelled else None

    def targets(self, examples: Sequence[Any]) -> Tensor:
        """Targets int64 [B] or float [B, C]; -100 (or NaN) where a blind test has none."""
        is_class = self.info.task == "single_label"
        unknown = -100 if is_class else [float("nan")] * self.info.num_classes
        targets = [unknown if e.target is None else e.target for e in examples]
        return torch.tensor(targets) if is_class else torch.from_numpy(np.array(targets, np.float32))


def _some_lack(present: Mapping[K, Tensor]) -> dict[K, Tensor]:
    """Which examples have each modality that some lack."""
    return {key: rows for key, rows in present.items() if not rows.all()}


def collate(processor: Processor, values: Sequence[Any], loaded: Sequence[Any]) -> ModalityInputs:
    """One modality of B examples, with a mark of which are the same input; a raw input is None where it is lacking."""
    lacking = [value is None for value in values]
    if not any(lacking):
        return _collate(processor, values, loaded)
    blank = processor.blank()
    made = _collate(processor, values, [blank if lacks else x for x, lacks in zip(loaded, lacking)])
    there = ~torch.tensor(lacking)[:, None]  # [B, 1]
    mask = made.mask & (there | made.special)
    extras = {name: _cleared(x, there) for name, x in made.extras.items()}
    return replace(made, values=_cleared(made.values, there), mask=mask, extras=extras)


def _cleared(values: Tensor, there: Tensor) -> Tensor:
    """Real numbers [B, ..] with zeros for examples that are not there, bool [B, 1]; tokens as they are."""
    if not values.is_floating_point():
        return values
    return torch.where(there.view(-1, *[1] * (values.ndim - 1)), values, 0.0)


def _collate(processor: Processor, values: Sequence[Any], loaded: Sequence[Any]) -> ModalityInputs:
    names = [None if processor.random and value is not None else input_name(value) for value in values]
    number: dict[Any, int] = {}  # of each distinct input
    first = []  # where it stands first
    for i, name in enumerate(names):
        if name not in number:
            number[name] = len(number)
            first.append(i)
    if None in number or len(number) == len(names):
        return processor.collate(loaded)
    distinct = Distinct(torch.tensor(first), torch.tensor([number[name] for name in names]))
    if 2 * len(first) > len(names):  # to spread a row takes about half as long as to make one
        return replace(processor.collate(loaded), distinct=distinct)
    made = processor.collate([loaded[i] for i in first])
    return replace(tree_map(lambda x: x.index_select(0, distinct.of), made), distinct=distinct)
