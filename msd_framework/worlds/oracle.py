"""The oracle: how likely the label of each made row is given what a view shows, and how much each modality matters."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from msd_framework.errors import DataError
from msd_framework.views import FULL, named_in, visible_modalities

SMALLEST = 1e-12


def posteriors_of(table: NDArray[np.float64], signs: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float64]]:
    r"""The exact probability of label 1 given each view, where each modality shows one of a few signs.

    .. math:: p(y \mid x_s) = \frac{p(y, x_s)}{\sum_{y'} p(y', x_s)}, \qquad p(y, x_s) = \sum_{x_{\setminus s}} p(y, x)

    Args:
        table: float64 [2, K_1, .., K_M], how often each combination of label and signs occurs.
        signs: int64 [N] for each of M modalities, in the order of the table.

    Returns:
        float64 [N] for each view, that is for each non-empty subset of the modalities: ``full``, ``image``, ``image+text``.

    >>> table = np.array([[[0.25, 0.25], [0.25, 0.0]], [[0.0, 0.0], [0.0, 0.25]]])  # only both together make a 1
    >>> signs = {"image": np.array([1]), "text": np.array([1])}
    >>> {view: float(p[0]) for view, p in posteriors_of(table, signs).items()}
    {'full': 1.0, 'image': 0.5, 'text': 0.5}
    """
    found = {}
    for size in (len(signs), *range(1, len(signs))):
        for shown in combinations(signs, size):
            hidden = tuple(axis for axis, m in enumerate(signs, 1) if m not in shown)
            at = (slice(None), *(signs[m] for m in shown))
            cell = table.sum(axis=hidden)[at]  # [2, N]
            if not (cell.sum(axis=0) > 0).all():
                raise ValueError("posteriors: some rows cannot occur under this mix; pass the mix that they were drawn from.")
            found[FULL if size == len(signs) else "+".join(shown)] = cell[1] / cell.sum(axis=0)
    return found


Posterior: TypeAlias = Mapping[str, float]
"""The probability of each label by its name; one that is not there cannot be."""


def label_posteriors(
    joint: Mapping[tuple[str, ...], float], modalities: Sequence[str], signs: Iterable[tuple[str, ...]]
) -> Iterator[dict[str, Posterior]]:
    r"""The exact probability of each label given each view, for the signs that each of N rows shows.

    .. math:: p(y \mid x_s) = \frac{p(y, x_s)}{\sum_{y'} p(y', x_s)}, \qquad p(y, x_s) = \sum_{x_{\setminus s}} p(y, x)

    Args:
        joint: how often a label and a sign of each modality occur together, by the label and the signs.
        modalities: what the signs are of, in their order.
        signs: those of each row.

    >>> joint = {("yes", "red", "is it red"): 0.25, ("no", "blue", "is it red"): 0.25, ("red", "red", "what color"): 0.5}
    >>> (row,) = label_posteriors(joint, ["image", "text"], [("red", "is it red")])
    >>> row["full"], row["text"]
    ({'yes': 1.0}, {'yes': 0.5, 'no': 0.5})
    """
    views = {FULL: tuple(range(len(modalities)))}
    for size in range(1, len(modalities)):
        for shown in combinations(range(len(modalities)), size):
            views["+".join(modalities[i] for i in shown)] = shown
    tables: dict[str, dict[tuple[str, ...], dict[str, float]]] = {view: {} for view in views}
    for (label, *own), share in joint.items():
        for view, shown in views.items():
            cell = tables[view].setdefault(tuple(own[i] for i in shown), defaultdict(float))
            cell[label] += share
    for row in signs:
        found: dict[str, Posterior] = {}
        for view, shown in views.items():
            cell = tables[view][tuple(row[i] for i in shown)]
            total = sum(cell.values())
            found[view] = {label: share / total for label, share in cell.items() if share > 0}
        yield found


def label_saliency(posteriors: Mapping[str, Posterior], several: bool = False) -> dict[str, float]:
    """What each modality adds, in nats, as `saliency`; of `several` labels of which each is there or not, the sum over them."""
    modalities = sorted(view for view in posteriors if view != FULL and len(named_in(view)) == 1)
    full, scores = posteriors[FULL], {}
    for m in modalities:
        without = posteriors["+".join(visible_modalities(f"~{m}", modalities))]
        scores[m] = math.fsum(_divergence(p, without[label]) for label, p in full.items())
        if several:
            scores[m] += math.fsum(_divergence(1 - p, 1 - without[label]) for label, p in full.items())
    return scores


def saliency(probabilities: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    r"""What each modality adds, float64 [N] in nats: the drop score with the exact posteriors in the teacher's place.

    .. math:: S_m = \mathrm{KL}\big(p(y \mid x) \,\|\, p(y \mid x_{\setminus m})\big)

    >>> scores = saliency({"full": np.array([1.0]), "image": np.array([0.5]), "text": np.array([1.0])})
    >>> {modality: round(float(score[0]), 4) for modality, score in scores.items()}
    {'image': 0.0, 'text': 0.6931}
    """
    full = probabilities[FULL]
    modalities = sorted(view for view in probabilities if view != FULL and len(named_in(view)) == 1)
    scores = {}
    for m in modalities:
        without = probabilities["+".join(visible_modalities(f"~{m}", modalities))]
        scores[m] = _relative_entropy(full, without) + _relative_entropy(1 - full, 1 - without)
    return scores


@dataclass(frozen=True)
class OracleRow:
    """What is known of one row of a made world."""

    posteriors: Mapping[str, float | Posterior]  # for each view the probability of label 1, or of each label by its name
    saliency: Mapping[str, float]  # how much each modality matters, in nats
    kind: str = ""  # a name of its layout's mix
    decided_by: str = ""  # the modality that decides its label, or ``both``; of three modalities, ``all``
    label: int | str | None = None  # its true label, before any label noise; None where there may be several


def read_oracle(folder: str | Path, split: str) -> dict[str, OracleRow]:
    """What is known of each row of a world, by its id.

    Raises:
        DataError: if the folder has no such file, or one of an earlier version, without posteriors.
    """
    path = Path(folder) / f"oracle_{split}.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such file. Only a folder made by make_world has an oracle, one for each of its splits.")
    rows = list(map(json.loads, path.read_text(encoding="utf-8").splitlines()))
    if any("posteriors" not in row for row in rows):
        raise DataError(f"{path}: it has no posteriors, as an earlier version wrote it. Make the world anew, with overwrite=true.")
    known = {}
    for row in rows:
        known[str(row["id"])] = OracleRow(**{name: row[name] for name in OracleRow.__dataclass_fields__ if name in row})
    return known


def find_oracle(folder: object, split: str) -> dict[str, OracleRow]:
    """The same; empty where a folder is of no made world, or of an earlier version's."""
    if not isinstance(folder, str) or not (Path(folder) / f"oracle_{split}.jsonl").is_file():
        return {}
    try:
        return read_oracle(folder, split)
    except DataError:
        return {}


def _divergence(p: float, q: float) -> float:
    """The term p log(p / q), which is 0 where p is; q is 0 only where rounding made p more than that."""
    return p * math.log(p / max(q, SMALLEST)) if p > 0 else 0.0


def _relative_entropy(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """The term p log(p / q), which is 0 where p is."""
    positive = p > 0
    return np.where(positive, p * np.log(np.where(positive, p, 1) / np.where(positive, q, 1)), 0.0)
