"""How matrix products are computed, and which way is fastest on this machine, measured when a run begins."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from msd_framework.objectives.base import Objective
from msd_framework.randomness import random_state, random_state_kept, restore_random_state
from msd_framework.structures import Batch

AUTO = "auto"  # the precision that is measured when a run begins
CPU = torch.device("cpu")
GAIN = 1.05  # how many times as fast as fp32 a precision must be before `auto` takes it
OF_TORCH = frozenset(vars(nn.Module())) - {"training"}  # what torch itself keeps in each module


@dataclass(frozen=True)
class Precision:
    """A way to compute matrix products; weights, their updates and losses stay float32."""

    name: str  # what a configuration calls it
    bound: float  # the largest relative error of the gradient with which `auto` takes it
    float32_products: str = "highest"  # torch's setting for products of float32 matrices
    cast: torch.dtype | None = None  # what autocast computes products in; None does not cast

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of a forward pass. Weights that are cast are kept in it, so none may change before it is left."""
        return torch.autocast(device.type, dtype=self.cast or torch.bfloat16, enabled=self.cast is not None)

    @contextmanager
    def products(self) -> Iterator[None]:
        """The context of everything else, backward passes as well; torch's setting, which is global, is then put back."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.float32_products)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    @contextmanager
    def active(self, device: torch.device) -> Iterator[None]:
        """Both, for a forward pass that nothing goes back through."""
        with self.products(), self.autocast(device):
            yield


FP32 = Precision("fp32", bound=0.0)
MEDIUM = Precision("medium", bound=1e-4, float32_products="medium")
BF16 = Precision("bf16", bound=5e-2, cast=torch.bfloat16)
FP16 = Precision("fp16", bound=0.0, cast=torch.float16)

PRECISIONS = {p.name: p for p in (FP32, MEDIUM, BF16, FP16)}
# what `auto` measures, first what the others are compared with; fp16 needs its loss scaled and is never among them
CANDIDATES = (FP32, MEDIUM, BF16)

Result: TypeAlias = tuple[Tensor, Sequence[Tensor | None]]  # of a step: a loss and its gradients (None where it has none)
Step: TypeAlias = Callable[[Precision], Result]  # within `Precision.products`; it casts by `Precision.autocast` itself


@dataclass(frozen=True)
class Measured:
    r"""What a precision costs, and how far off it is.

    .. math:: e = \lVert g - g_{32} \rVert_2 / \lVert g_{32} \rVert_2

    with :math:`g` the gradient of all parameters as one vector, in this precision and in fp32.
    """

    name: str  # of the precision
    seconds: float  # a forward and a backward pass, the median: of the process's CPU time, on a GPU of the device's time
    loss_error: float  # relative
    gradient_error: float  # e

    @property
    def is_close(self) -> bool:
        """Whether the gradient is within the precision's bound."""
        return self.gradient_error <= PRECISIONS[self.name].bound


@dataclass(frozen=True)
class Choice:
    """The precision of a run, and a line with the reason."""

    name: str
    line: str  # such as ``precision: bf16 (1.42 x fp32, gradient off by 0.8 %); medium 1.03 x, 2e-7``

    @classmethod
    def given(cls, name: str) -> Choice | None:
        """The one that a configuration names; None if it wants it measured."""
        return None if name == AUTO else cls(name, f"precision: {name}, as the configuration says")

    @property
    def precision(self) -> Precision:
        return PRECISIONS[self.name]


def choose(measured: Sequence[Measured]) -> Choice:
    """The fastest precision whose gradient is within its bound, if it is at least 5 % faster than fp32; else fp32.

    >>> fp32, medium = Measured("fp32", 1.0, 0.0, 0.0), Measured("medium", 0.97, 1e-8, 2e-7)
    >>> choose([fp32, medium, Measured("bf16", 0.7, 1e-3, 8e-3)]).line
    'precision: bf16 (1.43 x fp32, gradient off by 0.8 %); medium 1.03 x, 2e-7'
    >>> choose([fp32, medium, Measured("bf16", 0.7, 1e-3, 0.12)]).line
    'precision: fp32; medium 1.03 x, 2e-7; bf16 1.43 x, 12.0 % (too far off)'
    """
    fp32 = next(m for m in measured if m.name == FP32.name)
    best = fp32
    for one in measured:
        if one.is_close and fp32.seconds >= GAIN * one.seconds and one.seconds < best.seconds:
            best = one
    why = "" if best is fp32 else f" ({fp32.seconds / best.seconds:.2f} x fp32, gradient off by {_shown(best.gradient_error)})"
    parts = [f"precision: {best.name}{why}"]
    for one in measured:
        if one not in (fp32, best):
            note = "" if one.is_close else " (too far off)"
            parts.append(f"{one.name} {fp32.seconds / one.seconds:.2f} x, {_shown(one.gradient_error)}{note}")
    return Choice(best.name, "; ".join(parts))


