"""This process among those that train together."""

from __future__ import annotations

import gc
import math
import os
import pickle
import secrets
import socket
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from msd_framework.engine.checkpoint import load_weights
from msd_framework.errors import ConfigError, MSDError, Problem
from msd_framework.launch import ALONE, Launch, launched
from msd_framework.screen import say

Result = TypeVar("Result")

PATIENCE = 20.0  # seconds after which a process prints that it waits for others
LONGEST = 60  # characters that are printed of a value that two processes do not agree on

# The tensors of the last calls between processes. A thread of gloo drops those of a call a moment after the call has returned. If
# its reference were the last one, it would wait for Python's lock while it holds the group's, and the destructor of the group
# holds Python's lock and waits for the group's: a process that leaves right after a call, as after an error, would wait for ever.
_in_use: deque[list[Tensor]] = deque(maxlen=4)


@dataclass(frozen=True)
class World:
    """The processes that train together, as seen from one of them."""

    rank: int = 0  # which one this is
    size: int = 1  # how many there are
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  # what this one computes on

    @classmethod
    def alone(cls, device: str = "auto") -> World:
        """This process by itself, on ``cpu``, ``cuda``, or ``auto``: a GPU where there is one."""
        if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
            return cls()
        place = launched().local_rank
        if place >= torch.cuda.device_count():
            text = f"LOCAL_RANK={place} is in the environment, and this machine has {torch.cuda.device_count()} GPUs"
            raise ConfigError(Problem("env.device", f"{text}: start a process a GPU, or take env.device=cpu."))
        here = torch.device("cuda", place)
        torch.cuda.set_device(here)
        return cls(device=here)

    @classmethod
    @contextmanager
    def join(cls, device: str = "auto") -> Iterator[World]:
        """The world that ``torchrun`` describes in the environment, left at the end; a world of one without it."""
        alone, started = cls.alone(device), launched()
        here = alone.device
        if started.size == 1:
            yield alone
            return
        _meet("nccl" if here.type == "cuda" else "gloo", started)
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
            self._keep([value])
        return value

    def mean(self, value: Tensor) -> Tensor:
        return self.sum(value) / self.size

    def means(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The means of several tensors over all processes, in one message."""
        if self.size == 1:
            return list(values)
        whole = self.mean(torch.cat([value.flatten() for value in values]))
        parts = torch.split(whole, [value.numel() for value in values])
        return [part.view_as(value) for part, value in zip(parts, values)]

    # Parameters, gradients and the optimizer's state are whole on every process. What relies on it is in the five methods below,
    # which all processes call together, so that sharded training has one place to change.

    def clip(self, module: nn.Module, largest: float | None) -> Tensor:
        """Clips the gradient of all parameters as one vector, if there is a largest norm; its norm before that."""
        norm: Tensor = nn.utils.clip_grad_norm_(module.parameters(), math.inf if largest is None else largest)
        return norm

    def weights_of(self, module: nn.Module) -> dict[str, Tensor]:
        """A module's parameters and buffers by name."""
        return module.state_dict()

    def load_weights(self, module: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
        """Puts back what `weights_of` took."""
        load_weights(module, weights, where)

    def optimizer_state_of(self, optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """An optimizer's state: tensors named ``<parameter's index>.<name>``, and the rest in JSON's types."""
        state = optimizer.state_dict()
        tensors: dict[str, Tensor] = {}
        plain: dict[str, dict[str, Any]] = {}
        for i, values in state["state"].items():
            plain[str(i)] = {}
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"{i}.{name}"] = value
                else:
                    plain[str(i)][name] = value
        return tensors, {"param_groups": state["param_groups"], "plain": plain}

    def load_optimizer_state(self, optimizer: Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        """Puts back what `optimizer_state_of` took."""
        state: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in rest["plain"].items()}
        for place, tensor in tensors.items():
            i, _, name = place.partition(".")
            state.setdefault(int(i), {})[name] = tensor
        own = optimizer.state_dict()["param_groups"]
        groups = [{**group, **saved} for group, saved in zip(own, rest["param_groups"], strict=True)]
        optimizer.load_state_dict({"state": state, "param_groups": groups})

    def gather(self, value: Any) -> list[Any]:
        """A picklable value of every process, in the order of their ranks, on each of them."""
        if self.size == 1:
            return [value]
        # as dist.all_gather_object does, whose tensors cannot be kept (see `_in_use`)
        content = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8).to(self.device)
        size = torch.tensor(len(content), device=self.device)
        sizes = [torch.zeros_like(size) for _ in range(self.size)]
        dist.all_gather(sizes, size)
        longest = max(map(int, sizes))
        padded = F.pad(content, (0, longest - len(content)))
        contents = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(contents, padded)
        self._keep([size, *sizes])
        self._keep([padded, *contents])
        # the bytes come from the processes of this run alone
        return [pickle.loads(c[:n].cpu().numpy().tobytes()) for c, n in zip(contents, sizes)]  # noqa: S301

    def _keep(self, tensors: list[Tensor]) -> None:
        if self.device.type == "cpu":  # of gloo alone; on a GPU it would take memory for nothing
            _in_use.append(tensors)

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()

    def together(self, make: Callable[[], Result]) -> Result:
        """Calls a function on every process; where it fails on one, all raise: what went wrong here, or else in the first one."""
        if self.size == 1:
            return make()
        problem: MSDError | None = None
        try:
            result = make()
        except MSDError as error:
            problem = error
        problems = self.gather(f"process {self.rank} on {socket.gethostname()}: {problem}" if problem else "")
        if problem:
            raise problem
        for text in filter(None, problems):
            raise ConfigError(text)
        return result

    def agree(self, facts: Mapping[str, str], why: str) -> None:
        """Refuses texts that are not the same on every process, by the keys of a configuration that they are about.

        `why` says what to do then.
        """
        everywhere = self.gather((socket.gethostname(), dict(facts)))
        first_host, first = everywhere[0]
        for rank, (host, own) in enumerate(everywhere):
            for key in {**first, **own}:
                if first.get(key) != own.get(key):
                    wanted, got = _short(first.get(key, "not given")), _short(own.get(key, "not given"))
                    text = f"is {wanted} for process 0 on {first_host} and {got} for process {rank} on {host}. {why}"
                    raise ConfigError(Problem(key, text))

    def share(self, folder: Path) -> None:
        """Refuses a folder in which a process does not find what the first one has just written."""
        if self.size == 1:
            return
        file = folder / f".shared_by_{self.size}_processes_{secrets.token_hex(8)}"

        def write() -> None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file.touch()
            except OSError as error:
                raise ConfigError(Problem("env.save_dir", f"{folder} cannot be written to: {error.strerror}.")) from error

        self.together(write if self.is_first else lambda: None)
        names, hosts = zip(*self.gather((file.name, socket.gethostname())))
        exists = self.gather((folder / names[0]).exists())
        if self.is_first:
            file.unlink(missing_ok=True)
        if not all(exists):
            rank = exists.index(False)
            text = f"{folder} is not one folder for all processes: process {rank} on {hosts[rank]} does not see what process 0"
            text += f" on {hosts[0]} writes there. Name a folder on a disk that all machines share."
            raise ConfigError(Problem("env.save_dir", text))


def _meet(backend: str, started: Launch) -> None:
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    patience = threading.Timer(PATIENCE, say, [f"waiting at {place} for {started.size} processes; this one is {started.rank}."])
    patience.daemon = True
    patience.start()
    try:
        dist.init_process_group(backend)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        text = f"the {started.size} processes that the environment names do not meet at {place}: {reason}."
        raise ConfigError(f"{text} Start all of them with torchrun. {ALONE}") from error
    finally:
        patience.cancel()


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
