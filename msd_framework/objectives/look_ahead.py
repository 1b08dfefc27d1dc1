"""A student's pass over its views that can be traced along a direction of its parameters, after it was gone back through."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from msd_framework.models.base import MultimodalModel
from msd_framework.models.layers.recorded import Direction, RecordedViews, called_with
from msd_framework.randomness import random_numbers_apart
from msd_framework.structures import Inputs

Losses: TypeAlias = Callable[[Tensor], Tensor]
"""The losses of V views, [V, B], of a student's logits on its V' distinct views, [V', B, C]."""


class TracedPass(ABC):
    """A pass of a student that can be traced along a direction.

    Attributes:
        logits: the student's on its V' distinct views, [V', B, C].
    """

    logits: Tensor

    def weighed(self, losses: Losses, factors: Tensor) -> TracedPass:
        """Says what was made of the logits: losses, each of which counts by a factor, [V, B], in what was gone back through."""
        self.losses, self.factors = losses, factors
        return self

    @abstractmethod
    def slopes(self, direction: Direction, share: float) -> Tensor:
        """How fast each view's loss of each example, times its factor, changes along a direction, [V, B].

        Args:
            direction: by the names of the objective's parameters; what is not in it is 0.
            share: what part of the loss that was gone back through the pass is.
        """


class Recorded(TracedPass):
    """One whose inner products are known from what was kept of it: no second pass.

    Args:
        recorded: the pass.
        own: for each of the V views, its row of logits, which nothing else than its loss has looked at; None where its slope is
            not asked for.
    """

    def __init__(self, recorded: RecordedViews, own: Sequence[int | None]):
        self.recorded, self.own, self.logits = recorded, own, recorded.logits

    def slopes(self, direction: Direction, share: float) -> Tensor:
        named = {n.removeprefix(MODEL): x for n, x in direction.items()}
        products = self.recorded.products(named)  # [V', B]; what was gone back through has factors and share in it
        return torch.stack([torch.zeros_like(products[0]) if i is None else products[i] for i in self.own])


class Replayed(TracedPass):
    """One that is made again with the same parameters and random numbers, by forward-mode derivatives.

    Args:
        objective: has the model that passes, and whatever else has parameters.
        inputs: of the V' distinct views.
    """

    def __init__(self, objective: nn.Module, model: MultimodalModel, inputs: Sequence[Inputs]):
        self.objective, self.model, self.inputs = objective, model, inputs
        self.parameters = {n: p.detach().clone() for n, p in objective.named_parameters() if p.requires_grad}
        self.device = next(iter(self.parameters.values())).device
        self.random = _random_state(self.device)
        self.logits = model.forward_views(inputs).logits

    def slopes(self, direction: Direction, share: float) -> Tensor:
        def again() -> Tensor:
            return self.losses(self.model.forward_views(self.inputs).logits)

        with torch.no_grad(), _same_random_numbers(self.random, self.device), forward_ad.dual_level():
            moving = {n: _moving(p, direction[n]) for n, p in self.parameters.items() if n in direction}
            losses = called_with(self.objective, moving, again)
            slopes: Tensor = forward_ad.unpack_dual(losses).tangent  # type: ignore[no-untyped-call]
            return share * self.factors * slopes  # [V, B]


def trace(objective: nn.Module, model: MultimodalModel, inputs: Sequence[Inputs], own: Sequence[int | None] | None) -> TracedPass:
    """Makes a student's pass over its V' distinct views in the cheapest of the ways that are exact.

    Args:
        objective: holds the model under the name `model`.
        model: passes.
        inputs: of the distinct views.
        own: as `Recorded` wants it; None where there is no such row for each view that is asked for.
    """
    others = any(p.requires_grad and not n.startswith(MODEL) for n, p in objective.named_parameters())
    if own is not None and not others:
        recorded = model.record_views(inputs, {i for i in own if i is not None})
        if recorded is not None:
            return Recorded(recorded, own)
    return Replayed(objective, model, inputs)


MIXED = (
    "learned weights ask what each example does to an update, and a batch norm that learns mixes those of a batch. Freeze it "
    "(freeze_batch_norm), or take another weighting."
)
"""Why some models cannot be traced."""

MODEL = "model."
"""What the names of a model's parameters begin with in its objective."""


def _moving(x: Tensor, direction: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, when it first loads its forward mode
        dual: Tensor = forward_ad.make_dual(x, direction)  # type: ignore[no-untyped-call]
        return dual


def _random_state(device: torch.device) -> Mapping[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


@contextmanager
def _same_random_numbers(state: Mapping[str, Tensor], device: torch.device) -> Iterator[None]:
    """While this lasts, torch draws what it drew after a state was taken."""
    with random_numbers_apart(device=device):
        torch.set_rng_state(state["cpu"])
        if "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], device)
        yield
