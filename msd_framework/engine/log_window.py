"""What is summed up on the device between two logs, and the first update that went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from msd_framework.engine.distributed import World
from msd_framework.structures import StepOutput

# Updates in a row that fp16 may skip. Each halves the factor of the loss, so it is then a millionth of what it was.
MOST_SKIPPED = 20


@dataclass(frozen=True)
class Health:
    """What went wrong in a run so far, in any of its processes."""

    first: int  # the first update with a value that is not finite; 0 if there is none
    names: tuple[str, ...]  # the terms that were not finite then; empty if it was the gradient alone
    skipped: int  # the updates that fp16 has skipped, since their gradients were not finite
    in_a_row: int  # how many of them the last ones are


class LogWindow:
    """Sums of the loss and its terms since the last log, kept on the device, and the first updates that went wrong."""

    def __init__(self, device: torch.device):
        self.device, self.count = device, 0
        self.names: list[str] = []
        self.sums = torch.zeros(0, dtype=torch.float64, device=device)  # [number of names]
        self.first_bad = torch.zeros(0, dtype=torch.int64, device=device)  # [number of names]
        # the first update whose gradient is not finite; updates skipped by fp16, and how many of them the last ones are
        self.gradient, self.skipped, self.in_a_row = torch.zeros(3, dtype=torch.int64, device=device)

    def add(self, update: int, output: StepOutput) -> None:
        terms = {"loss": output.loss.detach(), **output.terms}
        self._make_room([name for name in terms if name not in self.names])
        nothing = self.sums.new_zeros(())
        values = torch.stack([terms.get(name, nothing).double() for name in self.names])
        self.sums = self.sums + values
        self.count += 1
        self.first_bad = torch.where(~values.isfinite() & (self.first_bad == 0), update, self.first_bad)

    def watch(self, update: int, norm: Tensor, is_scaled: bool) -> None:
        """Remembers a gradient that is not finite: as an error, or, where a scaler skips its update, as one that was skipped."""
        bad = ~norm.isfinite()
        if is_scaled:
            self.skipped = self.skipped + bad
            self.in_a_row = torch.where(bad, self.in_a_row + 1, 0)
        else:
            self.gradient = torch.where(bad & (self.gradient == 0), update, self.gradient)

    def health(self, world: World) -> Health:
        """What went wrong so far, the same on every process; waits for the device."""
        counts = torch.stack([self.gradient, self.skipped, self.in_a_row])
        gradient, skipped, in_a_row, *first_bad = torch.cat([counts, self.first_bad]).tolist()  # one wait for all of them
        everywhere = world.gather((gradient, skipped, in_a_row, dict(zip(self.names, first_bad))))
        updates: list[int] = []
        for gradient, _, _, terms in everywhere:
            updates += filter(None, [gradient, *terms.values()])
        first = min(updates, default=0)
        bad: dict[str, None] = {}
        for _, _, _, terms in everywhere:
            bad |= dict.fromkeys(name for name, update in terms.items() if update and update == first)
        return Health(first, tuple(bad), max(own[1] for own in everywhere), max(own[2] for own in everywhere))

    def read(self, world: World) -> dict[str, float]:
        """The means over the window and over all processes; the window is empty after it."""
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        means = world.sum(self.sums[order] / self.count) / world.size
        names = [self.names[i] for i in order]
        self.names, self.count, self.sums, self.first_bad = [], 0, self.sums[:0], self.first_bad[:0]
        return dict(zip(names, means.tolist()))

    def state(self) -> dict[str, Any]:
        sums = dict(zip(self.names, self.sums.tolist()))
        return {"sums": sums, "count": self.count, "skipped": int(self.skipped), "in_a_row": int(self.in_a_row)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._make_room(list(state["sums"]))
        self.sums = torch.tensor(list(state["sums"].values()), dtype=torch.float64, device=self.device)
        self.count = state["count"]
        self.skipped = self.skipped + state.get("skipped", 0)
        self.in_a_row = self.in_a_row + state.get("in_a_row", 0)

    def _make_room(self, names: list[str]) -> None:
        if names:
            self.names = [*self.names, *names]
            self.sums = torch.cat([self.sums, self.sums.new_zeros(len(names))])
            self.first_bad = torch.cat([self.first_bad, self.first_bad.new_zeros(len(names))])
