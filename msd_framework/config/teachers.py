"""Who teaches in a run: one model, several, or an average of the student; what is wrong with how that is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from glob import has_magic
from typing import Any

from msd_framework.components.registry import split
from msd_framework.config.schema import RunConfig, TeacherConfig
from msd_framework.errors import Problem
from msd_framework.registry import COMBINATIONS, OBJECTIVES, WEIGHTINGS
from msd_framework.structures import Task, visible_modalities
from msd_framework.teachers.ema import decay_of
from msd_framework.teachers.ensemble import Combination, shared_out, union

CHANGES = "an average of the student says something else after each update"
USUAL: dict[str, Any] = {"type": "mean"}
"""How several teachers answer as one if nobody says."""


def combination(teacher: TeacherConfig, task: Task = "single_label") -> Combination:
    """How several teachers answer as one."""
    return COMBINATIONS.build(teacher.combine or USUAL, "teacher.combine", {"task": task})


def asked_of(views: Sequence[str], modalities: Sequence[Sequence[str]], combined: Combination) -> list[tuple[str, ...]]:
    """The views that each of several teachers is asked about, by what each calls them.

    Args:
        views: what all together are asked about.
        modalities: what each teacher takes.
        combined: how they answer as one.
    """
    parts = [shared_out(view, modalities, combined) for view in views]
    return [tuple(dict.fromkeys(part[k] for part in parts if k in part)) for k in range(len(modalities))]


def teacher_problems(config: RunConfig) -> list[Problem]:
    """Options of a teacher that do not go together, whatever the teacher is."""
    teacher = config.teacher
    if teacher is None:
        return []
    return _average_problems(config, teacher) if teacher.ema is not None else _folder_problems(config, teacher)


def combination_problems(teacher: TeacherConfig, modalities: Sequence[Sequence[str]], views: Sequence[str]) -> list[Problem]:
    """What several teachers cannot answer together.

    Args:
        teacher: who they are.
        modalities: what each takes.
        views: what they are asked about.
    """
    at, combined, known = "teacher.combine", combination(teacher), union(modalities)
    wrong = combined.problems(modalities)
    if wrong:
        return [Problem(f"{at}.{key}", text) for key, _, text in (found.partition(": ") for found in wrong)]
    shown = [view for view in views if _shows(view, known)]
    text = "no teacher answers for the view {!r}. Name one for it, or one for full."
    problems = [Problem(at, text.format(view)) for view in shown if not shared_out(view, modalities, combined)]
    idle = [k for k, asked in enumerate(asked_of(shown, modalities, combined)) if shown and not asked]
    text = "{} is asked about none of the objective's views. Leave it out, or name another view for it."
    return problems or [Problem(at, text.format(teacher.folders[k])) for k in idle]


def _folder_problems(config: RunConfig, teacher: TeacherConfig) -> list[Problem]:
    at, folders = "teacher.checkpoint", teacher.folders
    if not folders:
        text = "The folder of a finished run, or of one of its checkpoints; or a list of them; or teacher.ema in its place."
        return [Problem(at, f"must be given: {text}")]
    lost = [path for path in folders if has_magic(path) and not os.path.exists(path)]
    if lost and not config.is_evaluated:
        return [Problem(at, f"no folder matches {path!r}.") for path in lost]
    twice = sorted({f for f in folders if folders.count(f) > 1})
    problems = [Problem(at, f"{f} is listed twice. To let a teacher count more, take teacher.combine=weighted.") for f in twice]
    if len(folders) == 1 and teacher.combine is not None:
        problems.append(Problem("teacher.combine", f"is for several teachers, and there is one, {folders[0]}. Leave it out."))
    if len(folders) > 1 and teacher.channels is not None:
        problems.append(Problem("teacher.channels", f"are those of one teacher, and there are {len(folders)}. Leave them out."))
    return problems


def _average_problems(config: RunConfig, teacher: TeacherConfig) -> list[Problem]:
    assert teacher.ema is not None
    try:
        decay_of(teacher.ema)
    except ValueError as error:
        return [Problem("teacher.ema", str(error))]
    idle = {
        "checkpoint": (teacher.checkpoint, "is another teacher than the average of the student. Give either it or teacher.ema."),
        "combine": (teacher.combine, "is for several teachers, and the average of the student is one. Leave it out."),
        "channels": (teacher.channels, "are those of a trained teacher, and the student is not trained yet. Leave them out."),
        "cache": (teacher.cache, f"keeps what a teacher says for good, and {CHANGES}. Set teacher.cache=false."),
    }
    problems = [Problem(f"teacher.{key}", text) for key, (given, text) in idle.items() if given]
    weighting = split(config.objective, "objective", OBJECTIVES)[1].get("weighting")
    if weighting is not None and WEIGHTINGS.get(name := split(weighting, "", WEIGHTINGS)[0]).needs_fit:
        text = f"{name} asks the teacher before the first update, when the average of the student knows nothing yet. Take instance."
        problems.append(Problem("objective.weighting", text))
    return problems


def _shows(view: str, modalities: Sequence[str]) -> bool:
    try:
        return bool(visible_modalities(view, modalities))
    except ValueError:
        return False
