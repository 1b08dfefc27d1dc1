"""Why the answers of a run's teacher could not be kept, found before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from msd_framework.components.registry import split
from msd_framework.config.cards import card_of
from msd_framework.config.schema import RunConfig
from msd_framework.errors import Problem, did_you_mean
from msd_framework.maskers.base import Masker
from msd_framework.models.base import MultimodalModel
from msd_framework.registry import MASKERS, MODELS, OBJECTIVES, PROCESSORS
from msd_framework.structures import FULL, Setting
from msd_framework.teachers.store import SUMMARY

OFF = "or set teacher.cache=false"


def cache_problems(config: RunConfig, setting: Setting, views: Sequence[str]) -> list[Problem]:
    """What stands against a teacher cache, if one is wanted.

    Args:
        config: what the run is.
        setting: what the teacher takes.
        views: what the teacher is asked about in training.
    """
    teacher = config.teacher
    assert teacher is not None
    if not teacher.cache:
        text = "are kept in a teacher cache only. Set teacher.cache=true, or leave cache_features out."
        return [Problem("teacher.cache_features", text)] if teacher.cache_features else []
    problems = [*_folder_problems(config), *_feature_problems(config)]
    if not config.is_evaluated:
        problems += [*_view_problems(config, views), *_processor_problems(config, setting), *_masker_problems(config, views)]
    return problems


def _folder_problems(config: RunConfig) -> list[Problem]:
    assert config.teacher is not None
    folder, at = Path(config.teacher.cache_dir), "teacher.cache_dir"
    if folder.exists() and not folder.is_dir():
        return [Problem(at, f"{folder} is a file, wanted a folder.")]
    if config.teacher.cache == "read":
        text = f"there is no folder {folder} to read a cache from. Set teacher.cache=true."
        return [] if folder.is_dir() else [Problem(at, text)]
    nearest = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        return [Problem(at, f"{folder} cannot be made or written to: see {nearest}. Name another one, or set teacher.cache=read.")]
    return []


def _feature_problems(config: RunConfig) -> list[Problem]:
    assert config.teacher is not None
    at, features = "teacher.cache_features", config.teacher.cache_features
    unknown = [
        Problem(f"{at}[{i}]", f"no feature {name!r} can be kept, only {SUMMARY!r}.{did_you_mean(name, [SUMMARY])}")
        for i, name in enumerate(features)
        if name != SUMMARY
    ]
    if unknown or not features:
        return unknown
    names = [split(card_of(folder, config)["model"], at, MODELS)[0] for folder in config.teacher_folders]
    silent = [name for name in names if MODELS.get(name).summarise_views is MultimodalModel.summarise_views]
    text = "the teacher is a {}, which does not tell its {}. Leave cache_features out."
    return [Problem(at, text.format(name, SUMMARY)) for name in silent]


def _view_problems(config: RunConfig, views: Sequence[str]) -> list[Problem]:
    name = split(config.objective, "objective", OBJECTIVES)[0]
    text = f"the objective {name} does not say which views it asks about (its teacher_views). Tell it, {OFF}."
    return [] if views else [Problem("teacher.cache", text)]


def _processor_problems(config: RunConfig, setting: Setting) -> list[Problem]:
    specs = {m: config.data.processors[m] for m in setting.teacher_modalities or ()}
    text = "has random transforms, so the teacher sees another {} in each epoch and its answers cannot be kept. Take them out, {}."
    return [
        Problem(f"data.processors.{m}", text.format(m, OFF))
        for m, spec in specs.items()
        if PROCESSORS.build(spec, f"data.processors.{m}").random
    ]


def _masker_problems(config: RunConfig, views: Sequence[str]) -> list[Problem]:
    assert config.teacher is not None
    at = "masker" if config.teacher.masker is None else "teacher.masker"
    spec = config.masker if config.teacher.masker is None else config.teacher.masker
    masker: Masker = MASKERS.build(spec, at, {"vocab_size": 2})
    if not masker.random or all(view == FULL for view in views):
        return []
    name = split(spec, at, MASKERS)[0]
    text = f"{name} draws what it shows, or takes it from the rest of the batch, so what the teacher says of a view cannot be kept."
    return [Problem(at, f"{text} Take another one for the teacher, such as teacher.masker=drop, {OFF}.")]
