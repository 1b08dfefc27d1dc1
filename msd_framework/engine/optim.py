"""How weights are changed: optimizers with their parameter groups, and how the learning rate goes over a run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from msd_framework.components.registry import Registry, raised_at
from msd_framework.engine.parts_of_model import ModelParts
from msd_framework.ranges import below_one, not_negative, positive

TRIED = 1000  # updates at which the learning rate is tried before a run


class OptimizerRecipe(ABC):
    """Makes an optimizer once the parameters are known."""

    # parts of a model that learn in another way than the rest; frozen ones are so before the optimizer is built
    parts: ModelParts = ModelParts()

    @abstractmethod
    def build(self, module: nn.Module) -> Optimizer:
        """An optimizer of the module's trainable parameters, in the order of their names in the module."""


OPTIMIZERS: Registry[OptimizerRecipe] = Registry("optimizer", "optimizers", OptimizerRecipe)


@OPTIMIZERS.register("adamw")
class AdamWRecipe(OptimizerRecipe):
    """AdamW (Loshchilov & Hutter, ICLR 2019), with no decay on biases and normalisation.

    Args:
        lr: the learning rate at its highest; if null, 5e-5 from weights of others and 1e-3 from scratch.
        weight_decay: decoupled decay of parameters with two dimensions or more.
        beta1: decay of the mean of gradients.
        beta2: decay of the mean of squared gradients.
        eps: what is added to the root of the latter.
        groups: learning rates of parts by the names of their modules, such as `{encoders: 0.0001}` or
            `{encoders.text: {lr: 0.0001, weight_decay: 0.1}}`; a parameter belongs to the longest name that it is under.
        frozen: parts that do not learn and are in eval mode, such as `[encoders.text]`.
        layer_decay: what the learning rate of each layer of a transformer is multiplied by with each layer above it, such as 0.75.
        fine_tunes: whether the model starts from weights of others.
    """

    def __init__(
        self,
        lr: float | None = None,
        weight_decay: float = 0.01,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        groups: dict[str, float | dict[str, float]] | None = None,
        frozen: list[str] | None = None,
        layer_decay: float | None = None,
        fine_tunes: bool = True,
    ):
        lr = (5e-5 if fine_tunes else 1e-3) if lr is None else lr
        positive(lr=lr, eps=eps)
        not_negative(weight_decay=weight_decay)
        below_one(beta1=beta1, beta2=beta2)
        self.lr, self.weight_decay, self.betas, self.eps = lr, weight_decay, (beta1, beta2), eps
        self.parts = ModelParts(groups or {}, frozen or (), layer_decay)

    def build(self, module: nn.Module) -> Optimizer:
        groups = decay_groups(module, self.weight_decay, self.lr, self.parts)
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


@OPTIMIZERS.register("sgd")
class SGDRecipe(OptimizerRecipe):
    """Stochastic gradient descent with momentum (Sutskever et al., ICML 2013), with no decay on biases and normalisation.

    Args:
        lr: the learning rate at its highest.
        momentum: the share of the last step that is kept.
        weight_decay: L2 penalty of parameters with two dimensions or more.
        nesterov: looks ahead along the momentum.
        groups: learning rates of parts by the names of their modules, such as `{encoders: 0.0001}` or
            `{encoders.text: {lr: 0.0001, weight_decay: 0.1}}`; a parameter belongs to the longest name that it is under.
        frozen: parts that do not learn and are in eval mode, such as `[encoders.text]`.
        layer_decay: what the learning rate of each layer of a transformer is multiplied by with each layer above it, such as 0.75.
    """

    def __init__(
        self,
        lr: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        groups: dict[str, float | dict[str, float]] | None = None,
        frozen: list[str] | None = None,
        layer_decay: float | None = None,
    ):
        positive(lr=lr)
        not_negative(momentum=momentum, weight_decay=weight_decay)
        if nesterov and not momentum:
            raise ValueError("nesterov needs a momentum above 0, got 0.")
        self.lr, self.momentum, self.weight_decay, self.nesterov = lr, momentum, weight_decay, nesterov
        self.parts = ModelParts(groups or {}, frozen or (), layer_decay)

    def build(self, module: nn.Module) -> Optimizer:
        groups = decay_groups(module, self.weight_decay, self.lr, self.parts)
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)


