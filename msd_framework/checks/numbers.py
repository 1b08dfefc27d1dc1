"""Numbers and names of a run that cannot be, each by itself or beside its neighbour."""

from __future__ import annotations

import os
from collections.abc import Iterator
from operator import attrgetter

import torch

from msd_framework.build.facts import RunFacts
from msd_framework.errors import Problem
from msd_framework.launch import launched
from msd_framework.ranges import LARGEST

ABOVE_0 = (
    "training.max_updates",
    "training.max_epochs",
    "training.batch_size",
    "training.accumulate",
    "training.clip_norm",
    "training.log_every",
    "evaluation.batch_size",
    "evaluation.every_updates",
    "checkpoint.every_updates",
    "data.max_train_examples",
    "data.max_eval_examples",
    "data.partners",
)
FROM_0 = ("data.workers", "data.cache_mb", "data.length_pool", "checkpoint.keep", "env.threads", "seed")
# the most of what fills memory or never ends: far beyond what anybody trains with
MOST: dict[str, int] = {
    "training.max_updates": 10**9,
    "training.max_epochs": 10**9,
    "training.batch_size": 10**6,
    "evaluation.batch_size": 10**6,
    "data.workers": max(64, 2 * (os.cpu_count() or 1)),
    "env.threads": max(256, 2 * (os.cpu_count() or 1)),
    "data.length_pool": 10**6,
    "data.cache_mb": 10**9,
    "data.partners": 10**4,
}
LARGEST_SEED = 2**63 - 1  # what a signed number of 64 bits can hold
# the split that each `run_type` cannot do without
NEEDED_SPLIT = {"train": "train", "check": "train", "val": "validation", "test": "test", "predict": "test"}


def ranges(run: RunFacts) -> Iterator[Problem]:
    for path in (*ABOVE_0, *FROM_0):
        value, most = attrgetter(path)(run.config), MOST.get(path, LARGEST)
        if value is None:
            continue
        if path in ABOVE_0 and not value > 0:  # NaN is not
            yield Problem(path, f"must be above 0, got {value}.")
        elif value < 0:
            yield Problem(path, f"must be 0 or more, got {value}.")
        elif path != "seed" and value > most:
            yield Problem(path, f"must be at most {most:,}, got {value:,}.")
    if run.config.seed > LARGEST_SEED:
        yield Problem("seed", f"must be at most 2**63 - 1, got {run.config.seed}.")
    kept = run.config.data.labelled_share
    if not 0 <= kept <= 1:
        yield Problem("data.labelled_share", f"must lie between 0 and 1, got {kept}.")


def lengths(run: RunFacts) -> Iterator[Problem]:
    training, processes = run.config.training, launched().size
    is_both = training.max_updates is not None and training.max_epochs is not None
    is_neither = training.max_updates is None and training.max_epochs is None
    if (is_both or is_neither) and not run.config.is_evaluated:
        yield Problem("training", f"wanted either max_updates or max_epochs, got {'both' if is_both else 'neither'}.")
    parts = processes * training.accumulate
    if parts > 0 and training.batch_size % parts:
        wanted = f"must be a multiple of processes times training.accumulate, {processes} x {training.accumulate}"
        yield Problem("training.batch_size", f"{wanted}, got {training.batch_size}.")


def names(run: RunFacts) -> Iterator[Problem]:
    if not run.config.env.save_dir:
        yield Problem("env.save_dir", "must name a folder, got nothing.")
    needed = NEEDED_SPLIT[run.config.run_type]
    if getattr(run.config.data, needed) is None:
        yield Problem(f"data.{needed}", f"must name a split of the data set for run_type={run.config.run_type}.")
    if run.config.env.device == "cuda" and not torch.cuda.is_available():
        yield Problem("env.device", "this machine has no GPU that torch can use. Set env.device=cpu or auto.")
    data = run.config.data
    chooses, reports = "what it chooses must not be what is trained on", "what is reported must be seen by nothing else"
    for use, other, why in (("validation", "train", chooses), ("test", "train", reports), ("test", "validation", reports)):
        name = getattr(data, use)
        if not run.config.is_evaluated and name is not None and name == getattr(data, other):
            yield Problem(f"data.{use}", f"is {name!r}, as is data.{other}: {why}. Name another split, or null.")
    for i, name in enumerate(run.config.allow):
        if "." not in name.strip("."):
            text = f"wanted the dotted name of a class, such as package.Model, got {name!r}."
            yield Problem(f"allow[{i}]", f"{text} Registered components need not be allowed.")


RULES = (ranges, lengths, names)
