"""A layer of a model by its name: what it puts out can be read, replaced, and masked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from msd_framework.errors import did_you_mean


class Layer:
    """A layer of a model.

    Args:
        name: a submodule's, as `named_modules` has it, such as `projections.audio`; it puts out a tensor.
        channel_dim: where the layer's channels stand: -1 for features, 1 for a convolution.
    """

    def __init__(self, model: nn.Module, name: str, channel_dim: int = -1):
        modules = dict(model.named_modules())
        if not name or name not in modules:
            hint = did_you_mean(name, modules)
            raise ValueError(f"there is no layer {name!r}.{hint} Layers: {', '.join(n for n in modules if n)}.")
        self.module, self.name, self.channel_dim = modules[name], name, channel_dim

    def read(self, run: Callable[[], Any]) -> Tensor:
        """What the layer puts out while something runs, with its channels last, [N, .., D]."""
        seen: list[Any] = []
        with self.changed(seen.append):
            run()
        if len(seen) != 1 or not isinstance(seen[0], Tensor) or seen[0].ndim < 2:
            got = f"{len(seen)} outputs" if len(seen) != 1 else type(seen[0]).__name__
            raise ValueError(f"layer {self.name!r} must put out one tensor [N, .., D], got {got}. Name a layer inside or after it.")
        return seen[0].detach().movedim(self.channel_dim, -1)

    def replaced(self, channels: Tensor, run: Callable[[], Tensor]) -> Tensor:
        """What comes out if the layer puts out these channels, [N, .., D], whatever it is given."""
        with self.changed(lambda _: channels.movedim(-1, self.channel_dim)):
            return run()

    @contextmanager
    def changed(self, change: Callable[[Any], Any]) -> Iterator[None]:
        """While this lasts, the layer puts out what a function makes of it; nothing is changed where that is None."""
        handle = self.module.register_forward_hook(lambda module, inputs, output: change(output))
        try:
            yield
        finally:
            handle.remove()

    def mask(self, kept: Callable[[int], Tensor]) -> None:
        """From now on, the layer puts out zeros in all channels but those that are kept, bool [D]."""

        def change(output: Tensor) -> Tensor:
            channels = output.movedim(self.channel_dim, -1)  # [N, .., D]
            seen = channels * kept(channels.shape[-1]).to(channels)
            return seen.movedim(-1, self.channel_dim)

        self.module.register_forward_hook(lambda module, inputs, output: change(output))
