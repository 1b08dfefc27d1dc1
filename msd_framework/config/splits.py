"""The splits of a run, all opened before its first update: labels that are wrong are told, and rows that two splits share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import combinations

from msd_framework.config.schema import DataConfig
from msd_framework.data.base import MultimodalDataset, RowKeys
from msd_framework.data.overlap import Shared, shared_rows, survey
from msd_framework.errors import Problem
from msd_framework.structures import DatasetInfo


def shared_problems(data: DataConfig, datasets: Mapping[str, MultimodalDataset], info: DatasetInfo) -> list[Problem]:
    """Splits that have rows in common, unless the user has said that they may.

    Args:
        data: what is learned from.
        datasets: the split of each use, in the order of uses.
        info: their description.

    Raises:
        DataError: if an example's target is not what the description says.
    """
    may_lack = data.unlabelled or data.labelled_share < 1
    keys = {
        use: dataset.row_keys or survey(dataset, info, needs_labels=use == "train" and not may_lack)
        for use, dataset in datasets.items()
    }
    if data.shared_rows:
        return []
    found = shared_splits({f"data.{use}": (dataset, keys[use]) for use, dataset in datasets.items()})
    return [Problem(at, text) for at, text in found]


def shared_splits(
    splits: Mapping[str, tuple[MultimodalDataset, RowKeys]], known: Sequence[Set[str]] = ()
) -> Iterator[tuple[str, str]]:
    """Each split that has rows in common with one before it, and the sentence about them.

    Args:
        splits: each split, and what its rows are known by, under the name to tell it by.
        known: those that may have, and are not compared.
    """
    if any(dataset.may_share_rows for dataset, _ in splits.values()):
        return
    for one, other in combinations(splits, 2):
        shared = None if any({one, other} <= some for some in known) else shared_rows(splits[one], splits[other])
        if shared is not None:
            yield other, _told(one, shared, len(splits[other][0]))


def _told(one: str, shared: Shared, length: int) -> str:
    are = f"{shared.count:,} of its {length:,} rows are rows of {one} too"
    if shared.by == "ids":
        are = f"{shared.count:,} of its {length:,} ids are ids of {one} too, for rows of another content"
    more = ", ..." if shared.count > len(shared.told) else ""
    why = "a score on rows that were seen before says nothing of new ones"
    fix = "Take them out of one of the two, or set data.shared_rows=true to say that you know"
    return f"{are} ({'; '.join(shared.told)}{more}): {why}. {fix}."
