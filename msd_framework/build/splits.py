"""The splits of a run, all opened before its first update: their labels are checked, and no two may have rows in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import combinations
from typing import Any

from msd_framework.array_files import digest
from msd_framework.build.facts import RunFacts
from msd_framework.components.registry import plain
from msd_framework.config.schema import DataConfig, RunConfig
from msd_framework.data.base import MultimodalDataset, RowKeys
from msd_framework.data.batches.labels import HiddenLabels
from msd_framework.data.overlap import Shared, shared_rows, survey
from msd_framework.engine.checkpoint import find_checkpoint, read_json
from msd_framework.engine.distributed import World
from msd_framework.errors import ConfigError, DataError, Problem
from msd_framework.registry import DATASETS
from msd_framework.structures import DatasetInfo

Splits = Mapping[str, MultimodalDataset]  # by what the run uses them for: `train`, `validation` or `test`


def open_splits(facts: RunFacts, world: World, uses: Sequence[str] | None = None) -> dict[str, MultimodalDataset]:
    """Opens the splits of some uses, those of the run if None; two uses of the same examples share them."""
    config = facts.config

    def opened() -> dict[str, MultimodalDataset]:
        by_name: dict[tuple[str, int | None], MultimodalDataset] = {}
        splits = {}
        for use in config.uses if uses is None else uses:
            name = (getattr(config.data, use), limit(config, use))
            if name not in by_name:
                by_name[name] = open_split(facts, use)
            splits[use] = by_name[name]
        return splits

    splits = world.together(opened)
    if world.size > 1 and uses is None:
        world.agree(world.together(lambda: _contents(config, splits)), "All machines must read the same files.")
    return splits


def open_split(facts: RunFacts, use: str, whole: bool = False) -> MultimodalDataset:
    """A split, as much of it as the run uses or all of it."""
    data = facts.config.data
    arguments: dict[str, Any] = {
        "split": getattr(data, use),
        "on_error": data.on_error,
        "max_examples": None if whole else limit(facts.config, use),
        "unlabelled": use == "train" and data.unlabelled,
    }
    opened = DATASETS.build(data.dataset, "data.dataset", facts.known, **arguments)
    if len(opened) == 0:
        raise DataError(f"data.{use}: the split {arguments['split']!r} of {plain(data.dataset)['type']} is empty.")
    if use == "train" and data.labelled_share < 1:
        opened = HiddenLabels(opened, data.labelled_share, facts.config.seed)
    return opened


def limit(config: RunConfig, use: str) -> int | None:
    """How many examples of a split are used at most."""
    return config.data.max_train_examples if use == "train" else config.data.max_eval_examples


def content(facts: RunFacts, splits: Splits, use: str) -> str:
    """The fingerprint of a whole split, however much of it the run uses."""
    if limit(facts.config, use) is None:
        return splits[use].fingerprint
    return open_split(facts, use, whole=True).fingerprint


def _contents(config: RunConfig, splits: Splits) -> dict[str, str]:
    """Digests of the files that all processes read, by the keys that name them."""
    found = {f"data.{use}": digest(split.fingerprint) for use, split in splits.items()}
    folders = {"teacher.checkpoint": config.teacher_folders if config.has_teacher else ()}
    if config.is_evaluated:
        folders["checkpoint.load" if config.checkpoint.load else "env.save_dir"] = (config.evaluated,)
    elif config.starts_from is not None:
        folders["init"] = (config.starts_from,)
    for key, paths in folders.items():
        found[key] = digest([read_json(find_checkpoint(path) / "files.json") for path in paths])
    return {key: f"content {value[:12]}" for key, value in found.items()}


def check_splits(facts: RunFacts, splits: Splits) -> None:
    """Checks the labels of each split, and that no two splits have rows in common."""
    problems = shared_problems(facts.config.data, splits, facts.info)
    if problems:
        raise ConfigError(*problems)


def shared_problems(data: DataConfig, splits: Splits, info: DatasetInfo) -> list[Problem]:
    """Splits that have rows in common, unless the user says that they may; labels are checked on the way."""
    may_lack = data.unlabelled or data.labelled_share < 1
    by_key = {}
    for use, split in splits.items():
        keys = split.row_keys or survey(split, info, needs_labels=use == "train" and not may_lack)
        by_key[f"data.{use}"] = (split, keys)
    return [] if data.shared_rows else [Problem(at, text) for at, text in shared_splits(by_key)]


def shared_splits(
    splits: Mapping[str, tuple[MultimodalDataset, RowKeys]], known: Sequence[Set[str]] = ()
) -> Iterator[tuple[str, str]]:
    """Splits, by how sentences call them, that share rows with one before, and why not; sets of `known` ones may share."""
    if any(split.may_share_rows for split, _ in splits.values()):
        return
    for one, other in combinations(splits, 2):
        if any({one, other} <= some for some in known):
            continue
        shared = shared_rows(splits[one], splits[other])
        if shared is not None:
            yield other, _shared(one, shared, len(splits[other][0]))


def _shared(one: str, shared: Shared, length: int) -> str:
    are = f"{shared.count:,} of its {length:,} rows are rows of {one} too"
    if shared.by == "ids":
        are = f"{shared.count:,} of its {length:,} ids are ids of {one} too, for rows of another content"
    more = ", ..." if shared.count > len(shared.first) else ""
    why = "a score on rows that were seen before says nothing of new ones"
    fix = "Take them out of one of the two, or set data.shared_rows=true to say that you know"
    return f"{are} ({'; '.join(shared.first)}{more}): {why}. {fix}."
