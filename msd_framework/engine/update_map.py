"""How an optimizer's step depends on the gradient that it was given: the derivative of where it leads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

Numbers: TypeAlias = Mapping[str, Any]  # options of an optimizer's group by name
# how far each number moves with its gradient, of a group's options, a chunk of the gradient, and the optimizer's state there
Factor: TypeAlias = Callable[[Numbers, Tensor, Mapping[str, Tensor]], Tensor]

CHUNK = 2**17  # numbers that are gone through at a time on a CPU, so that what lies between stays in its cache
TINY = 1e-36  # stands in for a root of 0


def pull_back(optimizer: Optimizer, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    r"""A gradient with respect to the parameters after a step, as one with respect to the gradient of that step.

    .. math:: \left(\frac{\partial \theta'}{\partial g}\right)^\top \nabla_{\theta'} L

    Call it after the step, while the parameters still have their gradients g. Both optimizers treat each number by itself, so that
    the derivative is a factor for each number. What does not depend on g, such as decay, does not count. A row of a table without
    a gradient stays 0, as nothing that was minimised depends on it. The gradients, one for each of the parameters, are used up.

    >>> w = torch.ones(2, requires_grad=True)
    >>> w.grad, sgd = torch.ones(2), SGD([w], lr=0.1, momentum=0.9, nesterov=True)
    >>> sgd.step()
    >>> pull_back(sgd, [w], [torch.tensor([1.0, 2.0])])
    [tensor([-0.1900, -0.3800])]
    """
    factor = factor_of(optimizer)
    groups: dict[Tensor, Numbers] = {}
    for group in optimizer.param_groups:
        groups |= dict.fromkeys(group["params"], group)
    return [_pulled(p, g, groups[p], optimizer.state[p], factor) for p, g in zip(parameters, gradients)]


def pull_back_clipping(directions: Sequence[Tensor], clipped: Sequence[Tensor | None], norm: Tensor, largest: float) -> None:
    r"""A gradient with respect to clipped gradients as one with respect to those before, in place.

    .. math:: g' = c g, \quad c = \min\left(1, \frac{n_0}{\lVert g \rVert + 10^{-6}}\right), \qquad
        \left(\frac{\partial g'}{\partial g}\right)^\top u = c u - [c < 1] \frac{\langle g', u \rangle}{n_0 \lVert g \rVert} g'

    with u the directions, g' what was clipped (None where a parameter had no gradient) and n_0 the largest norm.
    """
    c = (largest / (norm + 1e-6)).clamp(max=1)
    pairs = [(u, g) for u, g in zip(directions, clipped) if g is not None]
    product = torch.stack([torch.linalg.vecdot(g.flatten(), u.flatten()) for u, g in pairs]).sum()
    along = torch.where(c < 1, product / (largest * norm), 0.0)
    for u, g in pairs:
        u.mul_(c).sub_(along * g)


def factor_of(optimizer: Optimizer) -> Factor:
    """The factor of an optimizer's step.

    Raises:
        ValueError: if nobody knows it.
    """
    what = type(optimizer).__name__
    odd = [name for name in ("maximize", "amsgrad", "dampening", "differentiable") if optimizer.defaults.get(name)]
    if odd:
        what += f" with {odd[0]}"
    if type(optimizer) not in KNOWN or odd:
        raise ValueError(f"learned weights look ahead by a step of SGD or AdamW, not of {what}.")
    return KNOWN[type(optimizer)]


def sgd_factor(group: Numbers, gradient: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Of a step of SGD: the learning rate, and once more by the momentum where that is Nesterov's."""
    return gradient.new_tensor(-group["lr"] * (1 + group["momentum"] * group["nesterov"]))


def adamw_factor(group: Numbers, gradient: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    r"""Of a step of AdamW, through the mean of gradients m and that of their squares v.

    .. math:: -\eta \left[\frac{1 - \beta_1}{(1 - \beta_1^t) d}
        - \frac{\hat m}{d^2} \frac{(1 - \beta_2) g}{(1 - \beta_2^t) \sqrt{\hat v}} \right], \qquad d = \sqrt{\hat v} + \epsilon
    """
    beta1, beta2 = group["betas"]
    count = state["step"].double()
    first, second = 1 - beta1**count, 1 - beta2**count
    root = (state["exp_avg_sq"] / second).sqrt_()  # of v, corrected
    inverse = (root + group["eps"]).reciprocal_()
    slope = torch.div(gradient, root.clamp_(min=TINY)).mul_(state["exp_avg"])  # where the root is 0, so are both
    return slope.mul_(inverse).mul_((1 - beta2) / (first * second)).sub_((1 - beta1) / first).mul_(inverse).mul_(group["lr"])


KNOWN: dict[type[Optimizer], Factor] = {SGD: sgd_factor, AdamW: adamw_factor}


def _pulled(parameter: Tensor, gradient: Tensor, group: Numbers, state: Numbers, factor: Factor) -> Tensor:
    if parameter.grad is None:  # the step left it alone
        return torch.zeros_like(gradient)
    # What has a number for each of the parameter's is cut into rows and chunks; the rest, such as a step count, goes along whole.
    whole: dict[str, Any] = {}
    spread = {"u": gradient, "g": parameter.grad}
    for name, value in state.items():
        is_spread = isinstance(value, Tensor) and value.shape == gradient.shape
        (spread if is_spread else whole)[name] = value
    rows = _used_rows(parameter.grad)
    if rows is not None:
        spread = {name: value.index_select(0, rows) for name, value in spread.items()}
    pulled = torch.empty_like(spread["u"], memory_format=torch.contiguous_format)
    size = CHUNK if gradient.device.type == "cpu" else max(1, pulled.numel())
    chunks = [torch.split(values.flatten(), size) for values in spread.values()]
    for out, *parts in zip(torch.split(pulled.view(-1), size), *chunks):
        part = dict(zip(spread, parts))
        torch.mul(part.pop("u"), factor(group, part.pop("g"), {**whole, **part}), out=out)
    return pulled if rows is None else gradient.contiguous().zero_().index_copy_(0, rows, pulled)


def _used_rows(gradient: Tensor) -> Tensor | None:
    """The rows of a table that have a gradient, if they are few; None if not, and where one would have to wait for the device.

    No loss depends on the others: they are words that a batch does not have.
    """
    if gradient.device.type != "cpu" or gradient.ndim != 2:
        return None
    rows = gradient.any(1).nonzero().squeeze(1)
    return rows if 2 * len(rows) < len(gradient) else None
