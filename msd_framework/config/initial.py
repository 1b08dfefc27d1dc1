"""What a run's model starts from, if it does not start from weights of its own."""

from __future__ import annotations

import torch

from msd_framework.config.cards import rebuilt, weights_of
from msd_framework.config.schema import InitConfig, RunConfig
from msd_framework.engine.checkpoint import load_weights
from msd_framework.errors import ConfigError, Problem
from msd_framework.models.base import MultimodalModel
from msd_framework.models.pretrained.inherit import Inheritance


def start_from(model: MultimodalModel, path: str, init: InitConfig, config: RunConfig) -> None:
    """Gives a model its first weights.

    Args:
        model: what is to start.
        path: the run that they are taken from, or one of its checkpoints.
        init: which of them, and how.
        config: the user's own run, which says what a card may name.

    Raises:
        CheckpointError: if they cannot be read.
        ConfigError: if they do not fit.
    """
    folder, saved = weights_of(path, config)
    with torch.random.fork_rng(devices=[]):  # the run's random numbers know nothing of it
        source = rebuilt(saved.card, folder)
    load_weights(source, saved.model, path)
    try:
        taken = Inheritance(model, source, init.layers, init.cut, init.only).tensors()
    except ValueError as error:
        raise ConfigError(Problem("init", str(error))) from error
    model.load_state_dict(taken, strict=False)
