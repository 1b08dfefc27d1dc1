"""Help for tests: made batches, tiny models, and functions run by several processes that train together."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.multiprocessing.spawn import start_processes

from msd_framework.structures import Batch, ModalityInputs


def made_batch(num_examples: int, seed: int = 0, num_classes: int = 3, vocab_size: int = 20, feature_size: int = 6) -> Batch:
    """A batch of random texts with [CLS] 2 and [SEP] 3, random regions, and random classes; float64."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(4, 8, (num_examples,), generator=generator)
    place = torch.arange(8)
    ids = torch.randint(5, vocab_size, (num_examples, 8), generator=generator)
    ids = torch.where(place == 0, 2, torch.where(place == words[:, None] - 1, 3, ids))  # [B, 8]
    mask = place < words[:, None]
    special = (place == 0) | (place == words[:, None] - 1)
    text = ModalityInputs(ids * mask, mask, {"special": special & mask})
    regions = torch.randn(num_examples, 5, feature_size, generator=generator, dtype=torch.float64)
    image = ModalityInputs(regions, torch.arange(5) < torch.randint(2, 6, (num_examples, 1), generator=generator))
    targets = torch.randint(num_classes, (num_examples,), generator=generator)
    return Batch({"image": image, "text": text}, targets, tuple(f"{seed}-{i}" for i in range(num_examples)))


def take(batch: Batch, indices: list[int]) -> Batch:
    inputs = {
        m: ModalityInputs(x.values[indices], x.mask[indices], {k: e[indices] for k, e in x.extras.items()})
        for m, x in batch.inputs.items()
    }
    return Batch(inputs, batch.targets[indices], tuple(batch.ids[i] for i in indices))


class MadeBatches:
    """Batches cut from one made batch by a training plan, as the loader would."""

    def __init__(self, data: Batch, plan: Any):
        self.data, self.plan = data, plan

    def starting_at(self, update: int) -> Iterator[Batch]:
        self.plan.start = update
        return (take(self.data, list(part.indices)) for part in self.plan)


def run_processes(function: Callable[..., Any], size: int, *arguments: Any) -> None:
    """Runs a function of a module in several processes that see each other as `torchrun`'s do."""
    arguments = (function, size, free_port(), dict(os.environ), arguments)
    start_processes(_run_rank, arguments, nprocs=size, start_method=start_method())  # type: ignore[no-untyped-call]


def start_method() -> str:
    """Forks of a process that has imported torch once, where the system has them: they start in a tenth of the time."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    # what a run imports: its first optimizer torch._dynamo and its first metric torchmetrics, each of which takes as long as torch
    modules = ["torch", "torch._dynamo", "torchmetrics", "torchvision", "sklearn.datasets", "msd_framework.run"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(modules)
    return "forkserver"


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _run_rank(
    rank: int, function: Callable[..., Any], size: int, port: int, environment: dict[str, str], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= environment  # the process that forks has that of its own start
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    function(*arguments)
