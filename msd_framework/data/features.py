"""Features of image regions that a detector has written beforehand, one ``.npy`` file an image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from msd_framework.data.base import Processor
from msd_framework.data.files import inside
from msd_framework.errors import CheckpointError, DataError
from msd_framework.registry import PROCESSORS
from msd_framework.structures import ModalityInputs
from msd_framework.writing import write_text

FILE = "region_features.json"


@PROCESSORS.register("region_features")
class RegionFeatures(Processor):
    """Region features in place of an image: ``<folder>/<stem of the image>.npy``, float [N, D].

    Rows beyond ``max_regions`` are left out; detectors write the surest regions first. Files are plain arrays: nothing
    pickled is ever read, so an array of objects is an error.

    Args:
        folder: the folder of the `.npy` files, relative to where the run is started.
        max_regions: how many regions to keep of an image.
        feature_size: D, checked in every file; taken from the first training image if left out.

    Raises:
        ValueError: if a number is out of range.

    >>> import numpy, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> numpy.save(folder / "42953.npy", numpy.ones((36, 2048), dtype="float16"))
    >>> features = RegionFeatures(str(folder), max_regions=10)
    >>> batch = features.collate([features.load("img/42953.png")])
    >>> batch.values.shape, batch.values.dtype
    (torch.Size([1, 10, 2048]), torch.float32)
    """

    kind = "features"
    free_options = frozenset({"folder"})

    def __init__(self, folder: str, max_regions: int = 100, feature_size: int | None = None):
        if max_regions < 1:
            raise ValueError(f"max_regions is {max_regions}, wanted at least 1")
        if feature_size is not None and feature_size < 1:
            raise ValueError(f"feature_size is {feature_size}, wanted at least 1")
        self.folder, self.max_regions, self.feature_size = Path(folder), max_regions, feature_size

    def fit(self, values: Iterable[Any]) -> None:
        """Takes the feature size from the first image, unless it was given."""
        if self.feature_size is None:
            self.feature_size = next((self.load(value).shape[1] for value in values), None)

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> list[str]:
        folder = Path(options["folder"])
        return [] if folder.is_dir() else [f"there is no folder {folder}; wanted one with a `<image>.npy` for each image."]

    def load(self, value: Any) -> Tensor:
        """An image's regions, float [N, D] with N at most ``max_regions``, in the precision of the file.

        Raises:
            DataError: if the file is missing, damaged, or holds anything but finite floats [N, D].
        """
        file, stored = self._open(value)
        kept = np.array(stored[: self.max_regions], dtype=stored.dtype.newbyteorder("="))  # a copy, so that the file is closed
        regions = torch.from_numpy(kept)  # [N, D]
        if not regions.float().isfinite().all():
            raise DataError(f"{file}: holds numbers that are no finite float32, {self._wanted}")
        return regions

    def length(self, value: Any) -> int:
        """How many regions are kept of an image, from the head of its file."""
        _, stored = self._open(value)
        return min(len(stored), self.max_regions)

    def collate(self, loaded: Sequence[Tensor]) -> ModalityInputs:
        """Features float32 [B, L, D], padded with zeros to the most regions of the batch, and which are there [B, L]."""
        values = pad_sequence([regions.float() for regions in loaded], batch_first=True)  # [B, L, D]
        counts = torch.tensor([len(regions) for regions in loaded])  # [B]
        return ModalityInputs(values, torch.arange(values.shape[1]) < counts[:, None])

    @property
    def facts(self) -> dict[str, Any]:
        """``feature_size``, once it is known."""
        return {} if self.feature_size is None else {"feature_size": self.feature_size}

    @property
    def files(self) -> str:
        return str(self.folder.resolve())

    @property
    def fingerprint(self) -> str:
        return f"region_features {self.max_regions} {self.feature_size}"

    def save(self, folder: Path) -> None:
        """Writes the feature size."""
        write_text(folder / FILE, json.dumps(self.facts))

    def restore(self, folder: Path) -> None:
        """Reads the feature size, unless it was given.

        Raises:
            CheckpointError: if it is missing or damaged.
        """
        try:
            saved = json.loads((folder / FILE).read_text(encoding="utf-8"))["feature_size"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / FILE}: cannot be read ({error!r}), wanted the feature size of a run") from error
        self.feature_size = self.feature_size or saved

    @property
    def _wanted(self) -> str:
        return f"wanted floats [N, {self.feature_size or 'D'}] with N at least 1"

    def _open(self, value: Any) -> tuple[Path, np.ndarray[Any, Any]]:
        """The file of an image, and the array that it holds, of which nothing but the head is read yet."""
        file = inside(self.folder, f"{Path(value).stem}.npy")
        try:
            stored = np.load(file, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise DataError(f"{file}: no such feature file") from error
        except Exception as error:  # a damaged file can make numpy raise anything
            raise DataError(f"{file}: is not a plain array that can be read without unpickling ({error})") from error
        if not isinstance(stored, np.ndarray) or stored.dtype.kind != "f" or stored.dtype.itemsize > 8:
            raise DataError(f"{file}: holds {getattr(stored, 'dtype', 'several arrays')}, {self._wanted}")
        if stored.ndim != 2 or 0 in stored.shape or self.feature_size not in (None, stored.shape[1]):
            raise DataError(f"{file}: holds an array of shape {list(stored.shape)}, {self._wanted}")
        return file, stored
