"""What is summed up on the device between two logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from msd_framework.engine.distributed import World
from msd_framework.errors import TrainingError
from msd_framework.structures import StepOutput


class LogWindow:
    """Sums of the loss and its terms since the last log, kept on the device, and the first update that went wrong."""

    def __init__(self, device: torch.device):
        self.device, self.count = device, 0
        self.sums: dict[str, Tensor] = {}
        self.first_bad = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, update: int, output: StepOutput) -> None:
        """Adds a part's loss and terms."""
        for name, value in {"loss": output.loss.detach(), **output.terms}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.double()
        self.count += 1
        self.watch(update, output.loss.detach())

    def watch(self, update: int, value: Tensor | None) -> None:
        """Remembers the update if the value is the first that is not finite."""
        if value is not None:
            bad = ~value.isfinite() & (self.first_bad == 0)
            self.first_bad = torch.where(bad, update, self.first_bad)

    def check(self, world: World) -> None:
        """Raises on every process if any of them saw a value that is not finite."""
        seen = [u for u in world.gather(int(self.first_bad)) if u]
        if seen:
            raise TrainingError(
                f"the loss or its gradient is not finite since update {min(seen)}. Lower optimizer.lr, set training.clip_norm, "
                f"or take training.precision=fp32. The last checkpoint, if there is one, is from before."
            )

    def read(self, world: World) -> dict[str, float]:
        """The means over the window and over all processes; the window is empty after it."""
        self.check(world)
        names = sorted(self.sums)
        means = world.sum(torch.stack([self.sums[n] for n in names]) / self.count) / world.size
        self.sums, self.count = {}, 0
        return dict(zip(names, means.tolist()))

    def state(self) -> dict[str, Any]:
        return {"sums": {k: float(v) for k, v in self.sums.items()}, "count": self.count}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.sums = {k: torch.tensor(v, dtype=torch.float64, device=self.device) for k, v in state["sums"].items()}
        self.count = state["count"]
