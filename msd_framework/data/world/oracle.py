"""The oracle: how likely each made meme is hateful given what a view shows, and how much each modality matters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msd_framework.data.world.latents import ADJECTIVES, KINDS, MemeLatents
from msd_framework.errors import DataError


def joint(mix: Mapping[str, float]) -> NDArray[np.float64]:
    r"""How often each combination of label and visible variables occurs.

    .. math:: p(y, a, r, h) = \sum_k p(k)\, [y = y_k]\, p(a \mid k)\, [r = r_k]\, p(h \mid k)

    with k the kind, y the label, a the class of the adjective, r whether the ink is red, h whether the digit is 5 or more.

    Args:
        mix: the share p(k) of each kind.

    Returns:
        float64 [2, 3, 2, 2] in the order y, a, r, h; it sums to 1.
    """
    table = np.zeros((2, len(ADJECTIVES), 2, 2))
    for name, kind in KINDS.items():
        for adjective, high in product(kind.adjectives, kind.high):
            share = mix.get(name, 0.0) / (len(kind.adjectives) * len(kind.high))
            table[kind.label, ADJECTIVES.index(adjective), int(kind.red), int(high)] += share
    return table


def posteriors(memes: MemeLatents, mix: Mapping[str, float]) -> dict[str, NDArray[np.float64]]:
    """The exact probability that each meme is hateful, given a view, for a reader who mistakes no digit and no word.

    Digit, ink, noun and frame say nothing more about the label than the three variables of `joint` do.

    Args:
        memes: the hidden variables of N memes.
        mix: the share of each kind that they were drawn from.

    Returns:
        float64 [N] for each of the views ``full``, ``image`` and ``text``.

    Raises:
        ValueError: if a meme cannot occur under the mix.

    Examples:
        >>> from msd_framework.data.world.hateful_memes import HatefulMemesLayout
        >>> from msd_framework.data.world.latents import draw_latents
        >>> memes = draw_latents(1, {"both": 1.0}, np.random.default_rng(0))
        >>> {view: round(float(p[0]), 4) for view, p in posteriors(memes, HatefulMemesLayout.mix).items()}
        {'full': 1.0, 'image': 0.6364, 'text': 0.6087}
    """
    table = joint(mix)
    a, r, h = memes.adjectives, memes.red.astype(np.int64), memes.high.astype(np.int64)
    cells = {"full": table[:, a, r, h], "image": table.sum(axis=1)[:, r, h], "text": table.sum(axis=(2, 3))[:, a]}
    if not (cells["full"].sum(axis=0) > 0).all():
        raise ValueError("posteriors: some memes cannot occur under this mix; pass the mix that they were drawn from.")
    return {view: cell[1] / cell.sum(axis=0) for view, cell in cells.items()}


def saliency(probabilities: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    r"""What each modality adds: the drop score with the exact posteriors in the teacher's place.

    .. math:: S_m = \mathrm{KL}\big(p(y \mid x) \,\|\, p(y \mid x_{\setminus m})\big)

    Args:
        probabilities: float64 [N] for each of the views ``full``, ``image`` and ``text``, as `posteriors` returns them.

    Returns:
        float64 [N] in nats for each of the modalities ``image`` and ``text``.

    Examples:
        >>> scores = saliency({"full": np.array([1.0]), "image": np.array([0.5]), "text": np.array([1.0])})
        >>> {modality: round(float(score[0]), 4) for modality, score in scores.items()}
        {'image': 0.0, 'text': 0.6931}
    """
    full = probabilities["full"]
    without = {"image": probabilities["text"], "text": probabilities["image"]}
    return {m: _relative_entropy(full, p) + _relative_entropy(1 - full, 1 - p) for m, p in without.items()}


@dataclass(frozen=True)
class OracleRow:
    """What is known of one meme of a made world.

    Args:
        kind: its kind, a name of `KINDS`.
        decided_by: the modality that decides its label: ``text``, ``image`` or ``both``.
        label: its true label, before any label noise.
        posteriors: the probability that it is hateful, for each view.
        saliency: how much each modality matters, in nats.
    """

    kind: str
    decided_by: str
    label: int
    posteriors: Mapping[str, float]
    saliency: Mapping[str, float]


def read_oracle(folder: str | Path, split: str) -> dict[str, OracleRow]:
    """What is known of each meme of a world in the Hateful Memes layout, by its id.

    Args:
        folder: the folder of the world.
        split: the split, such as ``test_seen``.

    Raises:
        DataError: if the world has no such file, or one of another layout.
    """
    path = Path(folder) / f"oracle_{split}.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no such file. Only a folder made by make_world has an oracle, one for each of its splits.")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if any("posteriors" not in row for row in rows):
        raise DataError(f"{path}: it has no posteriors; they are known for the layout hateful_memes only.")
    fields = OracleRow.__dataclass_fields__
    return {str(row["id"]): OracleRow(**{name: row[name] for name in fields}) for row in rows}


def _relative_entropy(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """The term p log(p / q), which is 0 where p is."""
    positive = p > 0
    return np.where(positive, p * np.log(np.where(positive, p, 1) / np.where(positive, q, 1)), 0.0)
