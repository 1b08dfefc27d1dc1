"""What a step of the optimizer does to the loss of held-out examples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from msd_framework.engine.distributed import World
from msd_framework.engine.labels import parts_of_update
from msd_framework.engine.precision import Precision
from msd_framework.engine.update_map import factor_of, pull_back, pull_back_clipping
from msd_framework.models.base import evaluated
from msd_framework.objectives.base import Objective
from msd_framework.randomness import random_state_kept
from msd_framework.schedules import Mean
from msd_framework.structures import Batch


class Batches(Protocol):
    def starting_at(self, update: int) -> Iterator[Batch]: ...


HeldOutLoss: TypeAlias = Callable[[Batch], Tensor]  # a scalar


class LookAhead:
    r"""The derivative of the loss of held-out examples after an update with respect to the gradient of that update.

    .. math:: u = \left(\frac{\partial \theta'}{\partial g}\right)^\top \nabla_{\theta'} \ell_\mathrm{held\ out}(\theta')

    with :math:`\theta'` the parameters after the update, and g its gradient before clipping. A weight w of a loss D in what was
    minimised then has the derivative :math:`\langle u, \nabla_\theta D \rangle`. The student is
    in eval mode on held-out examples.

    Raises:
        ValueError: if the optimizer's step has no derivative here, or something changes the gradients on their way to it.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Batches,  # held-out examples, a batch a look, shared out to the processes as training batches are
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

    def direction(self, loss: HeldOutLoss, update: int, precision: Precision, norm: Tensor | None) -> dict[str, Tensor]:
        """u, by the names of the objective's parameters that learn, the mean over all processes.

        Args:
            update: the number of the update whose step was just made, from 0; its gradients, clipped, must still be there.
            norm: that of its gradient before it was clipped, where it was.
        """
        if self.parts is None:
            assert self.objective.held_out is not None
            self.parts = self.batches.starting_at(update // self.objective.held_out.every)
        (batch,) = parts_of_update(self.parts, 1, self.world)
        named = {n: p for n, p in self.objective.named_parameters() if p.requires_grad}
        parameters = list(named.values())
        with evaluated(self.objective), precision.autocast(self.world.device):
            value = loss(batch)
        gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
        # older versions of torch make up zeros that want a gradient
        means = self.world.means([g.detach() for g in gradients])
        direction = pull_back(self.optimizer, parameters, means)
        if self.clip_norm is not None:
            assert norm is not None
            pull_back_clipping(direction, [p.grad for p in parameters], norm, self.clip_norm)
        return dict(zip(named, direction))


@dataclass(frozen=True)
class OptimizerStep:
    """The step of the optimizer that was just made, as `UpdateHook.after_step` sees it."""

    update: int  # its number, from 0
    precision: Precision
    norm: Tensor  # that of its gradient before it was clipped
    world: World
    held_out: LookAhead | None  # differentiates a loss of held-out examples; None without any

    @property
    def mean(self) -> Mean:
        return self.world.mean

    def autocast(self) -> torch.autocast:
        return self.precision.autocast(self.world.device)

    def look_ahead(self, held_out_loss: HeldOutLoss) -> dict[str, Tensor]:
        if self.held_out is None:
            raise ValueError("there are no held-out examples, since `held_out` of the objective is None.")
        return self.held_out.direction(held_out_loss, self.update, self.precision, self.norm)


@contextmanager
def undone(objective: Objective, optimizer: Optimizer, device: torch.device) -> Iterator[None]:
    """Takes back at its end what an update has changed: what is trained, the optimizer, the model's statistics, random numbers."""
    tensors = [*(p for p in objective.parameters() if p.requires_grad), *objective.model.buffers()]
    contents, state = [t.detach().clone() for t in tensors], copy.deepcopy(optimizer.state_dict())
    with random_state_kept(device):
        yield
    with torch.no_grad():
        for tensor, content in zip(tensors, contents):
            tensor.copy_(content)
    optimizer.load_state_dict(state)