def decay_groups(module: nn.Module, weight_decay: float, lr: float = 1.0, parts: ModelParts | None = None) -> list[dict[str, Any]]:
    """The trainable parameters in two groups: matrices, which decay, and biases and normalisation, which do not.

    After them come those that learn in another way, in as many groups as there are ways: a part with an attribute `lr_factor`,
    which learns that much faster and does not decay, and those of `parts`.
    """
    own: dict[str, dict[str, Any]] = {}
    for path, part in module.named_modules():
        if hasattr(part, "lr_factor"):
            faster = {"part": path, "lr": lr * part.lr_factor, "weight_decay": 0.0}
            own |= {name: faster for name, _ in part.named_parameters(prefix=path)}
    own |= (parts or ModelParts()).options_of(module)
    groups: dict[tuple[Any, ...], dict[str, Any]] = {
        (): {"params": [], "weight_decay": weight_decay},
        (False,): {"params": [], "weight_decay": 0.0},
    }
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix, options = parameter.ndim >= 2, own.get(name)
        if options is None:
            groups[() if is_matrix else (False,)]["params"].append(parameter)
            continue
        group = {
            "part": options.get("part", ""),
            "lr": options.get("lr", lr) * options.get("factor", 1.0),
            "weight_decay": options.get("weight_decay", weight_decay) if is_matrix else 0.0,
        }
        groups.setdefault((*group.values(), is_matrix), {"params": [], **group})["params"].append(parameter)
    return list(groups.values())


class Schedule(ABC):
    """The learning rate over a run, as a share of its highest."""

    @abstractmethod
    def factor(self, update: int, num_updates: int) -> float:
        """The share at an update, counted from 0."""

    def build(self, optimizer: Optimizer, num_updates: int) -> LambdaLR:
        """What sets the rates of an optimizer; the share must be a number from 0 on at some updates that are tried."""
        for update in range(0, num_updates, max(1, num_updates // TRIED)):
            try:
                factor = float(self.factor(update, num_updates))
            except Exception as error:  # a class of a user's may raise anything
                raise ValueError(f"factor of {type(self).__name__} at update {update}: {raised_at(error)}") from error
            if not 0 <= factor < math.inf:
                raise ValueError(f"factor of {type(self).__name__} at update {update} is {factor}, wanted a number from 0 on.")
        # torch's own LinearLR and CosineAnnealingLR multiply the rate of the update before: their last bits differ
        return LambdaLR(optimizer, lambda update: self.factor(update, num_updates))


SCHEDULERS: Registry[Schedule] = Registry("scheduler", "schedulers", Schedule)


class WarmUp(Schedule):
    """A linear rise.

    Args:
        warmup: updates of the rise; below 1, a share of all updates.
    """

    def __init__(self, warmup: float = 0.1):
        not_negative(warmup=warmup)
        self.warmup = warmup

    def rise(self, update: int, num_updates: int) -> float:
        return min(1.0, (update + 1) / max(1.0, self.length(num_updates)))

    def length(self, num_updates: int) -> float:
        return self.warmup * num_updates if self.warmup < 1 else self.warmup


@SCHEDULERS.register("constant")
class ConstantSchedule(WarmUp):
    """The same learning rate throughout, after a linear rise.

    Args:
        warmup: updates of the rise; below 1, a share of all updates.
    """

    def __init__(self, warmup: float = 0):
        super().__init__(warmup)

    def factor(self, update: int, num_updates: int) -> float:
        return self.rise(update, num_updates)


@SCHEDULERS.register("warmup_linear")
class LinearSchedule(WarmUp):
    """A linear rise, then a linear fall to 0."""

    def factor(self, update: int, num_updates: int) -> float:
        fall = (num_updates - update) / max(1.0, num_updates - self.length(num_updates))
        return min(self.rise(update, num_updates), max(0.0, fall))


@SCHEDULERS.register("warmup_cosine")
class CosineSchedule(WarmUp):
    """A linear rise times half a cosine wave from 1 to 0 (Loshchilov & Hutter, ICLR 2017, without restarts)."""

    def factor(self, update: int, num_updates: int) -> float:
        wave = 0.5 * (1 + math.cos(math.pi * min(1.0, update / max(1, num_updates))))
        return self.rise(update, num_updates) * wave
