"""What modules that are linear in their parameters were given and what came back: the parts of inner products of gradients."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from msd_framework.models.layers.packed import PackedRows, can_look

Direction: TypeAlias = Mapping[str, Tensor]
"""A vector in the space of a module's parameters, by their names; what is not in it is 0."""


@dataclass(frozen=True)
class Where:
    """Where the numbers of a tensor belong that holds something of each row of a packed sequence.

    Args:
        take: of the tensor, [N, ..], what belongs to rows that are watched, [N', ..].
        add: sums of N' numbers by row, [R], in the order of the views.
    """

    take: Callable[[Tensor], Tensor]
    add: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Wheres:
    """The three orders in which a packed pass holds its rows.

    Args:
        places: all positions of each row, in the order of the sequence.
        firsts: one position a row, in the order of the sequence.
        views: one position a row, in the order of the views.
    """

    places: Where
    firsts: Where
    views: Where

    @classmethod
    def of(cls, rows: PackedRows, num_views: int, watched: Collection[int]) -> Wheres:
        """Those of a pass.

        Args:
            rows: how its sequence divides into rows.
            num_views: V.
            watched: the views whose rows count; nothing is computed before the first of these rows and after the last.
        """
        num_rows = len(rows.rank)
        # The rows of the sequence by the views' order; on a device that would have to be waited for, they are in that order.
        order = rows.rank.argsort().tolist() if can_look(rows.rank) else range(num_rows)
        mine = [i for i, row in enumerate(order) if row // (num_rows // num_views) in watched]
        # Watched rows stand together as far as they can, so it is one slice of the sequence, cut where blocks end.
        ends = list(accumulate(block.num_rows for block in rows.blocks))
        inside = [block for block, end in zip(rows.blocks, ends) if mine[0] < end and end - block.num_rows <= mine[-1]]
        first = next(end - block.num_rows for block, end in zip(rows.blocks, ends) if mine[0] < end)
        begin = sum(block.num_rows * block.length for block, end in zip(rows.blocks, ends) if end <= mine[0])
        sizes = [block.num_rows * block.length for block in inside]

        def add(x: Tensor) -> Tensor:
            sums = [numbers.view(block.num_rows, -1).sum(1) for numbers, block in zip(torch.split(x, sizes), inside)]
            # rows before and after the slice have nothing, and stand where they would in the sequence
            of_rows = torch.cat([x.new_zeros(first), *sums])
            return F.pad(of_rows, (0, num_rows - len(of_rows))).index_select(0, rows.rank)

        places = Where(lambda x: x[begin : begin + sum(sizes)], add)
        return cls(places, Where(_whole, lambda x: x.index_select(0, rows.rank)), Where(lambda x: x.flatten(0, -2), _whole))


class Call:
    """One call of a function that is linear in its parameters, with the gradient of its output once that is known.

    Args:
        output: what it returned.
        inputs: what it was given.
        where: where both belong.
        along: its output for the inputs if a direction stands in the place of its parameters.
    """

    def __init__(self, output: Tensor, inputs: tuple[Tensor, ...], where: Where, along: Callable[..., Tensor]):
        self.inputs, self.where, self.along = inputs, where, along
        self.gradient: Tensor | None = None
        output.register_hook(self.keep)  # type: ignore[no-untyped-call]

    def keep(self, gradient: Tensor) -> None:
        """Keeps the gradient of the output, and the inputs, of the rows that are watched."""
        self.inputs, self.gradient = tuple(map(self.where.take, self.inputs)), self.where.take(gradient)

    def product(self, direction: Direction) -> Tensor:
        """The inner product of a direction with the gradient that came from each row, [R]."""
        assert self.gradient is not None
        moved = self.along(direction, *self.inputs)
        precise = torch.promote_types(moved.dtype, torch.float32)
        return self.where.add((self.gradient.to(precise) * moved.to(precise)).sum(-1)).to(precise)


class Tape:
    r"""Inner products of a direction with the gradients that came from single rows, without these gradients.

    .. math:: \langle u, \nabla_\theta L_r \rangle = \sum_m \sum_{t \in r} \langle \delta_{m,t}, m_u(x_{m,t}) \rangle

    with :math:`x_{m,t}` what module m was given at place t of row r, :math:`\delta_{m,t}` the gradient of the loss with
    respect to what it returned there, and :math:`m_u` the module with its part of the direction u in the place of its
    parameters, in which it is linear: linear layers, layer norms and embeddings are. It costs a third of a step at most: no
    attention, and no pass back. The masks of dropout are in x and delta, so they are those of the step.

    Args:
        model: names the parameters.
    """

    def __init__(self, model: nn.Module):
        self.names = {module: name for name, module in model.named_modules()}
        self.calls: list[Call] = []

    def keep(self, output: Tensor, inputs: tuple[Tensor, ...], where: Where, along: Callable[..., Tensor]) -> None:
        """Keeps a call, if something in it or before it learns; arguments as of `Call`."""
        if output.requires_grad:
            self.calls.append(Call(output, inputs, where, along))

    @contextmanager
    def watching(self, *groups: tuple[Iterable[nn.Module], Where]) -> Iterator[None]:
        """While this lasts, calls of the modules in each group, and of those in them, are kept."""
        handles = [
            module.register_forward_hook(self._keeper(where))
            for modules, where in groups
            for outer in modules
            for module in outer.modules()
            if next(module.parameters(recurse=False), None) is not None
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def products(self, direction: Direction) -> Tensor:
        """For each row, in the order of the views, [R]; once the loss was gone back through."""
        return torch.stack([call.product(direction) for call in self.calls]).sum(0)

    def along(self, direction: Direction, module: nn.Module, call: Callable[[], Tensor]) -> Tensor:
        """What a function returns that calls a module, if the module has its part of a direction in the place of its parameters."""
        prefix = self.names[module]
        named = {n: (f"{prefix}.{n}", p) for n, p in module.named_parameters()}
        part = {f"{INNER}{n}": direction[key] if key in direction else torch.zeros_like(p) for n, (key, p) in named.items()}
        moved: Tensor = functional_call(Calls(module, call), part, ())
        return moved

    def _keeper(self, where: Where) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            assert isinstance(module, LINEAR), f"a {type(module).__name__} may not be linear in its parameters"
            kept = tuple(x.detach() for x in inputs)
            self.keep(output, kept, where, lambda direction, *x: self.along(direction, module, lambda: module(*x)))

        return keep


LINEAR = (nn.Linear, nn.LayerNorm)
"""Modules that are known to be linear in their parameters; embeddings are as well."""


class Calls(nn.Module):
    """A function as a module, so that what it calls can be given other parameters, under names that begin with `INNER`.

    Args:
        inner: what it calls.
        function: the function.
    """

    def __init__(self, inner: nn.Module, function: Callable[[], Tensor]):
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self) -> Tensor:
        return self.function()


INNER = "inner."


@dataclass(frozen=True)
class RecordedViews:
    """A pass over several views whose tape was kept.

    Args:
        logits: float [V, B, C].
        tape: of the watched rows.
    """

    logits: Tensor
    tape: Tape

    def products(self, direction: Direction) -> Tensor:
        """The inner product of a direction with the gradient that came from each view of each example, [V, B]; 0 or not to be
        used where a view was not watched.
        """
        return self.tape.products(direction).view(self.logits.shape[:2])


def _whole(x: Tensor) -> Tensor:
    return x
