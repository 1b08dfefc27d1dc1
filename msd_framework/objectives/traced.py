"""A student's pass over its views, whose losses are differentiated along a direction of its parameters after the backward pass."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from msd_framework.models.base import MultimodalModel
from msd_framework.models.layers.recorded import Direction, RecordedViews, called_with
from msd_framework.randomness import random_state, random_state_kept, restore_random_state
from msd_framework.structures import Inputs

# the losses of V views, [V, B], of a student's logits on its V' distinct views, [V', B, C]
Losses: TypeAlias = Callable[[Tensor], Tensor]

MODEL = "model."  # what the names of a model's parameters begin with in its objective

# why some models cannot be traced
MIXED = (
    "learned weights ask what each example does to an update, and a batch norm that learns mixes those of a batch. Freeze it "
    "(freeze_batch_norm), or take another weighting."
)


class TracedPass(ABC):
    """A pass of a student that can be traced along a direction."""

    logits: Tensor  # on its V' distinct views, [V', B, C]

    def weighed(self, losses: Losses, factors: Tensor) -> TracedPass:
        """Takes the losses of the logits, and the factor, [V, B], of each in the loss that the backward pass was of."""
        self.losses, self.factors = losses, factors
        return self

    @abstractmethod
    def slopes(self, direction: Direction, share: float) -> Tensor:
        """How fast each view's loss of each example, times its factor, changes along a direction, [V, B].

        Args:
            direction: by the names of the objective's parameters; 0 for others.
            share: the pass's share of the loss that the backward pass was of: 1 / the parts of an accumulated batch.
        """


class Recorded(TracedPass):
    """A pass whose inner products follow from what its layers kept: no second pass.

    `own` has for each of the V views its row of logits, which no other loss reads; None where its slope is not wanted.
    """

    def __init__(self, recorded: RecordedViews, own: Sequence[int | None]):
        self.recorded, self.own, self.logits = recorded, own, recorded.logits

    def slopes(self, direction: Direction, share: float) -> Tensor:
        named = {n.removeprefix(MODEL): x for n, x in direction.items()}
        # Gradients that the backward pass left have factors and share in them.
        products = self.recorded.products(named)  # [V', B]
        return torch.stack([torch.zeros_like(products[0]) if i is None else products[i] for i in self.own])


class Replayed(TracedPass):
    """A pass over the V' distinct views that is made again with the same parameters and random numbers, in torch's forward mode."""

    def __init__(self, objective: nn.Module, model: MultimodalModel, inputs: Sequence[Inputs]):
        self.objective, self.model, self.inputs = objective, model, inputs
        self.parameters = {n: p.detach().clone() for n, p in objective.named_parameters() if p.requires_grad}
        self.device = next(iter(self.parameters.values())).device
        self.random_state = random_state(self.device)
        self.logits = model.forward_views(inputs).logits

    def slopes(self, direction: Direction, share: float) -> Tensor:
        def again() -> Tensor:
            return self.losses(self.model.forward_views(self.inputs).logits)

        with torch.no_grad(), random_state_kept(self.device), forward_ad.dual_level():
            restore_random_state(self.random_state)
            moving: dict[str, Tensor] = {}
            with warnings.catch_warnings():
                # torch warns of itself when it first loads its forward mode
                warnings.simplefilter("ignore", FutureWarning)
                for name, value in self.parameters.items():
                    if name in direction:
                        moving[name] = forward_ad.make_dual(value, direction[name])  # type: ignore[no-untyped-call]
            losses = called_with(self.objective, moving, again)
            slopes: Tensor = forward_ad.unpack_dual(losses).tangent  # type: ignore[no-untyped-call]
            return share * self.factors * slopes  # [V, B]


def trace(objective: nn.Module, model: MultimodalModel, inputs: Sequence[Inputs], own: Sequence[int | None] | None) -> TracedPass:
    """A student's pass over its V' distinct views, by the cheaper of the two ways where it is exact.

    Args:
        objective: holds the model under the name `model`.
        own: as for `Recorded`; None where some wanted view has no such row.
    """
    others = any(p.requires_grad and not n.startswith(MODEL) for n, p in objective.named_parameters())
    if own is not None and not others:
        recorded = model.record_views(inputs, {i for i in own if i is not None})
        if recorded is not None:
            return Recorded(recorded, own)
    return Replayed(objective, model, inputs)
