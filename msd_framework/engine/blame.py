"""Where a number that is not finite came from, looked for once a run has gone wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from msd_framework.objectives.base import Objective
from msd_framework.structures import Batch


def find_cause(objective: Objective, batches: Iterable[Batch]) -> str:
    """A sentence on the first input, or the first of the teacher's predictions, that is not finite; empty if all are.

    A teacher that is an average of the student has taken over its numbers, so its predictions are not looked at.
    """
    teacher: Any = getattr(objective, "teacher", None)
    views = () if teacher is None or isinstance(teacher, nn.Module) else objective.teacher_views
    try:
        for batch in batches:
            of_teachers = [(modality, inputs) for (modality, _), inputs in batch.teacher_inputs.items()]
            for modality, inputs in (*batch.inputs.items(), *of_teachers):
                for row in _bad_rows(inputs.values) if inputs is not None else ():
                    return f"The {modality} of example {batch.ids[row]} is not finite: mend its file, or leave it out."
            for view in views:
                with torch.no_grad():
                    logits = teacher.predict(batch, [view]).logits[0]  # [B, C]
                for row in _bad_rows(logits):
                    return (
                        f"It comes from the teacher: its prediction of example {batch.ids[row]} on the view {view!r} is not "
                        f"finite. Look at teacher.checkpoint with `msd doctor`."
                    )
    except Exception:  # the error that is reported is the one before; this one adds nothing
        return ""
    return ""


def _bad_rows(values: Tensor) -> list[int]:  # of a tensor [B, ...]
    if not values.is_floating_point():
        return []
    rows: list[int] = (~values.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    return rows
