"""Table 2: a teacher that keeps only what the student can see, too, is a worse classifier and a better teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from msd_framework.analysis.mfh.channels import channel_saliency
from msd_framework.analysis.plots import draw_lines
from msd_framework.experiment import Experiment, Row
from msd_framework.ranges import not_negative, positive
from msd_framework.registry import EXPERIMENTS

from .linear import LinearClassifiers, fit, fit_jointly
from .worlds import Modality, Random, Sample, World

SIZE, NUM_TRAIN, NUM_TEST = 50, 200, 1000
COLUMNS = ("teacher", "kept_teacher", "no_kd", "kd", "kept_kd")


@dataclass(frozen=True)
class Draws:
    """All that is random about one row and one seed.

    Args:
        train: what the teachers learn from.
        test: what everybody is tested on.
        transfer: what the students learn from.
        teacher: the regular teacher's first weights.
        pair: the first weights of Algorithm 1's two classifiers.
        no_kd: the first weights of the student that nobody teaches.
        kd: of the regular teacher's student.
        kept_teacher: of the teacher that keeps some channels.
        kept_kd: of its student.
        permutations: of the examples, for Algorithm 1, int64 [1, M, D, N].
        channels: the channels that are kept at random, int64 [1, K].
    """

    train: Sample
    test: Sample
    transfer: Sample
    teacher: LinearClassifiers
    pair: tuple[LinearClassifiers, LinearClassifiers]
    no_kd: LinearClassifiers
    kd: LinearClassifiers
    kept_teacher: LinearClassifiers
    kept_kd: LinearClassifiers
    permutations: Tensor
    channels: Tensor


@EXPERIMENTS.register("mfh_general_teacher")
class GeneralTeacher(Experiment):
    """Linear students of a teacher with all channels, and of one that keeps as many as both modalities share.

    Source: Xue et al., The Modality Focusing Hypothesis, ICLR 2023 (arXiv:2206.06487), section 5, table 2.

    Args:
        keep: the channels that are kept: those that Algorithm 1 finds, those that are shared in truth, or random ones.
        specific: for each row, decisive features that the teacher alone sees.
        shared: for each row, decisive features that both see.
        fresh: whether the students learn from examples that the regular teacher has not seen, as in the released code; the paper's
            numbers are those of examples that it has seen.
        faithful: whether to do as the released code does, random numbers included, where (a) the regular teacher is asked about
            the student's modality, and its student learns from the teacher's and is tested on its own; (b) random channels are
            drawn with replacement; (c) the teacher that keeps channels learns from the students' examples, and the regular one
            from others; (d) the students start from different weights. None of this is done otherwise.
        distill_weight: w of CE + w KL; a half is what the released code has, since torch's mean also divides by two classes.
        num_permutations: how often Algorithm 1 shuffles each channel.
        num_epochs: steps of gradient descent.
    """

    def __init__(
        self,
        keep: Literal["algorithm_1", "truth", "random"] = "algorithm_1",
        specific: list[int] | None = None,
        shared: list[int] | None = None,
        fresh: bool = False,
        faithful: bool = False,
        distill_weight: float = 0.5,
        num_permutations: int = 100,
        num_epochs: int = 1000,
    ):
        specific, shared = specific or [15, 10, 10, 10, 10], shared or [5, 5, 10, 20, 30]
        if len(specific) != len(shared):
            raise ValueError(f"specific and shared must have a value for each row, got {len(specific)} and {len(shared)} of them.")
        rows = list(zip(specific, shared))
        if any(k < 0 or m < 1 or k + m > SIZE for k, m in rows):
            raise ValueError(f"each row wants 0 or more specific, 1 or more shared and at most {SIZE} features, got {rows}.")
        positive(num_permutations=num_permutations, num_epochs=num_epochs)
        not_negative(distill_weight=distill_weight)
        self.keep, self.rows, self.fresh, self.faithful = keep, rows, fresh, faithful
        self.distill_weight, self.num_permutations, self.num_epochs = distill_weight, num_permutations, num_epochs

    def run(self, seeds: Sequence[int], folder: Path) -> list[Row]:
        return list(self._rows(seeds))

    def draw(self, rows: Sequence[Row], path: Path) -> bool:
        columns = {name: [float(row[name]) for row in rows] for name in rows[0]}
        panels = {"teacher's accuracy (%)": COLUMNS[:2], "student's accuracy (%)": COLUMNS[2:], "kept_kd - kd": ("gain",)}
        lines = {title: {n: columns[n] for n in names} for title, names in panels.items()}
        draw_lines(("gamma", columns["gamma"]), lines, path, {"gain": columns["gain_sd"]})
        return True

    def _rows(self, seeds: Sequence[int]) -> Iterator[Row]:
        for specific, shared in self.rows:
            world = World(specific + shared, Modality(range(specific + shared), SIZE), Modality(range(shared), SIZE), False)
            accuracies, right = self._accuracies([self._draw(world, shared, seed) for seed in seeds], shared)
            accuracies["delta"] = accuracies["kd"] - accuracies["no_kd"]
            accuracies["gain"] = accuracies["kept_kd"] - accuracies["kd"]
            means = {name: found.mean().item() for name, found in accuracies.items()}
            spread = accuracies["gain"].std().item() if len(seeds) > 1 else 0.0
            yield {"gamma": world.gamma, **means, "gain_sd": spread, "found": right}

    def _accuracies(self, draws: Sequence[Draws], shared: int) -> tuple[dict[str, Tensor], float]:
        """The accuracy of each classifier, float64 [E], and the per cent of kept channels that are shared in truth."""
        train, test, transfer = (Sample.stack(getattr(d, name) for d in draws) for name in ("train", "test", "transfer"))

        def trained(name: str, x: Tensor, y: Tensor, taught: Tensor | None = None) -> LinearClassifiers:
            start = LinearClassifiers.stack([getattr(d, name) for d in draws])
            return fit(start, x, y, taught, self.distill_weight, num_epochs=self.num_epochs)

        teacher = trained("teacher", train.teacher, train.y)
        no_kd = trained("no_kd", transfer.student, transfer.y)
        if self.faithful:  # the two modalities have changed places
            kd = trained("kd", transfer.teacher, transfer.y, teacher(transfer.student))
        else:
            kd = trained("kd", transfer.student, transfer.y, teacher(transfer.teacher))

        channels = self._channels(draws, train, shared)  # [E, K]
        learnt, seen, asked = (_taken(s.teacher, channels) for s in (transfer if self.faithful else train, test, transfer))
        kept_teacher = trained("kept_teacher", learnt, transfer.y if self.faithful else train.y)
        kept_kd = trained("kept_kd", transfer.student, transfer.y, kept_teacher(asked))

        right = (channels < shared).double().mean().item() * 100
        return {
            "teacher": teacher.accuracy(test.teacher, test.y),
            "kept_teacher": kept_teacher.accuracy(seen, test.y),
            **{n: m.accuracy(test.student, test.y) for n, m in (("no_kd", no_kd), ("kd", kd), ("kept_kd", kept_kd))},
        }, right

    def _channels(self, draws: Sequence[Draws], train: Sample, shared: int) -> Tensor:
        """The channels of the teacher's modality that are kept, int64 [E, K]."""
        if self.keep == "truth":
            return torch.arange(shared).expand(len(draws), -1)
        if self.keep == "random":
            return torch.cat([d.channels for d in draws])
        starts = [LinearClassifiers.stack([d.pair[i] for d in draws]) for i in range(2)]
        teacher, student = fit_jointly(starts, [train.teacher, train.student], train.y, num_epochs=self.num_epochs)

        def saliency(weight: Tensor, bias: Tensor, x: Tensor, reference: Tensor, permutations: Tensor) -> Tensor:
            return channel_saliency(lambda h: (weight @ h.mT + bias).mT, x, reference.mT, permutations, at_once=SIZE)

        permutations = torch.cat([d.permutations for d in draws])
        scores = torch.func.vmap(saliency)(teacher.weight, teacher.bias, train.teacher, student(train.student), permutations)
        return scores.argsort(1, descending=True)[:, :shared]

    def _draw(self, world: World, shared: int, seed: int) -> Draws:
        """In the released code's order: data; the teacher, Algorithm 1, the students, the teacher that keeps channels, its own."""
        random: Random = np.random.RandomState(seed) if self.faithful else np.random.default_rng(seed)
        hyperplane = np.ones(world.num_decisive)
        train, test = (world.sample(random, hyperplane, n) for n in (NUM_TRAIN, NUM_TEST))
        transfer = world.sample(random, hyperplane, NUM_TRAIN) if self.fresh else train

        generator = torch.Generator().manual_seed(seed)
        teacher = LinearClassifiers.draw(SIZE, generator)
        pair, permutations = (teacher, teacher), torch.empty(0)
        if self.keep == "algorithm_1":
            pair = LinearClassifiers.draw(SIZE, generator), LinearClassifiers.draw(SIZE, generator)
            permutations = self._permutations(generator)
        no_kd, kd, kept_teacher, kept_kd = (LinearClassifiers.draw(n, generator) for n in (SIZE, SIZE, shared, SIZE))
        if not self.faithful:
            kd = kept_kd = no_kd
        channels = torch.from_numpy(_random_channels(random, shared, replace=self.faithful))[None]
        return Draws(train, test, transfer, teacher, pair, no_kd, kd, kept_teacher, kept_kd, permutations, channels)

    def _permutations(self, generator: torch.Generator) -> Tensor:
        """Int64 [1, M, D, N]; each time the student's channels come first, whose permutations are of no use here."""
        if not self.faithful:
            return torch.rand(1, self.num_permutations, SIZE, NUM_TRAIN, generator=generator).argsort(-1)
        drawn = [torch.randperm(NUM_TRAIN, generator=generator) for _ in range(self.num_permutations * 2 * SIZE)]
        return torch.stack(drawn).view(1, self.num_permutations, 2, SIZE, NUM_TRAIN)[:, :, 1]


def _random_channels(random: Random, num_channels: int, replace: bool) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    if isinstance(random, np.random.RandomState):
        return random.randint(0, SIZE, num_channels)
    return random.choice(SIZE, num_channels, replace=replace)


def _taken(x: Tensor, channels: Tensor) -> Tensor:
    """Channels [E, K] of inputs [E, N, D], as [E, N, K]."""
    return x.gather(2, channels[:, None].expand(-1, x.shape[1], -1))
