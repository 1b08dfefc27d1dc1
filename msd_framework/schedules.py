"""How far a run is, numbers that change as it goes, and the hooks around an update."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Literal, Protocol, TypeAlias, cast

from torch import Tensor, nn

from msd_framework.errors import did_you_mean
from msd_framework.structures import Batch

Number: TypeAlias = float | dict[str, float | str]
"""A number, or one that changes over the run: ``{start: 4, end: 1}``, with the other options of `Schedule`."""

Shape: TypeAlias = Literal["linear", "cosine"]

Mean: TypeAlias = Callable[[Tensor], Tensor]
"""The mean of a tensor over the processes that train together; all of them must ask for it."""

SHAPES: dict[str, Callable[[float], float]] = {"linear": lambda x: x, "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2}


@dataclass(frozen=True)
class Progress:
    """How far a run is: updates so far, and of the whole run."""

    update: int
    num_updates: int

    @property
    def share(self) -> float:
        """The part of the run that is done, from 0 at its first update towards 1."""
        return self.update / self.num_updates


@dataclass(frozen=True)
class HeldOut:
    """Training examples outside the batches, from which an objective learns how to weigh those inside."""

    share: float  # of the training examples, above 0 and below 1
    batch_size: int  # over all processes
    every: int = 1  # updates from one batch of them to the next
    rehearsed: bool = False  # whether such an update is made twice: on trial, to learn from where it leads, and in earnest


@dataclass(frozen=True)
class Schedule:
    r"""A number that stays, changes, and stays again.

    .. math:: a(t) = a_0 + (a_1 - a_0) \, s\left(\min\left(1, \max\left(0, \frac{t - t_0}{d}\right)\right)\right)

    with :math:`t` the part of the run that is done, and :math:`s(x) = x` (`linear`) or
    :math:`s(x) = \tfrac12 (1 - \cos \pi x)` (`cosine`).

    Args:
        start: :math:`a_0`, what it is until it begins to change.
        end: :math:`a_1`, what it is afterwards.
        begin: :math:`t_0`, the part of the run after which it begins to change, at least 0 and below 1.
        over: d, the part of the run that the change takes, above 0; below 1 - begin, it stays at its end for the rest.
        shape: `linear` or `cosine`.

    >>> fall = Schedule(4.0, 1.0, begin=0.25, over=0.5)
    >>> [fall.at(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    [4.0, 4.0, 2.5, 1.0, 1.0]
    """

    start: float
    end: float
    begin: float = 0.0
    over: float = 1.0
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        if not 0 <= self.begin < 1:
            raise ValueError(f"begin must be at least 0 and below 1, got {self.begin}.")
        if not 0 < self.over <= 1:
            raise ValueError(f"over must be above 0 and at most 1, got {self.over}.")
        if self.shape not in SHAPES:
            raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {self.shape!r}.{did_you_mean(self.shape, SHAPES)}")

    @classmethod
    def parse(cls, name: str, number: Number) -> Schedule:
        """A schedule from its place in a YAML; a plain number is one that never changes."""
        if not isinstance(number, dict):
            return cls(number, number)
        known = {f.name: f.type for f in fields(cls)}
        for key, value in number.items():
            if key not in known:
                raise ValueError(f"{name}: has no option {key!r}.{did_you_mean(key, known)} It takes: {', '.join(known)}.")
            if isinstance(value, str) != (key == "shape"):
                raise ValueError(f"{name}: {key} must be a {'name' if key == 'shape' else 'number'}, got {value!r}.")
        if "start" not in number or "end" not in number:
            raise ValueError(f"{name}: needs a start and an end, got {number}.")
        shape, numbers = number.get("shape", "linear"), {k: cast(float, v) for k, v in number.items() if k != "shape"}
        try:
            return cls(**numbers, shape=cast(Shape, shape))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def at(self, share: float) -> float:
        x = min(1.0, max(0.0, (share - self.begin) / self.over))
        return self.start + (self.end - self.start) * SHAPES[self.shape](x)


class Step(Protocol):
    """The step of the optimizer that was just made, while the gradients that it was made with are still there."""

    @property
    def mean(self) -> Mean: ...

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the forward passes of the update were made."""

    def look_ahead(self, held_out_loss: Callable[[Batch], Tensor]) -> Mapping[str, Tensor]:
        """The derivative of a held-out loss after the step by the gradient that it was made with, before clipping: by the
        names of the objective's parameters that learn, the same on every process.
        """


class UpdateHook(nn.Module):
    """A part of an objective, however deep in it, that does something in each update.

    On every process, the runner calls the hooks of all parts in this order:

    - `begin_update`
    - forward and backward passes, one for each part of an accumulated batch
    - `after_backward`, then gradients are clipped and the optimizer makes its step
    - `after_step`, then gradients are dropped
    - `end_update`
    """

    def begin_update(self, progress: Progress) -> None:
        """Before the forward passes of an update."""

    def after_backward(self, mean: Mean) -> None:
        """May change the gradients, in the same way on every process."""

    def after_step(self, step: Step) -> None:
        """May look at the step and its gradients. An update that is rehearsed makes two steps, the first of which is undone."""

    def end_update(self, mean: Mean) -> None:
        """May keep what it has learned in an update, the same on every process."""


class Scheduled(UpdateHook):
    """A number, `value`, that an objective's part reads in each forward pass, and that a run may change as it goes."""

    def __init__(self, name: str, number: Number):
        super().__init__()
        self.schedule = Schedule.parse(name, number)
        self.value = self.schedule.at(0.0)

    def begin_update(self, progress: Progress) -> None:
        self.value = self.schedule.at(progress.share)

    @property
    def ends(self) -> tuple[float, float]:
        """Where it starts and where it ends, between which it stays."""
        return self.schedule.start, self.schedule.end

    def extra_repr(self) -> str:
        return str(self.value) if self.schedule.start == self.schedule.end else str(self.schedule)


def positive_scheduled(name: str, number: Number) -> Scheduled:
    """A number that is above 0 throughout."""
    scheduled = Scheduled(name, number)
    for value in scheduled.ends:
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0, got {value}.")
    return scheduled


def share_scheduled(name: str, number: Number) -> Scheduled:
    """A number that is between 0 and 1 throughout."""
    scheduled = Scheduled(name, number)
    for value in scheduled.ends:
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {value}.")
    return scheduled
