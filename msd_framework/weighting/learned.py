"""Weights that are learned: by how much they help an update to lower the loss of examples that are held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from msd_framework.errors import did_you_mean
from msd_framework.losses.base import at_least_float32
from msd_framework.losses.distributions import log_bernoulli, log_softmax
from msd_framework.randomness import random_numbers_apart
from msd_framework.ranges import not_negative, positive
from msd_framework.saliency.base import Saliency
from msd_framework.saliency.prediction import DropSaliency
from msd_framework.schedules import HeldOut, Mean, Progress
from msd_framework.structures import Outcomes, Setting, Task, outcomes_of
from msd_framework.views import FULL, View
from msd_framework.weighting.base import WEIGHTINGS, Evidence, WeightingStrategy
from msd_framework.weighting.saliency import saliency_problems, view_saliency

Input: TypeAlias = Literal["view", "loss", "teacher_loss", "entropy", "probabilities", "saliency"]
INPUTS: tuple[str, ...] = get_args(Input)


class WeightInputs:
    """F numbers for each view of each example."""

    def __init__(self, names: Sequence[str], num_views: int, num_classes: int, task: Task, outcomes: Outcomes | None = None):
        if not names:
            raise ValueError(f"inputs must name at least one of {', '.join(INPUTS)}, got none.")
        for name in names:
            if name not in INPUTS:
                raise ValueError(f"inputs must be of {', '.join(INPUTS)}, got {name!r}.{did_you_mean(name, INPUTS)}")
        sizes = {"view": num_views, "probabilities": num_classes}
        self.names, self.size = tuple(names), sum(sizes.get(name, 1) for name in names)
        self.outcomes = outcomes_of(task, outcomes)

    def __call__(self, evidence: Evidence) -> Tensor:
        """The inputs, [V, B, F], in the precision of the losses."""
        return torch.cat([self._read(name, evidence).to(evidence.losses) for name in self.names], -1)

    def _read(self, name: str, evidence: Evidence) -> Tensor:
        """One of the inputs, [V, B, 1], [V, B, V] of `view` or [V, B, C] of `probabilities`."""
        if name == "view":
            num_views, num_examples = evidence.losses.shape
            rows = torch.arange(num_views, device=evidence.losses.device)[:, None].expand(-1, num_examples)
            return F.one_hot(rows, num_views)
        if name == "loss":
            return evidence.losses[..., None]
        if name == "teacher_loss":
            return evidence.teacher_losses[..., None]
        if name == "saliency":
            assert evidence.saliency is not None
            return view_saliency(evidence.saliency, evidence.modalities, evidence.views)[..., None]
        # of the outcomes that exclude each other: C classes, or yes and no of each label
        logits = at_least_float32(evidence.teacher)
        log_p = log_softmax(logits) if self.outcomes == "softmax" else log_bernoulli(logits)  # [V, N, C] or [V, N, C, 2]
        if name == "probabilities":
            return log_p.exp() if self.outcomes == "softmax" else log_p.exp()[..., 0]
        entropy = -(log_p.exp() * log_p).sum(-1)  # [V, N] or [V, N, C]
        return entropy[..., None] if self.outcomes == "softmax" else entropy.mean(-1, keepdim=True)


class Adam(nn.Module):
    r"""Adam of P parameters with decoupled decay (Loshchilov & Hutter, ICLR 2019), the same as torch's AdamW.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        \theta &\leftarrow (1 - \eta \lambda) \theta - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    with :math:`\beta_1 = 0.9, \beta_2 = 0.999`, and :math:`\epsilon = 10^{-12}`, so that gradients may be very small; P is `size`.
    """

    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, size: int, lr: float = 1e-3, weight_decay: float = 0.0):
        super().__init__()
        positive(lr=lr)
        not_negative(weight_decay=weight_decay)
        self.lr, self.weight_decay = lr, weight_decay
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("square", torch.zeros(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, parameters: Tensor, gradient: Tensor) -> Tensor:
        """The parameters [P] one step on."""
        # torch's own AdamW rounds the squares otherwise (parameters differ by up to 1e-5 of their size after 50 steps in
        # float32), so runs of learned weights would no longer give the weights that they gave
        self.count += 1
        self.mean.lerp_(gradient, 0.1)
        self.square.lerp_(gradient.square(), 0.001)
        mean, square = self.mean / (1 - 0.9**self.count), self.square / (1 - 0.999**self.count)
        return (1 - self.lr * self.weight_decay) * parameters - self.lr * mean / (square.sqrt() + 1e-12)


@WEIGHTINGS.register("learned")
class LearnedWeights(WeightingStrategy):
    r"""A small net makes the weights, and learns from held-out training examples.

    .. math::
        w_v(x) = W \, \sigma\big(\mathrm{net}_\phi(\mathrm{inputs}_v(x))\big), \qquad
        \phi \leftarrow \phi - \mathrm{Adam}\Big(\nabla_\phi \, \ell_\mathrm{held\ out}\big(\theta'(\phi)\big)\Big)

    with :math:`\theta'` the student's parameters after one step of its own optimizer with these weights, and net two linear
    layers with a ReLU in between (Shu et al., Meta-Weight-Net, NeurIPS 2019, arXiv:1902.07379, algorithm 1; weight learning
    in Jin et al., 2021, arXiv:2101.01881, is of this kind). The gradient is exact: docs/learned_weights.md. All weights begin
    at W / 2, as the net's last layer begins at 0.

    Args:
        per: whether each `example` has weights of its own, or all share those of the `view`, from the update before.
        inputs: `view` (which one it is), `loss` (the distillation loss), `teacher_loss` (the teacher's task loss), `entropy` and
            `probabilities` (of the teacher's predictions), `saliency`; the view and the loss if null.
        held_out: the share of the training examples that is kept out of the batches and learned from, above 0 and below 1.
        held_out_batch_size: how many of them are in a batch, over all processes; 100 as published.
        every: updates from one change of the net to the next.
        order: whether the net learns `after` an update, for the next one, or `before`, from this one on trial, as published.
        hidden_size: features between the net's two layers.
        largest: W, above 0; 1 as published.
        full_weight: the weight of the view `full`, at least 0; learned as well if null.
        lr: the learning rate of the net's Adam, above 0.
        weight_decay: its weight decay, decoupled from the gradient, at least 0.
        saliency: S_m, where it is among the inputs; `drop` with the task's usual distance if null.
        num_classes: C.
        task: how targets are read.
        outcomes: how logits are read; as is usual for the task if null.
        seed: of the net's first weights.
    """

    net: nn.Sequential
    adam: Adam
    shown: Tensor

    def __init__(
        self,
        per: Literal["example", "view"] = "example",
        inputs: list[Input] | None = None,
        held_out: float = 0.1,
        held_out_batch_size: int = 32,
        every: int = 1,
        order: Literal["after", "before"] = "after",
        hidden_size: int = 100,
        largest: float = 2.0,
        full_weight: float | None = 1.0,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        saliency: Saliency | None = None,
        num_classes: int = 2,
        task: Task = "single_label",
        outcomes: Outcomes | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must be above 0 and below 1, got {held_out}.")
        positive(held_out_batch_size=held_out_batch_size, every=every, hidden_size=hidden_size, largest=largest, lr=lr)
        not_negative(full_weight=full_weight, weight_decay=weight_decay)
        self.names: list[str] = list(inputs or ["view", "loss"])
        WeightInputs(self.names, 1, num_classes, task, outcomes)  # refuses names that it does not know
        if saliency is not None and "saliency" not in self.names:
            raise ValueError(f"saliency is given and not among the inputs {', '.join(self.names)}. Add it, or leave it out.")
        self.saliency = (saliency or DropSaliency(task=task, outcomes=outcomes)) if "saliency" in self.names else None
        self.per, self.hidden_size, self.largest, self.full_weight = per, hidden_size, largest, full_weight
        self.lr, self.weight_decay, self.seed = lr, weight_decay, seed
        self.num_classes, self.task, self.outcomes = num_classes, task, outcomes
        self._held_out = HeldOut(held_out, held_out_batch_size, every, rehearsed=order == "before")
        self.inputs_of_parts: list[Tensor] = []  # the net's, in each part of an update that it learns from, [V', ..]
        self.means_of_parts: list[Tensor] = []  # the means of its inputs in each part of this update, [V, F]

    @property
    def held_out(self) -> HeldOut:
        return self._held_out

    def learned(self, views: tuple[View, ...]) -> tuple[bool, ...]:
        return tuple(self.full_weight is None or v.name != FULL for v in views)

    def prepare(self, views: tuple[View, ...]) -> None:
        self.inputs = WeightInputs(self.names, len(views), self.num_classes, self.task, self.outcomes)
        self.rows = [i for i, is_learned in enumerate(self.learned(views)) if is_learned]
        with random_numbers_apart(self.seed):  # all processes make the same net
            hidden, out = nn.Linear(self.inputs.size, self.hidden_size), nn.Linear(self.hidden_size, 1)
        nn.init.zeros_(out.weight)
        nn.init.zeros_(out.bias)
        self.net = nn.Sequential(hidden, nn.ReLU(), out).requires_grad_(False)  # the student's optimizer leaves it alone
        self.adam = Adam(sum(p.numel() for p in self.net.parameters()), self.lr, self.weight_decay)
        self.register_buffer("shown", torch.zeros(len(views), self.inputs.size, dtype=torch.float64))

    def begin_update(self, progress: Progress) -> None:
        self.looks_ahead = bool(self.rows) and progress.update % self._held_out.every == 0
        self.inputs_of_parts.clear()
        self.means_of_parts.clear()

    def forward(self, evidence: Evidence) -> Tensor:
        with torch.autocast(evidence.losses.device.type, enabled=False):
            inputs = self.inputs(evidence)  # [V, B, F]
            if self.per == "view":
                self.means_of_parts.append(evidence.mean(inputs.double()))
                inputs = self.shown
            inputs = inputs[self.rows].to(next(self.net.parameters()))  # [V', F] or [V', B, F]
            if self.looks_ahead:
                self.inputs_of_parts.append(inputs)
            learned = self.largest * self.net(inputs).squeeze(-1).sigmoid().to(evidence.losses)  # [V'] or [V', B]
        weights = [evidence.losses.new_full(inputs.shape[1:-1], self.full_weight or 0.0)] * len(evidence.views)
        for row, weight in zip(self.rows, learned):
            weights[row] = weight
        return torch.stack(weights)  # [V], or [V, B]

    def learn(self, slopes: Sequence[Tensor], mean: Mean) -> None:
        parameters = {name: p.detach().requires_grad_() for name, p in self.net.named_parameters()}
        inputs = torch.stack(self.inputs_of_parts)  # [parts, V', ..]
        changes = torch.stack([part[self.rows] for part in slopes])  # [parts, V', B]
        with torch.autocast(inputs.device.type, enabled=False):
            scores = functional_call(self.net, parameters, (inputs,)).squeeze(-1)
            changes = changes.sum(-1) if self.per == "view" else changes
            # Weights are W sigmoid(scores), so this has the same gradient as the held-out loss: slopes are by log weights.
            loss = (F.logsigmoid(scores) * changes.to(scores)).sum()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(parameters.values()))])
        moved = self.adam(nn.utils.parameters_to_vector(self.net.parameters()), mean(gradient))
        nn.utils.vector_to_parameters(moved, self.net.parameters())
        self.looks_ahead = False

    def end_update(self, mean: Mean) -> None:
        if self.means_of_parts:
            self.shown.copy_(mean(torch.stack(self.means_of_parts).mean(0)))

    @classmethod
    def check(cls, options: Mapping[str, Any], setting: Setting, views: tuple[View, ...]) -> list[str]:
        problems = saliency_problems(options)
        if all(v.name == FULL for v in views) and options.get("full_weight", 1.0) is not None:
            problems.append("full_weight: there is no view but `full`, whose weight is learned only where this is null.")
        return problems
