"""The HDF5 file of MM-IMDB: posters, plots and features as arrays."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msd_framework.data.base import Example
from msd_framework.data.regions.hdf5 import damage_as_data_error
from msd_framework.data.rows.rows import OnError
from msd_framework.data.sets.films import GENRES, Films
from msd_framework.errors import DataError
from msd_framework.structures import ModalityKind

FILE = "multimodal_imdb.hdf5"
ARRAYS = {"image": "images", "text": "sequences", "vgg": "vgg_features", "word2vec": "features"}
"""The array of each modality."""

MODALITIES: dict[str, ModalityKind] = {"image": "pixels", "text": "tokens", "vgg": "features", "word2vec": "features"}
SHAPES: dict[str, tuple[int | None, ...]] = {
    "genres": (None, len(GENRES)),
    "imdb_ids": (None,),
    "images": (None, 3, None, None),
    "sequences": (None,),
    "vgg_features": (None, None),
    "features": (None, None),
}
"""The shape of each array, None where any number will do."""


class Hdf5Films(Films):
    """The films of a split in the authors' HDF5 file, of which an array is read when somebody asks for it.

    Args:
        root: the folder of the file.
        split: train, dev or test.
        limit: how many films to take at most; None for all.
        on_error: makes no difference: the arrays are right as a whole or not at all.

    Raises:
        DataError: if h5py is not installed, or the file lacks an array or has another shape than it must.
    """

    def __init__(self, root: Path, split: str, limit: int | None, on_error: OnError, allowed: Sequence[str] | None = None):
        self.path, self.skipped = root / FILE, []
        if allowed:
            raise DataError(
                f"{self.path}: allow_roots is for links to films and posters, and this is one file of all; leave it out"
            )
        self._process, self._opened = -1, None
        with damage_as_data_error(str(self.path)):
            self._look_at(self._file, split, limit)

    def _look_at(self, file: Any, split: str, limit: int | None) -> None:
        """Reads all but the films' own arrays, of which it looks at the shapes."""
        self._check_shapes(file)
        start, stop = self._rows(file, split)
        self.start, self.size = start, min(stop - start, limit or stop - start)
        names = [bytes(name).decode("ascii", "replace") for name in file["imdb_ids"][()]]
        if len(set(names)) < len(names):
            again = next(name for i, name in enumerate(names) if name in names[:i])
            raise DataError(f"{self.path}: film {again} is there twice; ids must differ")
        self.ids = names[start : start + self.size]
        self.genres = self._genres(file)[start : start + self.size]
        self.fingerprint = hashlib.sha256(repr((split, self.ids)).encode()).hexdigest()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        row = range(self.start, self.start + self.size)[index]
        target = self.genres[row - self.start].tolist()
        return Example(self.ids[row - self.start], _Arrays(self, row), target, f"{self.path}:{row + 1}")

    def read(self, modality: str, row: int) -> Any:
        """One film's array of a modality; a poster is [H, W, 3].

        Raises:
            DataError: if the file is damaged there.
        """
        with damage_as_data_error(f"{self.path}: {ARRAYS[modality]}[{row}]"):
            array = self._file[ARRAYS[modality]][row]
        return array.transpose(1, 2, 0) if modality == "image" else array

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None, "_process": -1}

    @property
    def _file(self) -> Any:
        """The open file; each process opens it for itself, since HDF5 must not be shared with a process that was forked."""
        if self._process != os.getpid():
            try:
                import h5py
            except ImportError as error:
                raise DataError(
                    f"{self.path} is read by h5py, which is not installed: pip install 'msd_framework[hdf5]'"
                ) from error
            try:
                self._opened, self._process = h5py.File(self.path, "r"), os.getpid()
            except OSError as error:
                raise DataError(f"{self.path}: is not an HDF5 file that can be read ({error})") from error
        return self._opened

    def _check_shapes(self, file: Any) -> None:
        for name, wanted in SHAPES.items():
            if name not in file:
                raise DataError(f"{self.path}: has no array {name!r}, only {', '.join(map(repr, file))}")
            found: tuple[int, ...] = getattr(file[name], "shape", ())
            right = len(found) == len(wanted) and all(w in (None, f) for f, w in zip(found, wanted))
            if not right or found[0] != file["genres"].shape[0]:
                told = ", ".join(["films", *("any" if w is None else str(w) for w in wanted[1:])])
                raise DataError(f"{self.path}: {name} has the shape {list(found)}, wanted [{told}]")

    def _rows(self, file: Any, split: str) -> tuple[int, int]:
        """Where the films of a split begin and end."""
        table = file.attrs.get("split")
        fields = getattr(getattr(table, "dtype", None), "names", None) or ()
        if not {"split", "source", "start", "stop"} <= set(fields):
            raise DataError(f"{self.path}: has no attribute 'split' that says which rows are of which split")
        for part in table:
            if (part["split"], part["source"]) == (split.encode(), b"genres"):
                start, stop = int(part["start"]), int(part["stop"])
                if 0 <= start < stop <= len(file["genres"]):
                    return start, stop
                raise DataError(f"{self.path}: {split} is rows {start} to {stop}, and there are {len(file['genres'])}")
        raise DataError(f"{self.path}: its attribute 'split' says nothing of {split}")

    def _genres(self, file: Any) -> np.ndarray[Any, Any]:
        """Which genres each film has in our order, float32 [N, 23]."""
        try:
            names = json.loads(file["genres"].attrs["target_names"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self.path}: genres has no attribute 'target_names' that lists the genres") from error
        if not isinstance(names, list) or sorted(map(str, names)) != sorted(GENRES):
            raise DataError(f"{self.path}: has the genres {names}, wanted {', '.join(GENRES)}")
        found = file["genres"][()]
        if found.dtype.kind not in "iub" or not np.isin(found, (0, 1)).all():
            raise DataError(f"{self.path}: genres holds other numbers than 0 and 1")
        return found[:, [names.index(genre) for genre in GENRES]].astype(np.float32)  # type: ignore[no-any-return]


class _Arrays(Mapping[str, Any]):
    """A film's arrays by modality, each read when it is asked for."""

    def __init__(self, films: Hdf5Films, row: int):
        self.films, self.row = films, row

    def __contains__(self, modality: object) -> bool:
        return modality in ARRAYS  # without reading any

    def __getitem__(self, modality: str) -> Any:
        if modality not in ARRAYS:
            raise KeyError(modality)
        return self.films.read(modality, self.row)

    def __iter__(self) -> Iterator[str]:
        return iter(ARRAYS)

    def __len__(self) -> int:
        return len(ARRAYS)
