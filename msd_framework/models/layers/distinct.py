"""Inputs that several examples of a batch share, or several views of it, are encoded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from msd_framework.structures import ModalityInputs

T = TypeVar("T")


def encode_once(encoder: nn.Module, inputs: ModalityInputs, encode: Callable[[ModalityInputs], T]) -> T:
    """What a function makes of a modality, with examples that are the same computed once, unless that changes the outcome."""
    # a batch norm that takes its statistics from the batch would count once what stands there twice
    return encode(inputs) if mixes_examples(encoder) else inputs.once(encode)


def mixes_examples(module: nn.Module) -> bool:
    """Whether what it makes of an example depends on the others of the batch."""
    return any(isinstance(m, _BatchNorm) and (m.training or m.running_mean is None) for m in module.modules())


class OncePerInput(Generic[T]):
    """What a function makes of the inputs of a modality, once for all views that show the very same.

    If it mixes examples, it runs once a view, so that running statistics count each of them.
    """

    def __init__(self, make: Callable[[ModalityInputs], T], mixes: bool = False):
        self.make, self.mixes = make, mixes
        # Inputs are known by identity: comparing their values would cost more than it saves, and wait for a GPU.
        # They are kept beside their results, since the id of an object that is gone may go to another one.
        self.results: dict[int, tuple[ModalityInputs, T]] = {}

    def __call__(self, inputs: ModalityInputs) -> T:
        if id(inputs) not in self.results or self.mixes:
            self.results[id(inputs)] = inputs, self.make(inputs)
        return self.results[id(inputs)][1]
