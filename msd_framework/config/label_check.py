"""What cannot be done with training examples that have no label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msd_framework.components.registry import split
from msd_framework.config.parts import parts
from msd_framework.config.schema import RunConfig
from msd_framework.errors import Problem
from msd_framework.registry import OBJECTIVES, SALIENCIES, WEIGHTINGS


def label_problems(config: RunConfig, facts: Mapping[str, Any]) -> list[Problem]:
    """Parts of an objective that look at labels which may not be there.

    Args:
        config: what the run is.
        facts: what components may ask for by name.
    """
    data = config.data
    if not data.unlabelled and data.labelled_share == 1:
        return []
    key = "data.unlabelled" if data.unlabelled else "data.labelled_share"
    name = split(config.objective, "objective", OBJECTIVES)[0]
    objective = OBJECTIVES.get(name)
    if not objective.takes_unlabelled:
        return [Problem(key, f"the objective {name} needs the label of each training example. Leave {key} out.")]
    if data.labelled_share == 0 and not objective.needs_teacher:
        return [Problem(key, f"leaves no label, and the objective {name} learns from nothing else. Give a share above 0.")]
    text = f"looks at the labels of training examples, of which some have none ({key}). Take drop or keep."
    found = list(parts(OBJECTIVES, config.objective, "objective"))
    asked = [p for p in found if p.registry is SALIENCIES and SALIENCIES.build(p.spec, p.path, facts).asks_labels]
    asked += [p for p in found if p.registry is WEIGHTINGS and p.cls.asks_labels]
    return [Problem(p.path, f"{p.name} {text}") for p in asked]
