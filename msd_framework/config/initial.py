"""What a run's model starts from, if it does not start from weights of its own."""

from __future__ import annotations

from typing import Any

import torch

from msd_framework.config.cards import card_of, rebuilt, weights_of
from msd_framework.config.components import STAND_INS, known_facts
from msd_framework.config.folders import other_tensors
from msd_framework.config.models import Unfilled, reads_files
from msd_framework.config.schema import InitConfig, RunConfig
from msd_framework.engine.checkpoint import load_weights
from msd_framework.errors import CheckpointError, ConfigError, Problem
from msd_framework.models.base import MultimodalModel
from msd_framework.models.inherit import Inheritance
from msd_framework.registry import MODELS
from msd_framework.structures import DatasetInfo


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


def init_problems(config: RunConfig, info: DatasetInfo) -> list[Problem]:
    """Why a model cannot start from what it should, found on models without weights."""
    if config.init is None or config.is_evaluated or config.goes_on:
        return []
    at, path = "init.checkpoint", config.init_folder
    if path is None:
        num = len(config.teacher_folders)
        why = f"there are {num} teachers" if num else "there is no trained teacher"
        return [Problem(at, f"must be given, since {why}: the folder of a finished run.")]
    try:
        card = card_of(path, config)
        return _card_problems(card, config) or _fit_problems(card, config, info)
    except CheckpointError as error:
        return [Problem(at, str(error))]


def _card_problems(card: dict[str, Any], config: RunConfig) -> list[Problem]:
    """Processors that make other tensors than those that the weights are for."""
    specs = {m: spec for m, spec in config.data.processors.items() if m in card["modalities"]}
    found = {m: other_tensors(spec, card["processors"][m]["spec"]) for m, spec in specs.items()}
    text = "what the model starts from was trained on other tensors: {}. Write its options here."
    return [Problem(f"data.processors.{m}", text.format(other)) for m, other in found.items() if other]


def _fit_problems(card: dict[str, Any], config: RunConfig, info: DatasetInfo) -> list[Problem]:
    """Sizes that do not fit; those of a model that reads files are known only in the run."""
    assert config.init is not None
    init = config.init
    if reads_files(config.model):
        return []
    facts = {**card["facts"], **known_facts(info), "seed": config.seed}
    try:
        with Unfilled():
            model = MODELS.build(config.model, "model", STAND_INS | facts)
            source = rebuilt(card, config.init_folder or "")
            found = Inheritance(model, source, init.layers, init.cut, init.only).problems
    except ConfigError as error:
        return list(error.problems)
    pairs = [text.partition(": ") if text.startswith(("layers: ", "only[")) else ("", "", text) for text in found]
    return [Problem(f"init.{key}" if key else "init", text) for key, _, text in pairs]
