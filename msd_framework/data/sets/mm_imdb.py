"""MM-IMDB: the genres of a film, from its poster and its plot (Arevalo et al., 2017)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np

from msd_framework.data.base import DATASETS, Example, MultimodalDataset, RowKeys, check_opening
from msd_framework.data.files import DataFolder, find_layout, missing, unknown_split
from msd_framework.data.rows.json_lines import JsonLines
from msd_framework.data.rows.row import Row, RowBatch, all_texts
from msd_framework.data.rows.rows import OnError
from msd_framework.data.sets.films import DROPPED, FILE, GENRES, MODALITIES, Films, Hdf5Films
from msd_framework.errors import DataError, did_you_mean
from msd_framework.reading import read_json
from msd_framework.structures import DatasetInfo, ModalityKind

ROOT = "data/mm_imdb"
PAGE = "https://archive.org/download/mmimdb/mmimdb.tar.gz"
IMAGE_KEYS = ("image_path", "image_name", "image_id", "imdb_id", "img", "image", "id")  # that may name the poster in MMF's files


@DATASETS.register("mm_imdb")
class MMIMDB(MultimodalDataset):
    """MM-IMDB: a film's poster and plot, and which of 23 genres it has, in any of three layouts.

    `json`, the archive of the authors, with a file and a poster a film; `hdf5`, their `multimodal_imdb.hdf5` of arrays, which
    needs ``pip install h5py``; `mmf`, the files of MMF, `<split>.jsonl`. A film is one example, and of several plots the longest
    is taken. The four genres that the authors drop are dropped. The title, where there is one, is kept with the predictions.

    Args:
        split: train, dev or test.
        root: the folder that holds the layout.
        layout: which it is; the first that is there if `auto`.
        allow_roots: folders outside the root that links to films and posters may lead to; not for the layout of one file.
        max_examples: how many films to take at most, the first ones; all if left out.
        on_error: "raise" stops at the first film that cannot be read; "skip" leaves such films out and counts them.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "dev", "test")
    published: ClassVar[Mapping[str, int]] = {"train": 15_552, "dev": 2_608, "test": 7_799}

    def __init__(
        self,
        split: str,
        root: str = ROOT,
        layout: Literal["auto", "json", "hdf5", "mmf"] = "auto",
        allow_roots: list[str] | None = None,
        max_examples: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ):
        check_opening(type(self), {"root": root, "layout": layout}, split, max_examples)
        layouts: dict[str, type[Films]] = {"json": JsonFilms, "hdf5": Hdf5Films, "mmf": MmfFilms}
        found = layouts[_found(Path(root), layout, split)]
        self.films = found(Path(root), split, max_examples, on_error, allow_roots)
        self.skipped = self.films.skipped

    @classmethod
    def describe(cls, options: Mapping[str, Any]) -> DatasetInfo:
        found = _found(Path(options.get("root", ROOT)), options.get("layout", "auto"), "train")
        modalities: Mapping[str, ModalityKind] = MODALITIES if found == "hdf5" else {"image": "pixels", "text": "tokens"}
        return DatasetInfo(modalities, len(GENRES), "multi_label", GENRES)

    @classmethod
    def check(cls, options: Mapping[str, Any], split: str) -> list[str]:
        root, layout = Path(options.get("root", ROOT)), options.get("layout", "auto")
        needed = _needed(root, split)[_found(root, layout, split)]
        tree = ["split.json", "dataset/<id>.json", "dataset/<id>.jpeg"]
        return unknown_split("mm_imdb", split, cls.splits) or missing(needed, PAGE, tree)

    def __len__(self) -> int:
        return len(self.films)

    def __getitem__(self, index: int) -> Example:
        return self.films[index]

    @property
    def row_keys(self) -> RowKeys:
        hashes = np.array(list(map(hash, self.films.ids)), np.int64)  # a film is known by its id, whatever is said of it
        return RowKeys(hashes, hashes)

    @property
    def fingerprint(self) -> str:
        return self.films.fingerprint


