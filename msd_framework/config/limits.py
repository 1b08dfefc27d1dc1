"""Numbers of a run that cannot be, each by itself or beside its neighbour."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import torch

from msd_framework.config.schema import RunConfig
from msd_framework.errors import ConfigError, Problem
from msd_framework.launch import launched
from msd_framework.ranges import LARGEST
from msd_framework.teachers.masked import read_saliency

NEEDED_SPLIT = {"train": "train", "check": "train", "val": "validation", "test": "test", "predict": "test"}
"""The split that each `run_type` cannot do without."""

MOST: dict[str, int] = {
    "training.max_updates": 10**9,
    "training.max_epochs": 10**9,
    "training.batch_size": 10**6,
    "evaluation.batch_size": 10**6,
    "data.workers": max(64, 2 * (os.cpu_count() or 1)),
    "env.threads": max(256, 2 * (os.cpu_count() or 1)),
    "data.length_pool": 10**6,
    "data.cache_mb": 10**9,
}
"""The most of what fills memory or never ends: far beyond what anybody trains with."""

LARGEST_SEED = 2**63 - 1
"""The largest seed: what a signed number of 64 bits can hold."""


def limit_problems(config: RunConfig) -> list[Problem]:
    """Lengths, sizes, splits and devices that a run cannot have."""
    return [
        *_number_problems(config),
        *_length_problems(config),
        *_batch_problems(config),
        *_place_problems(config),
        *_split_problems(config),
        *_share_problems(config),
        *_channel_problems(config),
        *_allow_problems(config),
    ]


def _number_problems(config: RunConfig) -> list[Problem]:
    training, evaluation, data = config.training, config.evaluation, config.data
    above = {
        "training.max_updates": training.max_updates,
        "training.max_epochs": training.max_epochs,
        "training.batch_size": training.batch_size,
        "training.accumulate": training.accumulate,
        "training.clip_norm": training.clip_norm,
        "training.log_every": training.log_every,
        "evaluation.batch_size": evaluation.batch_size,
        "evaluation.every_updates": evaluation.every_updates,
        "checkpoint.every_updates": config.checkpoint.every_updates,
        "data.max_train_examples": data.max_train_examples,
        "data.max_eval_examples": data.max_eval_examples,
    }
    least = {
        "data.workers": data.workers,
        "data.cache_mb": data.cache_mb,
        "data.length_pool": data.length_pool,
        "checkpoint.keep": config.checkpoint.keep,
        "env.threads": config.env.threads,
        "seed": config.seed,
    }
    values = above | least
    return [
        *(Problem(path, f"must be above 0, got {value}.") for path, value in above.items() if value is not None and not value > 0),
        *(Problem(path, f"must be 0 or more, got {value}.") for path, value in least.items() if value < 0),
        *(Problem(path, f"must be at most {most:,}, got {value:,}.") for path, most, value in _above(values)),
        *([Problem("seed", f"must be at most 2**63 - 1, got {config.seed}.")] if config.seed > LARGEST_SEED else []),
    ]


def _above(values: Mapping[str, float | None]) -> Iterator[tuple[str, int, float]]:
    """The numbers that are above the most that they may be."""
    for path, value in values.items():
        most = MOST.get(path, LARGEST)
        if path != "seed" and value is not None and value > most:
            yield path, most, value


def _length_problems(config: RunConfig) -> list[Problem]:
    given = [n for n in ("max_updates", "max_epochs") if getattr(config.training, n) is not None]
    if len(given) == 1 or config.is_evaluated:
        return []
    return [Problem("training", f"wanted either max_updates or max_epochs, got {'both' if given else 'neither'}.")]


def _batch_problems(config: RunConfig) -> list[Problem]:
    training, processes = config.training, launched().size
    parts = processes * training.accumulate
    if parts <= 0 or training.batch_size % parts == 0:
        return []
    wanted = f"must be a multiple of processes times training.accumulate, {processes} x {training.accumulate}"
    return [Problem("training.batch_size", f"{wanted}, got {training.batch_size}.")]


def _split_problems(config: RunConfig) -> list[Problem]:
    """Uses of a split that another use would spoil, in runs that train."""
    if config.is_evaluated:
        return []
    used = {use: getattr(config.data, use) for use in ("train", "validation", "test")}
    why = {"validation": "what it chooses must not be what is trained on", "test": "what is reported must be seen by nothing else"}
    return [
        Problem(f"data.{use}", f"is {used[use]!r}, as is data.{other}: {text}. Name another split, or null.")
        for use, text in why.items()
        for other in ("train", "validation")
        if other != use and used[use] is not None and used[use] == used[other]
    ]


def _share_problems(config: RunConfig) -> list[Problem]:
    share = config.data.labelled_share
    text = f"must lie between 0 and 1, got {share}."
    return [] if 0 <= share <= 1 else [Problem("data.labelled_share", text)]


def _channel_problems(config: RunConfig) -> list[Problem]:
    """Channels of a teacher that cannot be chosen, in runs that train."""
    channels, at = config.teacher.channels if config.teacher else None, "teacher.channels"
    if channels is None or config.is_evaluated:
        return []
    if not 0 < channels.share <= 1:
        return [Problem(f"{at}.share", f"must be above 0 and at most 1, got {channels.share}.")]
    if channels.by == "random":
        return []
    if channels.saliency is None:
        text = f"must be given for {channels.by} channels: a folder that the experiment `channel_saliency` wrote to."
        return [Problem(f"{at}.saliency", text)]
    try:
        read_saliency(channels.saliency, channels.layer)
    except ConfigError as error:
        return list(error.problems)
    return []


def _allow_problems(config: RunConfig) -> list[Problem]:
    text = "wanted the dotted name of a class, such as package.Model, got {!r}. Registered components need not be allowed."
    return [Problem(f"allow[{i}]", text.format(name)) for i, name in enumerate(config.allow) if "." not in name.strip(".")]


def _place_problems(config: RunConfig) -> list[Problem]:
    problems = [] if config.env.save_dir else [Problem("env.save_dir", "must name a folder, got nothing.")]
    needed = NEEDED_SPLIT[config.run_type]
    if getattr(config.data, needed) is None:
        problems.append(Problem(f"data.{needed}", f"must name a split of the data set for run_type={config.run_type}."))
    if config.env.device == "cuda" and not torch.cuda.is_available():
        problems.append(Problem("env.device", "this machine has no GPU that torch can use. Set env.device=cpu or auto."))
    return problems
