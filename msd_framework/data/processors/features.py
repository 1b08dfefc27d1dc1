"""Features of image regions that a detector or another network has written beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from msd_framework.data.base import PROCESSORS, as_array
from msd_framework.data.files import FilesThatAreThere
from msd_framework.data.processors.vectors import FeatureProcessor
from msd_framework.data.regions.base import FeatureReader, names_of, respelled, wanted
from msd_framework.data.regions.open import open_features, parse_source, source_problems
from msd_framework.errors import DataError
from msd_framework.structures import ModalityInputs


class LoadedRegions(NamedTuple):
    """`Regions` as tensors."""

    features: Tensor
    boxes: Tensor | None = None
    size: tuple[float, float] = (0.0, 0.0)


@PROCESSORS.register("region_features")
class RegionFeatures(FeatureProcessor):
    """Region features in place of an image, found by the last parts of its path without suffix: ``img/42953`` or ``42953``.

    In place of its path there may be the features themselves, an array [N, D], where no boxes are wanted. With ``boxes``, batches
    have extras ``boxes``, float32 [B, L, 5], see `locations`. What is pickled is read without running it.

    Args:
        folder: a folder of `<image>.npy`, an LMDB, an HDF5 file, or a store; `npy:`, `lmdb:`, `hdf5:` or `store:` may say which.
        max_regions: how many regions to keep of an image, the first ones: detectors write the surest first.
        feature_size: D, checked in every image; taken from the first training image if left out.
        boxes: whether a batch says where the regions are.
        allow_roots: folders outside a folder of `.npy` files that links in it may lead to, such as those of a shared disk.
    """

    size_file = "region_features.json"
    free_options = frozenset({"folder", "allow_roots"})

    def __init__(
        self,
        folder: str,
        max_regions: int = 100,
        feature_size: int | None = None,
        boxes: bool = False,
        allow_roots: list[str] | None = None,
    ):
        for name, number in (("max_regions", max_regions), ("feature_size", feature_size)):
            if number is not None and number < 1:
                raise ValueError(f"{name} is {number}, wanted at least 1")
        self.folder, self.max_regions, self.feature_size, self.boxes = folder, max_regions, feature_size, boxes
        self.allow_roots = allow_roots

    @cached_property
    def reader(self) -> FeatureReader:
        return open_features(self.folder, self.allow_roots)

    def fit(self, values: Iterable[Any]) -> None:
        if self.feature_size is None:
            sizes = (self.load(value).features.shape[1] for value in values)
            self.feature_size = next((size for size in sizes if size), None)

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> list[str]:
        return source_problems(options["folder"], options.get("allow_roots"))

    def load(self, value: Any) -> LoadedRegions:
        """An image's regions, N at most ``max_regions``, features in the precision of the file; 0 where nothing was found."""
        if isinstance(value, (np.ndarray, Tensor)):
            return self._in_memory(value)
        reader = self.reader
        for name in self._names(value):
            regions = reader.find(name, self.max_regions, self.boxes)
            if regions is not None:
                break
        else:
            raise reader.missing(Path(value).stem)
        features, boxes, size = regions
        if not features.size:  # the detector found nothing: the array may have any shape, and the image any size
            features = features.reshape(0, self.feature_size or features.shape[-1])
            boxes, size = None if boxes is None else boxes.reshape(0, 4), (1.0, 1.0)
        if self.feature_size not in (None, features.shape[1]):
            shape = [reader.count(name), features.shape[1]]
            raise DataError(f"{reader.place(name)}: holds an array of shape {shape}, {wanted(self.feature_size)}")
        return LoadedRegions(torch.from_numpy(features), None if boxes is None else torch.from_numpy(boxes), size)

    def _in_memory(self, value: Any) -> LoadedRegions:
        features = as_array(value)
        if features.dtype.kind != "f" or features.ndim != 2 or self.feature_size not in (None, features.shape[1]):
            raise DataError(f"features are an array of {features.dtype} {list(features.shape)}, {wanted(self.feature_size)}")
        with np.errstate(over="ignore"):  # which leaves infinity, refused below
            features = features[: self.max_regions].astype(np.float32, order="C")
        if not np.isfinite(features).all():
            raise DataError(f"features hold numbers that are not finite, {wanted(self.feature_size)}")
        if self.boxes:
            raise DataError("features without boxes, wanted the name of an image: its boxes are read with its features")
        return LoadedRegions(torch.from_numpy(features))

    def is_there(self, value: Any, files: FilesThatAreThere) -> bool:
        """Whether an image has regions, and none is known to be of another size without reading it."""
        if isinstance(value, (np.ndarray, Tensor)):
            return True
        name = next(filter(self.reader.__contains__, self._names(value)), None)
        try:
            return name is not None and self.reader.size_of(name) in (None, self.feature_size)
        except (DataError, OSError):
            return False

    def length(self, value: Any) -> int:
        if isinstance(value, (np.ndarray, Tensor)):
            return len(self._in_memory(value).features)
        name = next(filter(self.reader.__contains__, self._names(value)), Path(value).stem)
        return min(self.reader.count(name), self.max_regions)

    def is_present(self, value: Any) -> bool:
        return self.length(value) > 0

    def blank(self) -> LoadedRegions:
        return LoadedRegions(torch.zeros(1, self.known_size()), torch.zeros(1, 4) if self.boxes else None, (1.0, 1.0))

    def _names(self, value: Any) -> Iterator[str]:
        """The names that an image's features may have, the likeliest first."""
        yield from names_of(value, self.reader.depths)
        yield from respelled(value)

    def collate(self, loaded: Sequence[LoadedRegions]) -> ModalityInputs:
        """Features float32 [B, L, D], padded with zeros to the most regions of the batch, and which are there [B, L]."""
        counts = [len(regions.features) for regions in loaded]
        mask = torch.arange(max(1, *counts)) < torch.tensor(counts)[:, None]  # [B, L]
        values = _padded([regions.features for regions in loaded], counts)  # [B, L, D]
        if not self.boxes:
            return ModalityInputs(values, mask)
        boxes = _padded([regions.boxes for regions in loaded if regions.boxes is not None], counts)  # [B, L, 4]
        return ModalityInputs(values, mask, {"boxes": locations(boxes, torch.tensor([regions.size for regions in loaded]))})

    @property
    def files(self) -> str:
        return str(parse_source(self.folder)[1].resolve())

    @property
    def fingerprint(self) -> str:
        return f"region_features {self.max_regions} {self.feature_size}" + " boxes" * self.boxes


