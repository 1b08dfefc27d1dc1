"""What is missing on disk, and what is already there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from msd_framework.components.options import options_of
from msd_framework.components.registry import plain, split
from msd_framework.config.cards import card_of
from msd_framework.config.components import described
from msd_framework.config.parts import differences
from msd_framework.config.resume import resume_problems
from msd_framework.config.schema import RunConfig
from msd_framework.engine.checkpoint import find_checkpoint, holds_run
from msd_framework.errors import CheckpointError, ConfigError, Problem
from msd_framework.registry import DATASETS, MODELS, PROCESSORS
from msd_framework.structures import DatasetInfo, Outcomes, outcomes_of


def data_problems(config: RunConfig) -> list[Problem]:
    """Splits that do not exist and files of the data set that are missing."""
    data = config.data
    name, options = split(data.dataset, "data.dataset", DATASETS)
    dataset = DATASETS.get(name)
    uses = config.uses
    problems = [Problem(f"data.{use}", text) for use in uses for text in dataset.check(options, getattr(data, use))]
    root = options.get("root", options_of(dataset)["root"].default) if "root" in options_of(dataset) else None
    if problems and isinstance(root, str) and not Path(root).exists():  # one problem, not one a split
        return [Problem("data.dataset.root", problems[0].message)]
    together = dataset.check_together(options, {use: getattr(data, use) for use in uses})
    return problems + [Problem(f"data.{use}", text) for use, text in together.items()]


def folder_problems(config: RunConfig) -> list[Problem]:
    """A folder that cannot be written to or holds another run, and checkpoints that are missing or of another model."""
    folder = Path(config.env.save_dir)
    if folder.exists() and not folder.is_dir():
        return [Problem("env.save_dir", f"{folder} is a file, wanted a folder.")]
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        return [Problem("env.save_dir", f"{folder} cannot be made or written to: see {nearest}.")]
    problems = _processors_problems(config)
    if config.is_evaluated:
        return problems + _checkpoint_problems(config)
    if config.checkpoint.load is not None:
        text = "is for run_type val, test and predict; a training run starts afresh, or goes on with checkpoint.resume=true."
        problems.append(Problem("checkpoint.load", text))
    if config.checkpoint.resume:
        return problems + resume_problems(config)
    return [*problems, _taken(folder)] if config.run_type == "train" and holds_run(folder) else problems


def processors_folder(path: str) -> Path:
    """Where a run keeps what its processors learned.

    Args:
        path: the run's folder, or one of its checkpoints.

    Raises:
        CheckpointError: if there is none.
    """
    for folder in (Path(path), *Path(path).resolve().parents[:2], *find_checkpoint(path).parents[:2]):
        if (folder / "processors").is_dir():
            return folder / "processors"
    raise CheckpointError(f"{path}: has no folder `processors` beside its checkpoints; copy the whole folder of the run.")


def learned_processors(path: str, config: RunConfig) -> dict[str, Path]:
    """Where a run keeps what the processor of each of its modalities learned.

    Args:
        path: the run's folder, or one of its checkpoints.
        config: the user's own run, which says what a card may name.

    Raises:
        CheckpointError: if there is none.
    """
    folder = processors_folder(path)
    return {modality: folder / modality for modality in card_of(path, config)["processors"]}


def other_tensors(here: Any, there: Any) -> str:
    """In what two processors' parts of YAMLs make different tensors of the same example; empty if they make the same.

    >>> other_tensors({"type": "pixels", "size": 32, "augment": "crop_flip"}, {"type": "pixels", "size": 64})
    'size is 32 here and 64 there'
    """
    free = PROCESSORS.get(split(here, "processor", PROCESSORS)[0]).free_options
    mine, theirs = ({k: v for k, v in plain(spec).items() if k not in free} for spec in (here, there))
    return differences(PROCESSORS, mine, theirs)


def described_run(config: RunConfig) -> DatasetInfo:
    """What is known of a run's data set, its logits read as its model is trained, or was, where one is evaluated.

    Raises:
        ConfigError: if the data set's options do not go together.
    """
    info = described(config.data.dataset, config.objective)
    if not config.is_evaluated:
        return info
    try:
        facts = card_of(config.evaluated, config)["facts"]
        return replace(info, trained=facts.get("outcomes") or info.trained)
    except CheckpointError:  # told elsewhere
        return info


def read_as(card: Mapping[str, Any]) -> Outcomes:
    """How the logits of a saved model are read, from its card; as is usual for its task where the card is older than that."""
    facts = card["facts"]
    return outcomes_of(facts["task"], facts.get("outcomes"))


def _taken(folder: Path) -> Problem:
    text = f"{folder} already holds a run. Set checkpoint.resume=true to go on with it, or name another folder."
    return Problem("env.save_dir", text)


def _processors_problems(config: RunConfig) -> list[Problem]:
    """What is wrong with the run that gives its processors; an evaluated one has its own."""
    given = config.data.processors_from
    if given is None or config.is_evaluated:
        return []
    try:
        learned = learned_processors(given, config)
        saved = card_of(given, config)["processors"]
        specs = {m: spec for m, spec in config.data.processors.items() if m in learned}
        other = {m: other_tensors(spec, saved[m]["spec"]) for m, spec in specs.items()}
    except (CheckpointError, ConfigError) as error:
        return [Problem("data.processors_from", str(error))]
    if given in config.teacher_folders:  # compared where teacher and student are
        return []
    text = "the run of data.processors_from was made with other options: {}. Write those here, or leave data.processors_from out."
    return [Problem(f"data.processors.{m}", text.format(found)) for m, found in other.items() if found]


def _checkpoint_problems(config: RunConfig) -> list[Problem]:
    """What is wrong with the checkpoint that is evaluated."""
    key = "checkpoint.load" if config.checkpoint.load else "env.save_dir"
    try:
        found = find_checkpoint(config.evaluated)
        other = _other_model(config, card_of(found, config)["model"])
    except CheckpointError as error:
        return [Problem(key, str(error))]
    text = f"the checkpoint {found} holds another model: {other}. Give the options that it was trained with."
    return [Problem("model", text)] if other else []


def _other_model(config: RunConfig, saved: object) -> str:
    try:
        return differences(MODELS, config.model, saved)
    except ConfigError:  # what was saved has no name here any more
        return f"type is {split(config.model, 'model', MODELS)[0]!r} here and {saved!r} there"
