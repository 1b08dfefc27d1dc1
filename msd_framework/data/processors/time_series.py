"""Time series: numbers at each step of time, as of sensors, of joints of a body, or of frames of a video."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd_framework.data.base import PROCESSORS, as_array, padded
from msd_framework.data.mat_files import read_mat
from msd_framework.data.processors.vectors import FeatureProcessor
from msd_framework.errors import CheckpointError, DataError
from msd_framework.files import write_text
from msd_framework.ranges import positive
from msd_framework.structures import ModalityInputs

SMALLEST_STD = 1e-6  # of a feature that never changes


@PROCESSORS.register("time_series")
class TimeSeries(FeatureProcessor):
    r"""An array of T steps, or a MATLAB file of one, as vectors :math:`(x_t - \mu) / \sigma`, of D features each.

    The means and standard deviations :math:`\mu, \sigma` of each feature are those over all steps of the training inputs.

    Args:
        time_axis: which axis of an array is time; the others, in their order, become one of D features.
        grid: for images [H, W] at each step, [rows, columns] of blocks, which divide H and W: features are their means.
        max_steps: the most steps, evenly spaced from the first to the last; all if left out.
        subtract_median: whether the median of each feature over an input's steps is taken off, which leaves what moves.
        feature_size: D, checked in every input; taken from the first training input if left out.
    """

    size_file = "time_series.json"

    def __init__(
        self,
        time_axis: int = 0,
        grid: list[int] | None = None,
        max_steps: int | None = None,
        subtract_median: bool = False,
        feature_size: int | None = None,
    ):
        positive(max_steps=max_steps, feature_size=feature_size)
        if grid is not None and (len(grid) != 2 or min(grid) < 1):
            raise ValueError(f"grid must be two numbers above 0, got {grid}.")
        self.time_axis, self.grid, self.max_steps, self.feature_size = time_axis, grid, max_steps, feature_size
        self.subtract_median = subtract_median
        self.mean: NDArray[Any] = np.zeros(1)  # [D], as is std; of one number as long as nothing is learned
        self.std: NDArray[Any] = np.ones(1)

    def fit(self, values: Iterable[Any]) -> None:
        count, total, squares = 0, np.zeros(1), np.zeros(1)
        for value in values:
            features = self._features(value)
            self.feature_size = features.shape[1]
            count, total, squares = count + len(features), total + features.sum(0), squares + (features**2).sum(0)
        if not count:
            raise DataError("no training example has a time series, whose means and deviations are to be learned")
        self.mean = total / count
        self.std = np.sqrt(np.maximum(squares / count - self.mean**2, 0)).clip(SMALLEST_STD)

    def load(self, value: Any) -> Tensor:
        """Features float32 [T, D]."""
        features = ((self._features(value) - self.mean) / self.std).astype(np.float32)
        return torch.from_numpy(features)

    def _features(self, value: Any) -> NDArray[np.float64]:
        """The steps that are kept, before they are standardised, [T, D]."""
        is_file = isinstance(value, (str, PurePath))
        array, at = (read_mat(Path(value)), f"{value}: is") if is_file else (as_array(value), "a time series is")
        at += f" an array of {array.dtype} {list(array.shape)}"
        axes = 3 if self.grid else None
        if array.dtype.kind not in "iuf" or array.ndim < 2 or axes not in (None, array.ndim) or not array.size:
            raise DataError(f"{at}, wanted numbers with {axes or 'two or more'} axes")
        if not -array.ndim <= self.time_axis < array.ndim:
            raise DataError(f"{at}, which has no axis {self.time_axis} for time_axis")
        steps = np.moveaxis(array, self.time_axis, 0)  # [T, ...]
        if self.max_steps is not None and len(steps) > self.max_steps:
            steps = steps[np.linspace(0, len(steps) - 1, self.max_steps).round().astype(int)]
        steps = steps.astype(np.float64)
        if self.grid is not None:
            (rows, columns), (height, width) = self.grid, steps.shape[1:]
            if height % rows or width % columns:
                raise DataError(f"{at}, whose images the grid {self.grid} does not divide")
            steps = steps.reshape(len(steps), rows, height // rows, columns, width // columns).mean((2, 4))
        features = steps.reshape(len(steps), -1)  # [T, D]
        if self.subtract_median:
            features = features - np.median(features, 0)
        if self.feature_size not in (None, features.shape[1]) or not np.isfinite(features).all():
            raise DataError(f"{at}, wanted finite numbers with {self.feature_size or 'D'} features at each step")
        return features

    def length(self, value: Any) -> int:
        return len(self._features(value))

    def is_present(self, value: Any) -> bool:
        return True

    def blank(self) -> Tensor:
        return torch.zeros(1, self.known_size())

    def collate(self, loaded: Sequence[Tensor]) -> ModalityInputs:
        """Features float32 [B, L, D], padded with zeros to the longest of the batch, and which steps are there [B, L]."""
        return ModalityInputs(*padded(loaded))

    @property
    def fingerprint(self) -> str:
        learned = hashlib.sha256(self.mean.tobytes() + self.std.tobytes()).hexdigest()
        options = f"{self.time_axis} {self.grid} {self.max_steps} {self.subtract_median} {self.feature_size}"
        return f"time_series {options} {learned}"

    def save(self, folder: Path) -> None:
        learned = {"feature_size": self.feature_size, "mean": self.mean.tolist(), "std": self.std.tolist()}
        write_text(folder / self.size_file, json.dumps(learned))

    def restore(self, folder: Path) -> None:
        file = folder / self.size_file
        try:
            learned = json.loads(file.read_text(encoding="utf-8"))
            mean, std = (np.array(learned[key], np.float64) for key in ("mean", "std"))
            size = int(learned["feature_size"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file}: cannot be read ({error!r}), wanted the means and deviations of a run") from error
        if not mean.shape == std.shape == (size,) or not (np.isfinite(mean) & (std > 0)).all():
            raise CheckpointError(f"{file}: wanted {size} finite means and as many deviations above 0")
        self.mean, self.std, self.feature_size = mean, std, size
