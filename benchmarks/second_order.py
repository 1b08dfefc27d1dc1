"""Learned weights as they are written down: back through a step that was made with a graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from benchmarks.made import VIEWS
from benchmarks.timing import CPU
from msd_framework.engine.precision import Precision
from msd_framework.losses.logits import SoftenedKL
from msd_framework.maskers.base import Masker
from msd_framework.models.base import MultimodalModel
from msd_framework.structures import Batch, ModelOutput
from msd_framework.teachers.base import Teacher

LAMBDA = 0.5


def second_order(
    passes: Passes, optimizer: torch.optim.Optimizer, teacher: Teacher, held_out: Batch, precision: Precision
) -> Tensor:
    """One update of modality-specific distillation with all weights at 1, and the gradient of each example's weights, [V, B].

    The look-ahead is a step of AdamW from the optimizer's state, as differentiable operations; the update itself is made with
    the gradients that the look-ahead was made with.

    Args:
        passes: the student on all views of a batch.
        optimizer: the student's.
        teacher: knows the batch.
        held_out: other examples.
        precision: what is computed in.
    """
    model, batch, loss = passes.model, passes.batch, SoftenedKL()
    parameters = dict(model.named_parameters())
    optimizer.zero_grad()
    with precision.autocast(CPU):
        student, taught = passes(), teacher.predict(batch, VIEWS).logits
        distill = torch.stack([loss(ModelOutput(s), ModelOutput(t)) for s, t in zip(student, taught)])  # [V, B]
        w = torch.ones_like(distill).requires_grad_()
        task = F.cross_entropy(student[0], batch.targets, reduction="none")
        value = ((1 - LAMBDA) * task + LAMBDA * (w * distill).sum(0)).mean()
    gradients = torch.autograd.grad(value, list(parameters.values()), create_graph=True)
    moved = {name: ahead(optimizer, p, g) for (name, p), g in zip(parameters.items(), gradients)}
    training = model.training
    model.eval()
    with precision.autocast(CPU):
        after = F.cross_entropy(functional_call(model, moved, (held_out.inputs,)).logits, held_out.targets)
    model.train(training)
    (gradient,) = torch.autograd.grad(after, w)
    for p, g in zip(parameters.values(), gradients):
        p.grad = g.detach()
    optimizer.step()
    return gradient


class Passes(nn.Module):
    """A student's logits on all views of a batch, [V, B, C]."""

    def __init__(self, model: MultimodalModel, masker: Masker, batch: Batch):
        super().__init__()
        self.model, self.masker, self.batch = model, masker, batch

    def forward(self) -> Tensor:
        return self.model.forward_views([self.masker.view(self.batch, v).inputs for v in VIEWS]).logits


def ahead(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
    """Where AdamW leads with a gradient that has a graph."""
    (group,) = (g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    state, (beta1, beta2) = optimizer.state.get(parameter, {}), group["betas"]
    count = float(state.get("step", 0)) + 1
    mean = beta1 * state.get("exp_avg", 0.0) + (1 - beta1) * gradient
    square = beta2 * state.get("exp_avg_sq", 0.0) + (1 - beta2) * gradient.square()
    root = (square / (1 - beta2**count) + 1e-16).sqrt()
    decayed = parameter * (1 - group["lr"] * group["weight_decay"])
    return decayed - group["lr"] * mean / (1 - beta1**count) / (root + group["eps"])
