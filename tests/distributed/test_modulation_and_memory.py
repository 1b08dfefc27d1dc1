"""Gradient modulation by two processes, and what contrastive distillation remembers there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from msd_framework.engine.distributed import World
from msd_framework.structures import Feature
from msd_framework.testing import run_processes
from tests.unit.losses.test_relation_losses import contrast, examples, points
from tests.unit.modulation.test_gradient_modulation import run_of, weights


class Student(nn.Module):
    """A student of `crd`, whose encoder is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = contrast()
        self.encoder = nn.Linear(5, 5).double()

    def forward(self, student: Tensor, teacher: Tensor, first: int) -> Tensor:
        found: Tensor = self.loss(Feature(self.encoder(student)), Feature(teacher), examples(len(student), first))
        return found.mean()


def _train(folder: str) -> None:
    with World.join("cpu") as world:
        runner, _ = run_of(accumulate=2, world=world)
        runner.fit()
        torch.manual_seed(0)
        module = DistributedDataParallel(Student())
        for step in range(3):
            first = 10 * world.rank + 3 * step  # the first process has the first ten examples
            module(points(3, 5, seed=first), points(3, 7, seed=first), first).backward()
        module(points(3, 5), points(3, 7), 0)  # the buffers are copied before the pass
        found = {"weights": weights(runner), "memory": module.module.loss.student_memory}
        torch.save(found, Path(folder) / f"{world.rank}.pt")


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("two")
    run_processes(_train, 2, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_with_two_parts_each_are_modulated_as_one(of_two_processes: list[dict[str, Tensor]]) -> None:
    runner, _ = run_of()
    runner.fit()
    for found in of_two_processes:
        torch.testing.assert_close(found["weights"], weights(runner), rtol=0, atol=1e-8)  # the order of float64 sums


def test_two_processes_remember_what_the_first_one_saw(of_two_processes: list[dict[str, Tensor]]) -> None:
    torch.manual_seed(0)
    untouched = Student().loss.student_memory
    for found in of_two_processes:
        assert torch.equal(found["memory"][10:], untouched[10:])
        assert not torch.equal(found["memory"][:9], untouched[:9])
