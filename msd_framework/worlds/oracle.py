"""The oracle: how likely the label of each made row is given what a view shows, and how much each modality matters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msd_framework.errors import DataError
from msd_framework.views import FULL, named_in, visible_modalities


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

    kind: str  # a name of its layout's mix
    decided_by: str  # the modality that decides its label, or ``both``; of three modalities, ``all``
    label: int  # its true label, before any label noise
    posteriors: Mapping[str, float]  # the probability that it is 1, for each view
    saliency: Mapping[str, float]  # how much each modality matters, in nats


def read_oracle(folder: str | Path, split: str) -> dict[str, OracleRow]:
    """What is known of each row of a world whose layout has exact posteriors, by its id.

    Raises:
        DataError: if the world has no such file, or one of another layout.
    """
    path = Path(folder) / f"oracle_{split}.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such file. Only a folder made by make_world has an oracle, one for each of its splits.")
    rows = list(map(json.loads, path.read_text(encoding="utf-8").splitlines()))
    if any("posteriors" not in row for row in rows):
        raise DataError(f"{path}: it has no posteriors; they are known for the layouts hateful_memes and talking_cards only.")
    fields = OracleRow.__dataclass_fields__
    return {str(row["id"]): OracleRow(**{name: row[name] for name in fields}) for row in rows}


def find_oracle(folder: object, split: str) -> dict[str, OracleRow]:
    """The same; empty where a folder is of no made world, or of one without exact posteriors."""
    if not isinstance(folder, str) or not (Path(folder) / f"oracle_{split}.jsonl").is_file():
        return {}
    try:
        return read_oracle(folder, split)
    except DataError:
        return {}


def _relative_entropy(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """The term p log(p / q), which is 0 where p is."""
    positive = p > 0
    return np.where(positive, p * np.log(np.where(positive, p, 1) / np.where(positive, q, 1)), 0.0)
