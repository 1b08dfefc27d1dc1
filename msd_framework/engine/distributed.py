"""This process among those that train together."""

from __future__ import annotations

import gc
import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """The processes that train together, as seen from one of them.

    Args:
        rank: which one this is, from 0.
        size: how many there are.
        device: what this one computes on.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def alone(cls, device: str = "auto") -> World:
        """This process by itself.

        Args:
            device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
        """
        if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
            return cls()
        here = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(here)
        return cls(device=here)

    @classmethod
    @contextmanager
    def join(cls, device: str = "auto") -> Iterator[World]:
        """The world that ``torchrun`` describes in the environment, left at the end; a world of one without it.

        Args:
            device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
        """
        alone = cls.alone(device)
        if "RANK" not in os.environ:
            yield alone
            return
        here = alone.device
        dist.init_process_group("nccl" if here.type == "cuda" else "gloo")
        try:
            yield cls(dist.get_rank(), dist.get_world_size(), here)
            dist.barrier()  # nobody leaves while another still talks
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            gc.collect()  # a wrapped module is part of cycles that hold the group, whose threads must end before the process
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over all processes.

        A parameter that has no part in a step on any process gets no gradient there, as with one process. Which ones have none is
        looked up in every step, as it may change: a layer that is dropped at random, a modality that is left out.
        """
        if self.size == 1 or not any(p.requires_grad for p in module.parameters()):
            return module
        warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")  # in a step where all have a part
        return DistributedDataParallel(module, find_unused_parameters=True)

    def accumulating(self, module: nn.Module, last: bool) -> Any:
        """A context in which gradients are added up here and, unless it is the last part of a batch, not averaged yet."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) and not last else nullcontext()

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        return self.sum(value) / self.size

    def gather(self, value: Any) -> list[Any]:
        """A picklable value of every process, in the order of their ranks, on each of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Waits for every process."""
        if self.size > 1:
            dist.barrier()
