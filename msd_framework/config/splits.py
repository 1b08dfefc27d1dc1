"""The splits of a run, all opened before its first update: labels that are wrong are told, and rows that two splits share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msd_framework.config.schema import DataConfig
from msd_framework.data.base import MultimodalDataset
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
    if data.shared_rows or any(dataset.may_share_rows for dataset in datasets.values()):
        return []
    found = ((one, other, shared_rows((datasets[one], keys[one]), (datasets[other], keys[other]))) for one, other in _pairs(keys))
    return [_problem(one, other, shared, len(datasets[other])) for one, other, shared in found if shared is not None]


def _pairs(uses: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    names = list(uses)
    return ((one, other) for i, one in enumerate(names) for other in names[i + 1 :])


def _problem(one: str, other: str, shared: Shared, length: int) -> Problem:
    are = f"{shared.count:,} of its {length:,} rows are rows of data.{one} too"
    if shared.by == "ids":
        are = f"{shared.count:,} of its {length:,} ids are ids of data.{one} too, for rows of another content"
    more = ", ..." if shared.count > len(shared.told) else ""
    why = "a score on rows that were seen before says nothing of new ones"
    fix = "Take them out of one of the two, or set data.shared_rows=true to say that you know"
    return Problem(f"data.{other}", f"{are} ({'; '.join(shared.told)}{more}): {why}. {fix}.")
