"""Teachers that keep some channels of a layer: those that are general to the student's modality, the others, or any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from msd_framework.errors import ConfigError, Problem
from msd_framework.models.layers.layer import Layer

SALIENCY_FILE = "channel_saliency.json"  # what the experiment `channel_saliency` writes

Choice: TypeAlias = Literal["general", "specific", "random"]
"""The channels that are most general to both modalities, those that are least, or any."""


def choose_channels(by: Choice, share: float, num_channels: int, saliency: Tensor | None = None, seed: int = 0) -> Tensor:
    """Which of D channels of a layer a teacher keeps, one at least, bool [D]; a saliency says how general each is.

    A general teacher keeps those of the largest saliency, and so gives away what the student cannot see; a specific one
    keeps those of the smallest; a random one is what both are compared with, its channels drawn without replacement.

    Source: Xue et al., The Modality Focusing Hypothesis, ICLR 2023 (arXiv:2206.06487), section 5.

    >>> choose_channels("general", 0.5, 4, torch.tensor([0.1, 0.9, 1.0, 0.0])).tolist()
    [False, True, True, False]
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of channels that are kept must be above 0 and at most 1, got {share}.")
    if by == "random":
        saliency = torch.rand(num_channels, generator=torch.Generator().manual_seed(seed))
    if saliency is None or saliency.shape != (num_channels,):
        got = "none" if saliency is None else str(len(saliency))
        raise ValueError(f"wanted a score for each of the {num_channels} channels, got {got}.")
    order = saliency.argsort(descending=by != "specific", stable=True)
    kept = torch.zeros(num_channels, dtype=torch.bool)
    kept[order[: max(1, round(share * num_channels))]] = True
    return kept


def keep_channels(
    model: nn.Module, layer: str, by: Choice, share: float, saliency: str | None = None, seed: int = 0, channel_dim: int = -1
) -> None:
    """Makes a model a general, a specific or a random teacher: its other channels of a layer are zeros from now on.

    The layer is named as `named_modules` has it. Channels stand at -1 of features, at 1 of a convolution.
    """
    scores = read_saliency(saliency, layer) if saliency is not None else None
    try:
        Layer(model, layer, channel_dim).mask(lambda num_channels: choose_channels(by, share, num_channels, scores, seed))
    except ValueError as error:
        raise ConfigError(Problem("teacher.channels.layer", str(error))) from error


def read_saliency(folder: str, layer: str) -> Tensor:
    """The scores that the experiment `channel_saliency` wrote, float [D]."""
    at, path = "teacher.channels.saliency", Path(folder) / SALIENCY_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        scores, of = torch.tensor(values["saliency"], dtype=torch.float32), values["layer"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"{path} cannot be read ({error!r}). Make it with the experiment `channel_saliency`."
        raise ConfigError(Problem(at, text)) from error
    if of != layer:
        raise ConfigError(Problem(at, f"{path} is of layer {of!r}, and channels of {layer!r} are to be kept."))
    return scores
