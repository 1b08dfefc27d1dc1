"""Inner products of a direction with the gradients of single rows, from what modules linear in their parameters got and gave."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from msd_framework.models.layers.packed import Block, PackedRows, can_look
from msd_framework.models.layers.transformer import whole

# a vector in the space of a module's parameters, by their names; what is not in it is 0
Direction: TypeAlias = Mapping[str, Tensor]

LINEAR = (nn.Linear, nn.LayerNorm)  # modules that are known to be linear in their parameters; embeddings are as well


@dataclass(frozen=True)
class Order:
    """An order in which a packed pass holds something of each row."""

    take: Callable[[Tensor], Tensor]  # of a tensor in this order, [N, ..], what belongs to rows that are watched, [N', ..]
    add: Callable[[Tensor], Tensor]  # sums of N' numbers by row, [R], in the order of the views


def orders(rows: PackedRows, num_views: int, watched: Collection[int]) -> tuple[Order, Order, Order]:
    """The three orders of a packed pass: all places of the sequence, one position a row there, and one a row by the views."""
    num_rows = len(rows.rank)
    num_examples = num_rows // num_views
    # The rows of the sequence by the views' order; on a device that would have to be waited for, they are in that order.
    by_view = rows.rank.argsort().tolist() if can_look(rows.rank) else range(num_rows)
    of_watched = [n for n, row in enumerate(by_view) if row // num_examples in watched]
    # `pack` puts watched rows behind the others, so they are one slice of the sequence; it is cut where blocks end.
    inside: list[Block] = []
    rows_before = places_before = num_seen = 0
    for block in rows.blocks:
        num_seen += block.num_rows
        if num_seen <= of_watched[0]:
            rows_before = num_seen
            places_before += block.num_rows * block.length
        elif num_seen - block.num_rows <= of_watched[-1]:
            inside.append(block)
    sizes = [block.num_rows * block.length for block in inside]

    def add(x: Tensor) -> Tensor:
        sums = [numbers.view(block.num_rows, -1).sum(1) for numbers, block in zip(torch.split(x, sizes), inside)]
        # rows before and after the slice have nothing, and stand where they would in the sequence
        of_rows = torch.cat([x.new_zeros(rows_before), *sums])
        return F.pad(of_rows, (0, num_rows - len(of_rows))).index_select(0, rows.rank)

    return (
        Order(lambda x: x[places_before : places_before + sum(sizes)], add),
        Order(whole, lambda x: x.index_select(0, rows.rank)),
        Order(lambda x: x.flatten(0, -2), whole),
    )


class Call:
    """One call of a function that is linear in its parameters; `along` is its output with a direction in their place."""

    def __init__(self, output: Tensor, inputs: tuple[Tensor, ...], order: Order, along: Callable[..., Tensor]):
        self.inputs, self.order, self.along = inputs, order, along
        self.gradient: Tensor | None = None
        output.register_hook(self._keep)  # type: ignore[no-untyped-call]

    def _keep(self, gradient: Tensor) -> None:
        # only now are inputs cut to the watched rows: until here, the graph holds them whole in any case
        self.inputs, self.gradient = tuple(map(self.order.take, self.inputs)), self.order.take(gradient)

    def product(self, direction: Direction) -> Tensor:
        """The inner product of a direction with the gradient that came from each row, [R]."""
        assert self.gradient is not None
        moved = self.along(direction, *self.inputs)
        # under autocast both are bfloat16, and sums over a row of it would lose what weights learn from
        precise = torch.promote_types(moved.dtype, torch.float32)
        return self.order.add((self.gradient.to(precise) * moved.to(precise)).sum(-1)).to(precise)


class Tape:
    r"""Inner products of a direction with the gradients that came from single rows, without these gradients.

    .. math:: \langle u, \nabla_\theta L_r \rangle = \sum_m \sum_{t \in r} \langle \delta_{m,t}, m_u(x_{m,t}) \rangle

    with :math:`x_{m,t}` what module m was given at place t of row r, :math:`\delta_{m,t}` the gradient of the loss with
    respect to what it returned there, and :math:`m_u` the module with its part of the direction u in the place of its
    parameters, in which it is linear. It costs a third of a step at most: no attention, and no pass back.
    """

    def __init__(self, model: nn.Module):
        self.names = {module: name for name, module in model.named_modules()}
        self.calls: list[Call] = []

    def keep(self, output: Tensor, inputs: tuple[Tensor, ...], order: Order, along: Callable[..., Tensor]) -> None:
        if output.requires_grad:
            self.calls.append(Call(output, inputs, order, along))

    @contextmanager
    def watching(self, *groups: tuple[Iterable[nn.Module], Order]) -> Iterator[None]:
        """While this lasts, calls of the modules in each group, and of those in them, are kept."""
        handles = []
        for modules, order in groups:
            for module in nn.ModuleList(modules).modules():
                # a module without parameters of its own, such as a dropout or a whole layer, has no product of its own
                if next(module.parameters(recurse=False), None) is not None:
                    handles.append(module.register_forward_hook(self._keeper(order)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def products(self, direction: Direction) -> Tensor:
        """For each row, in the order of the views, [R]; once the loss was gone back through."""
        return torch.stack([call.product(direction) for call in self.calls]).sum(0)

    def along(self, direction: Direction, module: nn.Module, call: Callable[[], Tensor]) -> Tensor:
        """What a function returns that calls a module, with the module's part of a direction in the place of its parameters."""
        part = {}
        for name, parameter in module.named_parameters():
            moved = direction.get(f"{self.names[module]}.{name}")
            part[name] = torch.zeros_like(parameter) if moved is None else moved
        return called_with(module, part, call)

    def _keeper(self, order: Order) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            assert isinstance(module, LINEAR), f"a {type(module).__name__} may not be linear in its parameters"
            # detached, or a product would keep the graph of the step alive
            kept = tuple(x.detach() for x in inputs)
            self.keep(output, kept, order, lambda direction, *x: self.along(direction, module, lambda: module(*x)))

        return keep


def called_with(module: nn.Module, tensors: Mapping[str, Tensor], function: Callable[[], Tensor]) -> Tensor:
    """What a function returns that calls a module, with other tensors in the place of the module's parameters of these names."""
    called: Tensor = functional_call(_Calls(module, function), {f"inner.{name}": x for name, x in tensors.items()}, ())
    return called


class _Calls(nn.Module):
    """A function as a module that holds what it calls, as `functional_call` wants it."""

    def __init__(self, inner: nn.Module, function: Callable[[], Tensor]):
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self) -> Tensor:
        return self.function()


@dataclass(frozen=True)
class RecordedViews:
    """A pass over several views whose tape of the watched rows was kept."""

    logits: Tensor  # float [V, B, C]
    tape: Tape

    def products(self, direction: Direction) -> Tensor:
        """The inner product of a direction with each view's gradient of each example, [V, B]; meaningless where not watched."""
        return self.tape.products(direction).view(self.logits.shape[:2])
