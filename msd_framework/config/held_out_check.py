"""What stands in the way of weights that are learned from held-out training examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from msd_framework.config.models import empty_model
from msd_framework.config.parts import parts
from msd_framework.config.schema import RunConfig
from msd_framework.engine.parts_of_model import ModelParts
from msd_framework.engine.update_map import factor_of
from msd_framework.errors import Problem
from msd_framework.launch import launched
from msd_framework.models.distinct import mixes_examples
from msd_framework.objectives.base import Objective
from msd_framework.objectives.look_ahead import MIXED
from msd_framework.registry import OBJECTIVES, OPTIMIZERS, WEIGHTINGS
from msd_framework.structures import DatasetInfo


def held_out_problems(config: RunConfig, info: DatasetInfo, objective: Objective, facts: Mapping[str, Any]) -> list[Problem]:
    """What the run and an objective that learns from held-out examples do not agree on.

    Args:
        config: what the run is.
        info: the data set's description.
        objective: the run's, with stand-ins for its models.
        facts: what components may ask for by name.
    """
    if objective.held_out is None:
        return []
    found = [p.path for p in parts(OBJECTIVES, config.objective, "objective") if p.registry is WEIGHTINGS]
    at = found[0] if found else "objective"
    return list(_problems(config, info, objective, objective.held_out.batch_size, at, facts))


def _problems(
    config: RunConfig, info: DatasetInfo, objective: Objective, batch_size: int, at: str, facts: Mapping[str, Any]
) -> Iterator[Problem]:
    processes = launched().size
    if batch_size % processes:
        yield Problem(f"{at}.held_out_batch_size", f"must be a multiple of the {processes} processes, got {batch_size}.")
    if config.training.precision == "fp16":
        text = (
            "learned weights go back through a step's gradients, which fp16 scales and may throw away. Take bf16, medium or fp32."
        )
        yield Problem("training.precision", text)
    if objective.modulation is not None:
        text = "learned weights do not know what it does to the gradients. Leave one of the two out."
        yield Problem("objective.modulation", text)
    try:
        recipe = OPTIMIZERS.build(config.optimizer, "optimizer", facts)
        recipe.parts = ModelParts()  # the stand-in has none
        factor_of(recipe.build(nn.Linear(1, 1)))
    except ValueError as error:
        yield Problem("optimizer", str(error))
    model = empty_model(config, info)
    if model is not None and mixes_examples(model):
        yield Problem("model", MIXED)