class JsonFilms(Films):
    """A JSON file and a poster a film, as the authors ship them; all files of the split are looked at once."""

    def __init__(self, root: Path, split: str, limit: int | None, on_error: OnError, allowed: Sequence[str] | None = None):
        self.folder, self.skipped, self.ids = DataFolder(root / "dataset", allowed), [], list[str]()
        digest = hashlib.sha256()
        for name in _split_ids(root / "split.json", split):
            if len(self.ids) == limit:
                break
            try:
                digest.update(repr((name, self._film(name).inputs["text"])).encode())
                self.ids.append(name)
            except DataError as error:
                if on_error == "raise":
                    raise
                self.skipped.append(str(error))
        if not self.ids:
            raise DataError(f"{root}: no film of {split} can be read" + (f": {self.skipped[0]}" if self.skipped else ""))
        self.fingerprint = digest.hexdigest()

    def __getitem__(self, index: int) -> Example:
        return self._film(self.ids[index])

    def _film(self, name: str) -> Example:
        file = self.folder.root / f"{name}.json"
        self.folder.check(file.name)
        self.folder.check(f"{name}.jpeg")
        if not file.is_file():
            raise DataError(f"{file}: cannot be read (No such file or directory), and split.json lists {name}")
        return _film(name, Row(read_json(file), str(file), 1), self.folder, str(file))


class MmfFilms(Films):
    """A line a film or a plot, as MMF ships them."""

    def __init__(self, root: Path, split: str, limit: int | None, on_error: OnError, allowed: Sequence[str] | None = None):
        file, images = find_layout(root, f"{split}.jsonl")
        folder = next((f for name in ("mmimdb/dataset", "dataset") if (f := images / name).is_dir()), images)
        self.folder, count = DataFolder(folder, allowed), 0
        longest: dict[str, tuple[int, int, Any]] = {}  # of each film: the length of its plot, its line, its genres

        def check(rows: RowBatch) -> None:
            nonlocal count
            row = rows.one()  # its genres must be those of the film's lines before it
            film = self._film(row)
            size = len(film.inputs["text"])
            length, _, genres = longest.get(film.id, (-1, 0, film.target))
            if genres != film.target:
                raise DataError(f"{row.place}: film {film.id} has other genres here than in an earlier line")
            if size > length:
                longest[film.id] = size, count, genres
            count += 1

        self.lines = JsonLines(file).open(None, check, on_error)
        self.order = [line for _, line, _ in longest.values()][:limit]
        self.ids, self.skipped, self.fingerprint = list(longest)[:limit], self.lines.skipped, self.lines.fingerprint

    def __getitem__(self, index: int) -> Example:
        return self._film(self.lines[self.order[index]])

    def _film(self, row: Row) -> Example:
        key = next((k for k in IMAGE_KEYS if k in row.record), IMAGE_KEYS[0])
        name = PurePosixPath(row.identifier(key)).stem.zfill(7)
        row.path(self.folder, f"{name}.jpeg")
        return _film(name, row, self.folder, row.place)


def _film(name: str, row: Row, folder: DataFolder, source: str) -> Example:
    plots = row.record.get("plot")
    plots = [plots] if isinstance(plots, str) else plots
    if not isinstance(plots, list) or not plots or not all_texts(plots):
        raise row.wrong("plot", "a text, or a list of texts")
    given = row.record.get("genres")
    if not isinstance(given, list):
        raise row.wrong("genres", "a list of genres")
    for genre in given:
        if genre not in GENRES and genre not in DROPPED:
            hint = did_you_mean(str(genre), GENRES)
            raise DataError(f"{row.place}: there is no genre {genre!r}.{hint} Genres: {', '.join((*GENRES, *DROPPED))}")
    facts = {"title": row.text("title")} if isinstance(row.record.get("title"), str) else {}
    inputs = {"image": folder.root / f"{name}.jpeg", "text": max(plots, key=len)}
    return Example(name, inputs, tuple(float(genre in given) for genre in GENRES), source, facts)


def _split_ids(file: Path, split: str) -> list[str]:
    """The ids of a split's films, none of which is in another split."""
    record, of = read_json(file), dict[str, str]()
    for name in MMIMDB.splits:
        listed = record.get(name)
        if not isinstance(listed, list) or not listed:
            known = ", ".join(map(repr, record))
            raise DataError(f"{file}: has no list {name!r}, only {known}; wanted the ids of each split's films")
        for film in listed:
            if not isinstance(film, str) or not film.isascii() or not film.isdigit():
                raise DataError(f"{file}: {name} lists {film!r}, wanted an id in digits, such as '0000008'")
            if film in of:
                raise DataError(f"{file}: film {film} is listed in {of[film]} and again in {name}")
            of[film] = name
    return [film for film, name in of.items() if name == split]


def _found(root: Path, layout: str, split: str) -> str:
    """The layout that is meant; of those that are there the first, the authors' if none is."""
    if layout != "auto":
        return layout
    return next((name for name, file in _needed(root, split).items() if file.is_file()), "json")


def _needed(root: Path, split: str) -> dict[str, Path]:
    return {"json": root / "split.json", "hdf5": root / FILE, "mmf": find_layout(root, f"{split}.jsonl")[0]}
