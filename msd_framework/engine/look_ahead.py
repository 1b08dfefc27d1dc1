"""What an update does to the loss of held-out examples, told to an objective that learns from it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from msd_framework.engine.distributed import World
from msd_framework.engine.labels import parts_of_update
from msd_framework.engine.precision import Precision
from msd_framework.engine.random_state import random_state, restore_random_state
from msd_framework.engine.update_map import factor_of, pull_back, pull_back_clipping
from msd_framework.objectives.base import Objective
from msd_framework.structures import Batch


class Batches(Protocol):
    """Where batches are taken from."""

    def starting_at(self, update: int) -> Iterator[Batch]: ...


class LookAhead:
    r"""Goes back from the loss of held-out examples after an update to the gradient that the update was made with.

    .. math:: u = \left(\frac{\partial \theta'}{\partial g}\right)^\top \nabla_{\theta'} \ell_\mathrm{held\ out}(\theta')

    with :math:`\theta'` the parameters after the update, and g its gradient before it was clipped. A weight w that stands
    before a loss D in what was minimised then has the derivative :math:`\langle u, \nabla_\theta D \rangle`. The student is
    in eval mode on held-out examples.

    Args:
        objective: learns from it.
        batches: held-out examples, a batch a look.
        optimizer: makes the updates.
        world: this process among all; held-out batches are shared out as training batches are.
        clip_norm: the largest norm of the gradient; None does not clip.

    Raises:
        ValueError: if the optimizer's step has no derivative here, or something changes the gradients on their way to it.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Batches,
        optimizer: Optimizer,
        world: World | None = None,
        clip_norm: float | None = None,
    ):
        factor_of(optimizer)
        if getattr(objective, "modulation", None) is not None:
            raise ValueError("learned weights do not know what `modulation` does to the gradients. Take one of the two.")
        self.objective, self.batches, self.optimizer = objective, batches, optimizer
        self.world, self.clip_norm = world or World(), clip_norm
        self.parts: Iterator[Batch] | None = None

    def __call__(self, update: int, precision: Precision, norm: Tensor | None = None) -> None:
        """Lets the objective learn from an update that was just made, if it looks; gradients must still be there.

        Args:
            update: its number, from 0.
            precision: what it was computed in.
            norm: that of its gradient before it was clipped, where it was.
        """
        held_out = self.objective.held_out
        if held_out is None or not self.objective.looks_ahead:
            return
        if self.parts is None:
            self.parts = self.batches.starting_at(update // held_out.every)
        named = {n: p for n, p in self.objective.named_parameters() if p.requires_grad}
        parameters = list(named.values())
        (batch,) = parts_of_update(self.parts, 1, self.world)
        with _in_eval_mode(self.objective), precision.autocast(self.world.device):
            loss = self.objective.held_out_loss(batch)
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
        gradients = self.mean(tuple(g.detach() for g in found))  # zeros that older versions made up want a gradient
        direction = pull_back(self.optimizer, parameters, gradients)
        if self.clip_norm is not None:
            assert norm is not None
            pull_back_clipping(direction, [p.grad for p in parameters], norm, self.clip_norm)
        with precision.autocast(self.world.device):
            self.objective.learn(dict(zip(named, direction)), self.world.mean)

    def mean(self, gradients: tuple[Tensor, ...]) -> list[Tensor]:
        """Gradients averaged over the processes."""
        if self.world.size == 1:
            return list(gradients)
        whole = self.world.mean(torch.cat([g.flatten() for g in gradients]))
        return [part.view_as(g) for part, g in zip(torch.split(whole, [g.numel() for g in gradients]), gradients)]


@contextmanager
def undone(objective: Objective, optimizer: Optimizer, device: torch.device) -> Iterator[None]:
    """Takes back at its end what an update has changed: what is trained, the optimizer, the model's statistics, random numbers."""
    tensors = [*(p for p in objective.parameters() if p.requires_grad), *objective.model.buffers()]
    kept, state, random = [t.detach().clone() for t in tensors], copy.deepcopy(optimizer.state_dict()), random_state(device)
    yield
    with torch.no_grad():
        for tensor, content in zip(tensors, kept):
            tensor.copy_(content)
    optimizer.load_state_dict(state)
    restore_random_state(random)


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(inner, inner.training) for inner in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for inner, training in modes:
            inner.training = training