def probe_objective(
    objective: Objective,
    batches: Iterable[Batch],
    device: torch.device = CPU,
    candidates: Sequence[Precision] = CANDIDATES,
    rounds: int = 3,
) -> list[Measured]:
    """Measures each precision on batches of an objective; nothing of the objective is changed, nor of the random numbers.

    Times are those of training, each round on another batch: libraries that prepare something for every new shape do so in a
    run as well. Errors are those of the first batch in eval mode, so that no precision has other noise than another. As many
    batches are taken as rounds are timed, `rounds` at least, and the first one again where there are fewer.
    """
    parameters = [p for p in objective.parameters() if p.requires_grad]
    following = iter(batches)
    first = next(following)

    def step_on(batch: Batch) -> Step:
        def step(precision: Precision) -> Result:
            with precision.autocast(device):
                loss = objective(batch).loss
            return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)  # leaves .grad alone

        return step

    with left_as_it_was(objective, device):
        objective.eval()
        errors = relative_errors(candidates, step_on(first), device)
        objective.train()
        seconds = median_seconds(candidates, map(step_on, chain(following, repeat(first))), device, rounds)
    return [Measured(p.name, s, *e) for p, s, e in zip(candidates, seconds, errors, strict=True)]


def relative_errors(candidates: Sequence[Precision], step: Step, device: torch.device) -> list[tuple[float, float]]:
    """The relative errors of loss and gradient of each candidate against the first, with the same random numbers."""
    state = random_state(device)

    def result(precision: Precision) -> Result:
        restore_random_state(state)
        with precision.products():
            return step(precision)

    loss, gradients = result(candidates[0])
    errors = [(0.0, 0.0)]
    # One result at a time, since each is as large as the model.
    for precision in candidates[1:]:
        other_loss, other_gradients = result(precision)
        errors.append((_relative_error([other_loss], [loss]), _relative_error(other_gradients, gradients)))
    return errors


def median_seconds(
    candidates: Sequence[Precision], steps: Iterable[Step], device: torch.device, rounds: int = 3, at_least: float = 0.5
) -> list[float]:
    """The median time of some steps in each precision, taken in turn, so that a slow moment of the machine meets all of them.

    Each must have been computed once before, so that nothing is loaded for the first time. It ends after so many rounds, a step
    each, and seconds.
    """
    seconds = _device_seconds if device.type == "cuda" else _cpu_seconds
    started = time.monotonic()
    times: list[list[float]] = []
    for step in steps:
        times.append([seconds(step, precision, device) for precision in candidates])
        if len(times) >= rounds and time.monotonic() - started >= at_least:
            break
    return list(map(statistics.median, zip(*times, strict=True)))


@contextmanager
def left_as_it_was(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Puts back a module's modes, buffers and other attributes, and the states of all random numbers, however its block ends."""
    attributes: list[tuple[nn.Module, dict[str, Any]]] = []
    buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []
    for part in module.modules():
        attributes.append((part, {k: _copied(v) for k, v in vars(part).items() if k not in OF_TORCH}))
        buffers += [(part, name, buffer, buffer.clone()) for name, buffer in part.named_buffers(recurse=False)]
    try:
        with random_state_kept(device):
            yield
    finally:
        for part, kept in attributes:
            for name in vars(part).keys() - OF_TORCH - kept.keys():
                delattr(part, name)
            vars(part).update(kept)
        # Some parts change a buffer in place, others put another tensor in its place.
        for part, name, buffer, content in buffers:
            buffer.copy_(content)
            setattr(part, name, buffer)


def _copied(value: Any) -> Any:
    """A container that a forward pass adds to is copied, such as the losses of an update so far."""
    return copy(value) if isinstance(value, (list, dict, set, deque)) else value


def _relative_error(values: Sequence[Tensor | None], wanted: Sequence[Tensor | None]) -> float:
    """The norm of the difference over the norm of the wanted values; infinite if anything is not finite."""
    off = norm = 0.0
    for a, b in zip(values, wanted, strict=True):
        if a is not None and b is not None:
            off += float((a.double() - b.double()).square().sum())
            norm += float(b.double().square().sum())
    error = math.sqrt(off) / math.sqrt(norm) if norm else math.sqrt(off)
    return error if math.isfinite(error) else math.inf


def _cpu_seconds(step: Step, precision: Precision, device: torch.device) -> float:
    """CPU seconds of this process, which another process's load does not lengthen."""
    started = time.process_time()
    with precision.products():
        step(precision)
    return time.process_time() - started


def _device_seconds(step: Step, precision: Precision, device: torch.device) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record(torch.cuda.current_stream(device))
    with precision.products():
        step(precision)
    end.record(torch.cuda.current_stream(device))
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def _shown(error: float) -> str:
    """2e-7, 0.8 %."""
    if not math.isfinite(error):
        return "not finite"
    return f"{100 * error:.1f} %" if error >= 1e-3 else f"{error:.0e}".replace("e-0", "e-")
