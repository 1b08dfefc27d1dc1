"""Figures 2 and 3: does a teacher help whose decisive features the student shares, or one that knows more?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from msd_framework.analysis.plots import draw_lines
from msd_framework.experiment import Experiment, Row
from msd_framework.ranges import not_negative, positive
from msd_framework.registry import EXPERIMENTS

from .linear import LinearClassifiers, fit
from .worlds import Modality, Random, Sample, World

WORLDS = {
    "gamma": [World(20, Modality(range(10 - o, 20 - o), 25), Modality(range(10), 50)) for o in (0, 2, 4, 6, 8, 10)],
    "alpha": [World(50, Modality(range(k + 10), 50), Modality(range(10), 50)) for k in (0, 10, 20, 30, 40)],
}
"""Gamma grows while the teacher knows the same amount; or alpha grows, and gamma falls, as the teacher comes to know more."""

NUM_TRAIN, NUM_TEST, HYPERPLANE = 200, 1000, 500


@dataclass(frozen=True)
class Streams:
    """Where the random numbers of one seed come from.

    Args:
        train: of the hyperplane and of the training examples.
        test: of the test examples.
        weights: of the first weights.
    """

    train: Random
    test: Random
    weights: torch.Generator

    @classmethod
    def released(cls, seed: int) -> Streams:
        """As in the released code: everything but training starts from the next seed, which trains the next run."""
        random = np.random.RandomState
        return cls(random(seed), random(seed + 1), torch.Generator().manual_seed(seed + 1))

    @classmethod
    def independent(cls, seed: int) -> Streams:
        """A stream of its own for each of them."""
        random = np.random.default_rng
        return cls(random([seed, 0]), random([seed, 1]), torch.Generator().manual_seed(seed))


@EXPERIMENTS.register("mfh_overlap")
class Overlap(Experiment):
    """A linear student with and without a teacher of another modality, over how much the two modalities share.

    Source: Xue et al., The Modality Focusing Hypothesis, ICLR 2023 (arXiv:2206.06487), section 4.1, figures 2 and 3.

    Args:
        vary: gamma, the shared part of all decisive features (figure 2), or alpha, the part of the teacher's that the student
            does not see (figure 3).
        faithful: whether the random numbers are those of the released code, where the test examples of a run are made of the
            numbers that train the next one, and the two students start from different weights; or independent, with one start.
        distill_weight: w of CE + w KL; a half is what the released code has, since torch's mean also divides by two classes.
        num_epochs: steps of gradient descent.
    """

    def __init__(
        self,
        vary: Literal["gamma", "alpha"] = "gamma",
        faithful: bool = True,
        distill_weight: float = 0.5,
        num_epochs: int = 1000,
    ):
        positive(num_epochs=num_epochs)
        not_negative(distill_weight=distill_weight)
        self.vary, self.faithful, self.distill_weight, self.num_epochs = vary, faithful, distill_weight, num_epochs

    def run(self, seeds: Sequence[int], folder: Path) -> list[Row]:
        return list(self._rows(seeds))

    def _rows(self, seeds: Sequence[int]) -> Iterator[Row]:
        worlds = WORLDS[self.vary]
        drawn = [self._draw(world, seed) for world in worlds for seed in seeds]
        train, test = (Sample.stack(d[i] for d in drawn) for i in (0, 1))
        starts = [LinearClassifiers.stack([d[2][i] for d in drawn]) for i in range(3)]

        teacher = fit(starts[0], train.teacher, train.y, num_epochs=self.num_epochs)
        taught = teacher(train.teacher)
        kd = fit(starts[1], train.student, train.y, taught, self.distill_weight, num_epochs=self.num_epochs)
        no_kd = fit(starts[2], train.student, train.y, num_epochs=self.num_epochs)

        accuracies = {
            "teacher": teacher.accuracy(test.teacher, test.y),
            "no_kd": no_kd.accuracy(test.student, test.y),
            "kd": kd.accuracy(test.student, test.y),
        }
        accuracies["delta"] = accuracies["kd"] - accuracies["no_kd"]
        by_row = {name: a.view(len(worlds), len(seeds)) for name, a in accuracies.items()}
        for i, world in enumerate(worlds):
            means = {name: a[i].mean().item() for name, a in by_row.items()}
            yield {
                self.vary: getattr(world, self.vary),
                **means,
                "delta_sd": by_row["delta"][i].std().item() if len(seeds) > 1 else 0.0,
            }

    def _draw(self, world: World, seed: int) -> tuple[Sample, Sample, list[LinearClassifiers]]:
        """What is random about a row and a seed: both samples, and the first weights of the teacher, of KD and of no KD."""
        streams = Streams.released(seed) if self.faithful else Streams.independent(seed)
        hyperplane = streams.train.standard_normal(HYPERPLANE)
        train = world.sample(streams.train, hyperplane, NUM_TRAIN)
        test = world.sample(streams.test, hyperplane, NUM_TEST)
        teacher, kd, no_kd = (
            LinearClassifiers.draw(m.size, streams.weights) for m in (world.teacher, world.student, world.student)
        )
        return train, test, [teacher, kd, no_kd if self.faithful else kd]

    def draw(self, rows: Sequence[Row], path: Path) -> bool:
        columns = {name: [float(row[name]) for row in rows] for name in rows[0]}
        panels = {"accuracy (%)": {n: columns[n] for n in ("teacher", "no_kd", "kd")}, "kd - no_kd": {"delta": columns["delta"]}}
        draw_lines((self.vary, columns[self.vary]), panels, path, {"delta": columns["delta_sd"]})
        return True
