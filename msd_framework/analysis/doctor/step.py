"""The cost of a training step, whether its numbers are finite, and whether some updates change a batch's loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from msd_framework.analysis.doctor.finding import Finding, listed
from msd_framework.analysis.doctor.models import not_finite
from msd_framework.engine.precision import Precision
from msd_framework.objectives.base import Objective
from msd_framework.objectives.distillation import DistillationObjective
from msd_framework.structures import Batch

ROUNDS, MOST_SECONDS = 3, 5.0  # how often a step is timed, and after how many seconds no more
STILL = 0.01  # the share of a batch's loss that updates on it take away where the learning rate moves something

COLUMNS = ("precision", "teacher", "student", "activations", "GPU peak", "loss", "gradients")


@dataclass(frozen=True)
class StepCheck:
    """The cost of a training step, and whether its numbers are finite."""

    precision: str
    teacher_seconds: float | None  # the teacher's outputs on all views of the step; None without a teacher
    student_seconds: float  # forward and backward pass of the whole step less that, the median
    activations: float  # megabytes that the forward pass keeps for the backward pass
    peak: float | None  # megabytes of the GPU at the step's worst moment; None on a CPU
    loss: float
    terms: Mapping[str, float]  # what it logs
    not_finite: tuple[str, ...]  # names of parameters whose gradient holds NaN or infinity
    without_gradient: tuple[str, ...]  # trained parameters of the student that the step does not reach
    lr: float = 0.0  # the learning rate at its highest
    losses: tuple[float, ...] = ()  # of the batch, before and after each of some updates on it alone


def measure(
    objective: Objective, batch: Batch, ask_teacher: Callable[[], object] | None, precision: Precision, device: torch.device
) -> StepCheck:
    """Measures a step in training mode that changes no weights; `ask_teacher` is its teacher's part."""
    objective.zero_grad(set_to_none=True)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    with precision.products(), kept(objective) as sizes:
        with precision.autocast(device):
            output = objective(batch)
        activations = sum(sizes.values()) / 1e6
        output.loss.backward()
    peak = torch.cuda.max_memory_allocated(device) / 1e6 if cuda else None
    loss = float(output.loss.detach())
    terms = {name: float(value) for name, value in output.terms.items()}
    bad = not_finite({name: p.grad for name, p in objective.named_parameters()})
    unreached = tuple(n for n, p in objective.model.named_parameters() if p.requires_grad and p.grad is None)
    del output
    forget(objective)

    def step() -> None:
        objective.zero_grad(set_to_none=True)
        with precision.products():
            with precision.autocast(device):
                again = objective(batch).loss
            again.backward()
        forget(objective)

    whole, teacher = seconds_of(step, device), None
    if ask_teacher is not None:
        with precision.active(device), torch.no_grad():
            teacher = seconds_of(ask_teacher, device)
    objective.zero_grad(set_to_none=True)
    student = max(whole - (teacher or 0.0), 0.0)
    return StepCheck(precision.name, teacher, student, activations, peak, loss, terms, bad, unreached)


def losses_of_updates(objective: Objective, batch: Batch, optimizer: Optimizer, num_updates: int) -> tuple[float, ...]:
    """The losses of a batch before and after each update on it alone, in eval mode; changes the student."""
    objective.eval()
    losses, started = [], time.perf_counter()
    for _ in range(num_updates + 1):
        loss = objective(batch).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        forget(objective)
        if time.perf_counter() - started > MOST_SECONDS:
            break
    return tuple(losses)


def judge(step: StepCheck) -> Iterator[Finding]:
    if not math.isfinite(step.loss):
        bad = [name for name, value in step.terms.items() if not math.isfinite(value)]
        text = f"the loss is {step.loss}" + (f", by {listed(bad)}" if bad else "")
        yield Finding("objective", text, "a finite number", "Look at the terms that are not finite, and at both models' answers.")
    elif step.not_finite:
        text = f"the gradients of {listed(step.not_finite)} hold NaN or infinity"
        yield Finding("objective", text, "finite numbers", "Take training.precision=fp32, or another loss.")
    if step.without_gradient:
        text = f"the step reaches {len(step.without_gradient)} of its trained parameters not: {listed(step.without_gradient)}"
        yield Finding("student", text, "", "They stay as they are.", False)
    if step.losses and all(map(math.isfinite, step.losses)):
        first, last = step.losses[0], step.losses[-1]
        if last > first - STILL * abs(first):
            went = f"{len(step.losses) - 1} updates on one batch take its loss from {first:.4f} to {last:.4f}"
            way = "so next to nothing moves" if last < 2 * first else "so it leaves what it learned"
            hint = "weights from scratch usually learn at 1e-3, published ones at 5e-5"
            yield Finding("optimizer.lr", f"{went}: at {step.lr:g} {way}", "", f"Try others: {hint}.", False)


def row(step: StepCheck) -> list[str]:
    return [
        step.precision,
        "" if step.teacher_seconds is None else f"{1000 * step.teacher_seconds:.1f} ms",
        f"{1000 * step.student_seconds:.1f} ms",
        f"{step.activations:.2f} MB",
        "" if step.peak is None else f"{step.peak:.0f} MB",
        f"{step.loss:.4f}",
        "not finite" if step.not_finite else "finite",
    ]


def forget(objective: Objective) -> None:
    """Drops passes that weights would have been learned from at the end of an update."""
    if isinstance(objective, DistillationObjective):
        objective.traced.clear()


@contextmanager
def kept(module: nn.Module) -> Iterator[dict[int, int]]:
    """The bytes that forward passes keep for backward passes, by where they lie; parameters are not counted.

    >>> layer = nn.Linear(2, 3)
    >>> with kept(layer) as sizes:
    ...     output = layer(torch.ones(5, 2)).sigmoid()
    >>> sum(sizes.values())  # the input and the sigmoid: 5 x (2 + 3) numbers of 4 bytes
    100
    """
    own, sizes = {p.untyped_storage().data_ptr() for p in module.parameters()}, dict[int, int]()

    def pack(values: Tensor) -> Tensor:
        storage = values.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return values

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
        yield sizes


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """The median time of a call, of up to `ROUNDS` of them."""
    times: list[float] = []
    while len(times) < ROUNDS and sum(times) < MOST_SECONDS:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]
