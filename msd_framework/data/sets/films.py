"""Films with genres: what each layout of MM-IMDB gives, and the authors' HDF5 file of posters, plots and features."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from msd_framework.data.base import Example
from msd_framework.data.regions.hdf5 import Hdf5File, damage_as_data_error
from msd_framework.data.rows.rows import OnError
from msd_framework.errors import DataError
from msd_framework.structures import ModalityKind

# The 23 genres of the task, the commonest first, as the authors number them.
GENRES = (
    *("Drama", "Comedy", "Romance", "Thriller", "Crime", "Action", "Adventure", "Horror", "Documentary", "Mystery", "Sci-Fi"),
    *("Fantasy", "Family", "Biography", "War", "History", "Music", "Animation", "Musical", "Western", "Sport", "Short"),
    "Film-Noir",
)
DROPPED = ("News", "Adult", "Talk-Show", "Reality-TV")  # of less than 100 films, which are not part of the task
FILE = "multimodal_imdb.hdf5"
ARRAYS = {"image": "images", "text": "sequences", "vgg": "vgg_features", "word2vec": "features"}  # by modality
MODALITIES: dict[str, ModalityKind] = {"image": "pixels", "text": "tokens", "vgg": "features", "word2vec": "features"}
SHAPES: dict[str, tuple[int | None, ...]] = {  # None where any number will do
    "genres": (None, len(GENRES)),
    "imdb_ids": (None,),
    "images": (None, 3, None, None),
    "sequences": (None,),
    "vgg_features": (None, None),
    "features": (None, None),
}


class Films(ABC):
    """The films of a split in one layout."""

    ids: list[str]
    skipped: list[str]  # a sentence for each film that was left out
    fingerprint: str

    @abstractmethod
    def __init__(self, root: Path, split: str, limit: int | None, on_error: OnError, allowed: Sequence[str] | None = None): ...

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def __getitem__(self, index: int) -> Example: ...


class Hdf5Films(Films):
    """The films of a split in the authors' HDF5 file, of which an array is read when somebody asks for it.

    The arrays are right as a whole or not at all, so that no film is left out.
    """

    def __init__(self, root: Path, split: str, limit: int | None, on_error: OnError, allowed: Sequence[str] | None = None):
        self.path, self.skipped = root / FILE, []
        if allowed:
            text = "allow_roots is for links to films and posters, and this is one file of all; leave it out"
            raise DataError(f"{self.path}: {text}")
        self.file = Hdf5File(self.path)
        with damage_as_data_error(str(self.path)):
            file = self.file.root
            self._check_shapes(file)
            self.start, stop = self._rows(file, split)
            chosen = slice(self.start, min(stop, self.start + limit) if limit else stop)
            names = [bytes(name).decode("ascii", "replace") for name in file["imdb_ids"][()]]
            if len(set(names)) < len(names):
                again = next(name for i, name in enumerate(names) if name in names[:i])
                raise DataError(f"{self.path}: film {again} is there twice; ids must differ")
            self.ids, self.genres = names[chosen], self._genres(file)[chosen]
        self.fingerprint = hashlib.sha256(repr((split, self.ids)).encode()).hexdigest()

    def __getitem__(self, index: int) -> Example:
        row = self.start + range(len(self))[index]
        target = self.genres[index].tolist()
        return Example(self.ids[index], _Arrays(self, row), target, f"{self.path}:{row + 1}")

    def read(self, modality: str, row: int) -> Any:
        """One film's array of a modality; a poster is [H, W, 3]."""
        with damage_as_data_error(f"{self.path}: {ARRAYS[modality]}[{row}]"):
            array = self.file.root[ARRAYS[modality]][row]
        return array.transpose(1, 2, 0) if modality == "image" else array

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
        return found[:, list(map(names.index, GENRES))].astype(np.float32)  # type: ignore[no-any-return]


class _Arrays(Mapping[str, Any]):
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