def locations(boxes: Tensor, sizes: Tensor) -> Tensor:
    r"""Where regions are in their images, float [B, L, 5], all between 0 and 1:

    .. math:: \left(\frac{x_1}{W}, \frac{y_1}{H}, \frac{x_2}{W}, \frac{y_2}{H}, \frac{(x_2 - x_1)(y_2 - y_1)}{W H}\right)

    of boxes [B, L, 4], x1, y1, x2 and y2 in pixels, and sizes [B, 2], width W and height H of each image in pixels.

    Source: Lu et al., ViLBERT, NeurIPS 2019, section 3.

    >>> locations(torch.tensor([[[10.0, 0.0, 30.0, 40.0]]]), torch.tensor([[40.0, 80.0]]))
    tensor([[[0.2500, 0.0000, 0.7500, 0.5000, 0.2500]]])
    """
    corners = boxes / sizes.repeat(1, 2)[:, None]  # [B, L, 4]
    x1, y1, x2, y2 = corners.unbind(-1)
    return torch.cat([corners, ((x2 - x1) * (y2 - y1))[..., None]], -1)  # [B, L, 5]


def _padded(rows: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Rows [N, D] as float32 [B, L, D], in one copy."""
    values = torch.empty(len(rows), max(1, *counts), rows[0].shape[1])  # [B, L, D]
    for padded, row, count in zip(values, rows, counts):
        padded[:count].copy_(row)
        padded[count:] = 0
    return values
