"""Parts of a model that an optimizer names and the model does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msd_framework.config.models import empty_model
from msd_framework.config.schema import RunConfig
from msd_framework.engine.parts_of_model import ModelParts
from msd_framework.errors import Problem
from msd_framework.objectives.base import Objective
from msd_framework.registry import OPTIMIZERS
from msd_framework.structures import DatasetInfo


def optimizer_problems(config: RunConfig, info: DatasetInfo, objective: Objective, facts: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the parts of the model that an optimizer names, where the model can be built without files and data.

    Args:
        config: what the run is.
        info: the data set's description.
        objective: the run's, with stand-ins for its models; it is given the model.
        facts: what components may ask for by name.
    """
    parts = OPTIMIZERS.build(config.optimizer, "optimizer", facts).parts
    if parts == ModelParts():
        return []
    try:
        model = empty_model(config, info)
    except Exception:  # a module of a user's may look at its weights, which is right where there are some
        return []
    if model is None:
        return []
    if objective.needs_dry_run:  # some of its parameters depend on what goes on inside the models
        groups = {name: given for name, given in parts.groups.items() if name.partition(".")[0] != "features"}
        parts = ModelParts(groups, parts.frozen, parts.layer_decay)
    try:
        parts.freeze(model)
        objective.model = model
        parts.options_of(objective)
    except ValueError as error:
        return [Problem("optimizer", str(error))]
    return []
