"""What is missing on disk, and what is already there."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from msd_framework.build.facts import RunFacts
from msd_framework.components.specs import differences
from msd_framework.config.cards import learned_processors, other_tensors
from msd_framework.engine.checkpoint import find_checkpoint, holds_run
from msd_framework.errors import CheckpointError, ConfigError, Problem
from msd_framework.registry import MODELS


def unwritable(folder: Path) -> str:
    """Why a folder cannot be made or written to; empty if it can."""
    if folder.exists() and not folder.is_dir():
        return f"{folder} is a file, wanted a folder."
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    is_writable = nearest.is_dir() and os.access(nearest, os.W_OK)
    return "" if is_writable else f"{folder} cannot be made or written to: see {nearest}."


def other_processors(run: RunFacts, path: str, among: Collection[str], text: str) -> Iterator[Problem]:
    """Processors of some modalities that make other tensors than those of a saved run; `text` has room for the difference."""
    saved = run.card(path)["processors"]
    for modality, spec in run.processors.items():
        if modality in among and (other := other_tensors(spec.value, saved[modality]["spec"])):
            yield Problem(spec.path, text.format(other))


def save_dir(run: RunFacts) -> Iterator[Problem]:
    if text := unwritable(Path(run.config.env.save_dir)):
        yield Problem("env.save_dir", text)


def processors_from(run: RunFacts) -> Iterator[Problem]:
    """What is wrong with the run that gives its processors; one that is evaluated has its own."""
    given, at = run.config.data.processors_from, "data.processors_from"
    if given is None or run.config.is_evaluated:
        return
    text = f"the run of {at} was made with other options: {{}}. Write those here, or leave {at} out."
    try:
        problems = list(other_processors(run, given, learned_processors(given, run.config), text))
    except (CheckpointError, ConfigError) as error:
        yield Problem(at, str(error))
        return
    if given not in run.config.teacher_folders:  # of which is taken what makes the same tensors, as if nothing was written
        yield from problems


def checkpoint(run: RunFacts) -> Iterator[Problem]:
    """What is wrong with the checkpoint that is evaluated; or with the folder of a run that trains afresh, if it has one."""
    config, folder = run.config, Path(run.config.env.save_dir)
    if config.is_evaluated:
        yield from _evaluated(run)
        return
    if config.checkpoint.load is not None:
        text = "is for run_type val, test and predict; a training run starts afresh, or goes on with checkpoint.resume=true."
        yield Problem("checkpoint.load", text)
    if config.run_type == "train" and not config.checkpoint.resume and holds_run(folder):
        text = f"{folder} already holds a run. Set checkpoint.resume=true to go on with it, or name another folder."
        yield Problem("env.save_dir", text)


def _evaluated(run: RunFacts) -> Iterator[Problem]:
    try:
        folder, saved = find_checkpoint(run.config.evaluated), run.card(run.config.evaluated)["model"]
    except CheckpointError as error:
        yield Problem("checkpoint.load" if run.config.checkpoint.load else "env.save_dir", str(error))
        return
    try:
        other = differences(MODELS, run.model.value, saved)
    except ConfigError:  # what was saved has no name here any more
        other = f"type is {run.model.name!r} here and {saved!r} there"
    if other:
        text = f"the checkpoint {folder} holds another model: {other}. Give the options that it was trained with."
        yield Problem("model", text)
