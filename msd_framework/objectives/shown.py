"""What a view shows to both sides: a target is distilled where teacher and student see something of its example."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from msd_framework.structures import Batch
from msd_framework.teachers.base import Teacher
from msd_framework.views import View


def shown_to_both(batch: Batch, view: View, teacher: Teacher, modalities: Sequence[str]) -> Tensor | None:
    """Which examples have something of a view on the teacher's side and on that of a student of some modalities, bool [B].

    None where all do.
    """
    for_teacher, for_student = teacher.shown(batch, view.teacher), batch.shown(view.student, modalities)
    if for_teacher is None or for_student is None:
        return for_student if for_teacher is None else for_teacher
    return for_teacher & for_student


def targets_shown(batch: Batch, views: Sequence[View], teacher: Teacher, modalities: Sequence[str]) -> Tensor | None:
    """Which targets are distilled on each view, bool [V, N]: no padding, and of examples that it shows; None where all are."""
    some_lack = any(rows.having or rows.teacher_having for rows in (batch, *batch.others.values()))
    if not some_lack and batch.example_of is None:
        return None
    everyone = torch.ones(len(batch), dtype=torch.bool, device=batch.targets.device)
    examples = []
    for view in views:
        shown = shown_to_both(batch, view, teacher, modalities)
        examples.append(everyone if shown is None else shown)
    targets = batch.spread(torch.stack(examples))
    return targets if batch.is_target is None else targets & batch.is_target
