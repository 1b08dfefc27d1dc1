"""Whether a saliency that looks at the teacher itself finds one that can be looked at."""

from __future__ import annotations

from typing import Any

from msd_framework.components.registry import split
from msd_framework.config.cards import card_of
from msd_framework.config.schema import RunConfig
from msd_framework.errors import CheckpointError, Problem
from msd_framework.models.single_sequence import SingleSequence
from msd_framework.registry import MODELS, SALIENCIES

OTHERS = "Take drop, keep, loss, gap or shapley, which look at its answers"


def looking_problems(config: RunConfig, spec: Any, at: str) -> list[Problem]:
    """Why a saliency cannot look at a run's teacher, if it has to.

    Args:
        config: what the run is.
        spec: the saliency's part of a YAML.
        at: its key path.
    """
    name = split(spec, at, SALIENCIES)[0]
    if not SALIENCIES.get(name).asks_model or config.teacher is None or not config.has_teacher:
        return []
    folders = config.teacher_folders
    if len(folders) > 1:
        return [Problem(at, f"{name} looks inside one teacher, and there are {len(folders)}. {OTHERS}.")]
    if config.teacher.cache:
        text = f"{name} looks at the teacher itself, of which a teacher cache keeps nothing. {OTHERS}, or set teacher.cache=false."
        return [Problem(at, text)]
    try:
        model = split(card_of(folders[0], config)["model"], at, MODELS)[0]
    except CheckpointError:  # what is wrong with the checkpoint is said elsewhere
        return []
    if issubclass(MODELS.get(model), SingleSequence):
        return []
    return [Problem(at, f"{name} looks inside one transformer for all modalities, and the teacher is a {model}. {OTHERS}.")]
