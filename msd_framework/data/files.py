"""What data sets share: files that lie inside one folder, and sentences about those that are not there."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence, Set
from pathlib import Path, PurePath

from msd_framework.errors import DataError, did_you_mean

_MAX_FOLDERS = 1024  # whose names are kept


class FilesThatAreThere:
    """Files by the listings of their folders, each made once: a network disk is slow to look for many files one by one."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def __contains__(self, path: str | PurePath) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            if len(self._names) >= _MAX_FOLDERS:
                self._names.clear()
            try:
                self._names[folder] = frozenset(os.listdir(folder or "."))
            except (OSError, ValueError):
                self._names[folder] = frozenset()
        return name in self._names[folder] or os.path.isfile(path)  # some disks tell no A from a


class DataFolder:
    """The folder that a data set's files must not leave but for those allowed; each folder in it is looked at once."""

    def __init__(self, root: Path, allowed: Sequence[str] | None = None):
        self.root = root
        self.allowed = folders(allowed)
        self._doubtful: dict[str, Set[str] | None] = {}

    def check(self, relative: str) -> None:
        head, slash, name = relative.rpartition("/")
        doubtful = self._doubtful_in(head + slash)
        if doubtful is None or name in doubtful or "\0" in name:
            inside(self.root, relative, self.allowed)

    def is_sure_of(self, relatives: Sequence[str]) -> bool:
        """Whether it is beyond doubt that all of these paths stay in the folder."""
        if not relatives:
            return True
        joined = "\0".join(["", *relatives])
        if joined.count("\0") > len(relatives):
            return False
        first = relatives[0][: relatives[0].rfind("/") + 1]
        # all in one folder is the usual case, which three counts tell quicker than a look at each path
        is_one = joined.count("\0" + first) == len(relatives) and joined.count("/") == first.count("/") * len(relatives)
        folders = {first} if is_one else {relative[: relative.rfind("/") + 1] for relative in relatives}
        for folder in folders:
            names = self._doubtful_in(folder)
            if names is None or not {folder + name for name in names}.isdisjoint(relatives):
                return False
        return True

    def _doubtful_in(self, folder: str) -> Set[str] | None:
        """The names in a folder that may lead out of it; None for all, if the folder itself may not be within the root."""
        if folder not in self._doubtful:
            if len(self._doubtful) >= _MAX_FOLDERS:
                self._doubtful.clear()
            self._doubtful[folder] = self._look(folder)
        return self._doubtful[folder]

    def _look(self, folder: str) -> Set[str] | None:
        try:
            with os.scandir(inside(self.root, folder, self.allowed) if folder else self.root) as entries:
                return {"", ".", "..", *(entry.name for entry in entries if entry.is_symlink())}
        except (FileNotFoundError, NotADirectoryError):
            return {"", ".", ".."}
        except (OSError, ValueError):  # it leaves the root, cannot be looked at, or is no name of a folder
            return None


def folders(named: Sequence[str] | None) -> list[Path]:
    """Folders by their names, in which ~ is the user's."""
    return [Path(folder).expanduser() for folder in named or []]


def inside(root: Path, relative: str, allowed: Sequence[Path] = (), option: str = "data.dataset.allow_roots") -> Path:
    """The path of a file in a folder, which it must not leave but for some others that an option names."""
    try:
        real = Path(os.path.realpath(root / relative))
        tops = [Path(os.path.realpath(folder)) for folder in (root, *allowed)]
    except ValueError as error:  # a null character, or one that no file name can hold
        raise DataError(f"{relative!r} is not a file name ({error})") from error
    # a link may lead to a folder that may be used as a whole
    if real in tops[1:] or any(top in real.parents for top in tops[Path(relative).is_absolute() :]):
        return root / relative
    outside = f"{relative!r} does not lie inside {root}"
    if not Path(relative).is_absolute() and os.path.normpath(root / relative).startswith(os.path.normpath(root) + os.sep):
        outside += f": a link leads to {real}. To follow it, set {option}=[{real.parent}]"
    raise DataError(outside)


def plain_texts(texts: Sequence[str]) -> Sequence[str]:
    """Texts in the form in which two of them are the same to a reader: no white space around them, single spaces within."""
    joined = "\0".join(["", *texts, ""])
    is_plain = joined.isascii() and not any(mark in joined for mark in ("  ", " \0", "\0 ", "\t", "\n", "\r"))
    return texts if is_plain else [unicodedata.normalize("NFC", " ".join(text.split())) for text in texts]


def plain_paths(paths: Sequence[str]) -> Sequence[str]:
    r"""Paths in the form in which two of them are the same: img/b.png of ./img/b.png and of img\a\..\b.png."""
    joined = "\0".join(paths)
    if not any(mark in joined for mark in ("./", "//", "\\")):
        return paths
    return [os.path.normpath(path.replace("\\", "/")) for path in paths]


def files_below(root: Path, allowed: Sequence[Path] = (), option: str = "allow_roots") -> Iterator[str]:
    """The files of a folder and of those in it, by name, relative to it; links are followed where `inside` lets them."""

    def walk(folder: str, above: frozenset[str]) -> Iterator[str]:
        with os.scandir(root / folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        for entry in ordered:
            path, real = folder + entry.name, os.path.realpath(entry.path)
            if real in above:  # a link to a folder that it lies in has no end
                continue
            if entry.is_symlink():
                inside(root, path, allowed, option)
            if entry.is_dir():
                yield from walk(f"{path}/", above | {real})
            else:
                yield path

    return walk("", frozenset({os.path.realpath(root)}))


def find_layout(root: Path, file: str) -> tuple[Path, Path]:
    """Where a file of annotations lies, and the folder of the images that go with it: as MMF keeps them, or as published."""
    for subfolder, images in (("annotations", "images"), ("defaults/annotations", "defaults/images")):
        if not (root / file).is_file() and (root / subfolder / file).is_file():
            return root / subfolder / file, root / images
    return root / file, root


def missing(file: Path, page: str, tree: Sequence[str]) -> list[str]:
    """A sentence that says where to get a file and how its folder must look, or nothing if it is there."""
    text = f"{file} is missing: download the data set from {page} and unpack it so that its root holds {', '.join(tree)}."
    return [] if file.is_file() else [text]


def unknown_split(dataset: str, split: str, splits: Sequence[str]) -> list[str]:
    """A sentence that names the nearest split, or nothing if the split is known."""
    text = f"{dataset} has no split {split!r}.{did_you_mean(split, splits)} Its splits: {', '.join(splits)}."
    return [] if split in splits else [text]
