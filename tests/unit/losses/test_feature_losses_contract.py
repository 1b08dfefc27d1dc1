"""What every registered feature loss promises, shown on each of them and each kind of feature that it takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from msd_framework.losses.base import FeatureLoss
from msd_framework.registry import FEATURE_LOSSES
from msd_framework.structures import Batch, Feature, FeatureShape
from msd_framework.testing import made_batch

BATCH, POSITIONS, EXAMPLES = 4, 5, 20
OPTIONS: dict[str, dict[str, Any]] = {
    "crd": {"num_negatives": 8, "embedding_size": 6},
    "minilm": {"num_heads": 2},
    "fd_cmkd": {"num_classes": 3},
}
"""Options of losses whose defaults are too large for a test."""

LEARNS = {"crd", "fd_cmkd"}
"""Losses that compare what they learned to see in features, where a student that equals its teacher is nothing special."""

MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 4 + [False], [True, False, True, False, False]])

CASES = [(name, kind) for name in FEATURE_LOSSES.names() for kind in sorted(FEATURE_LOSSES.get(name).takes)]
every_loss = pytest.mark.parametrize(("name", "kind"), CASES)


def widths(name: str, kind: str) -> tuple[int, int]:
    """Features of student and teacher, or heads, which an adaptor makes as many."""
    return (8, 8) if FEATURE_LOSSES.get(name).same_width or kind in ("attention", "scores") else (4, 8)


def built(name: str, kind: str, student: int | None = None, teacher: int | None = None) -> FeatureLoss:
    torch.manual_seed(0)
    loss = FEATURE_LOSSES.build({"type": name, **OPTIONS.get(name, {})})
    positions = 1 if kind == "pooled" else POSITIONS
    narrow, wide = widths(name, kind)
    loss.prepare(
        FeatureShape(kind, student or narrow, positions, EXAMPLES),  # type: ignore[arg-type]
        FeatureShape(kind, teacher or wide, positions, EXAMPLES),  # type: ignore[arg-type]
    )
    return loss.double().eval()


def feature(kind: str, width: int, seed: int, mask: Tensor = MASK) -> Feature:
    """A feature as models tell it: float64, zeros where the mask is False."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "pooled":
        return Feature(torch.randn(len(mask), width, generator=generator, dtype=torch.float64))
    length = mask.shape[1]
    if kind == "hidden":
        values = torch.randn(len(mask), length, width, generator=generator, dtype=torch.float64)
        return Feature(values * mask[..., None], mask)
    scores = torch.randn(len(mask), width, length, length, generator=generator, dtype=torch.float64)
    shown = scores if kind == "scores" else scores.masked_fill(~mask[:, None, None], -1e9).softmax(-1)
    return Feature(shown * (mask[:, None, :, None] & mask[:, None, None, :]), mask)


def examples(size: int = BATCH) -> Batch:
    return replace(made_batch(size), places=tuple(range(3, 3 + size)))


def value(loss: FeatureLoss, student: Feature, teacher: Feature) -> Tensor:
    torch.manual_seed(1)  # for losses that draw
    found: Tensor = loss(student, teacher, examples(len(student.values)))
    return found


def pair(name: str, kind: str, mask: Tensor = MASK) -> tuple[Feature, Feature]:
    student, teacher = widths(name, kind)
    return feature(kind, student, 1, mask), feature(kind, teacher, 2, mask)


def padded(feature: Feature, by: int) -> Feature:
    """The same with empty positions behind."""
    values = F.pad(feature.values, (0, 0, 0, by) if feature.values.ndim == 3 else (0, by, 0, by))
    assert feature.mask is not None
    return Feature(values, F.pad(feature.mask, (0, by)))


@every_loss
def test_there_is_one_value_an_example(name: str, kind: str) -> None:
    found = value(built(name, kind), *pair(name, kind))
    assert found.shape == (BATCH,)
    assert found.dtype == torch.float64
    assert found.isfinite().all()


@every_loss
def test_a_batch_of_one_has_a_value(name: str, kind: str) -> None:
    found = value(built(name, kind), *pair(name, kind, MASK[1:2]))
    assert found.shape == (1,)
    assert found.isfinite().all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_of_half_precision_are_compared_in_float32(name: str, kind: str, dtype: torch.dtype) -> None:
    student, teacher = (replace(f, values=f.values.to(dtype)) for f in pair(name, kind))
    loss = built(name, kind).float()
    found = value(loss, student, teacher)
    wanted = value(loss, replace(student, values=student.values.float()), replace(teacher, values=teacher.values.float()))
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)


@every_loss
def test_under_autocast_the_value_is_of_float32(name: str, kind: str) -> None:
    student, teacher = (replace(f, values=f.values.bfloat16()) for f in pair(name, kind))
    loss = built(name, kind).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = value(loss, student, teacher)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, value(loss, student, teacher), rtol=0.05, atol=0.05)  # a map may run in bfloat16


@every_loss
def test_a_gradient_flows_into_the_student_alone(name: str, kind: str) -> None:
    student, teacher = (replace(f, values=f.values.requires_grad_()) for f in pair(name, kind))
    value(built(name, kind), student, teacher).sum().backward()
    assert teacher.values.grad is None
    assert student.values.grad is not None
    assert student.values.grad.isfinite().all()
    assert student.values.grad.ne(0).any()


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[1] != "pooled"])
def test_empty_positions_never_change_the_value(name: str, kind: str) -> None:
    loss, (student, teacher) = built(name, kind), pair(name, kind)
    found = value(loss, padded(student, 3), padded(teacher, 3))
    torch.testing.assert_close(found, value(loss, student, teacher), rtol=1e-9, atol=1e-12)  # the same float64 sums


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[1] != "pooled"])
def test_an_example_without_any_position_breaks_nothing(name: str, kind: str) -> None:
    mask = MASK.clone()
    mask[2] = False
    student, teacher = pair(name, kind, mask)
    student = replace(student, values=student.values.requires_grad_())
    found = value(built(name, kind), student, teacher)
    found.sum().backward()
    assert found.isfinite().all()
    assert student.values.grad.isfinite().all()


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[0] not in LEARNS])
def test_nothing_is_nearer_to_the_teacher_than_the_teacher(name: str, kind: str) -> None:
    width = widths(name, kind)[1]
    loss, teacher = built(name, kind, student=width), feature(kind, width, 0)
    nearest = value(loss, teacher, teacher).mean()
    for seed in range(3, 6):
        assert value(loss, feature(kind, width, seed), teacher).mean() > nearest


@every_loss
def test_what_a_loss_prepares_is_saved_and_rebuilt(name: str, kind: str) -> None:
    first, (student, teacher) = built(name, kind), pair(name, kind)
    first.train()
    value(first, student, teacher)
    again = built(name, kind)
    again.load_state_dict(first.state_dict())
    assert torch.equal(value(again, student, teacher), value(first.eval(), student, teacher))
