"""Opens features of regions, whatever they are stored in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msd_framework.data.regions.base import FeatureReader
from msd_framework.data.regions.hdf5 import Hdf5
from msd_framework.data.regions.lmdb import Lmdb
from msd_framework.data.regions.npy import NpyFolder
from msd_framework.data.regions.store import FeatureStore
from msd_framework.errors import DataError, did_you_mean

# What can be read, by the word that may stand before a path; of a path without one, the first that claims it.
READERS: dict[str, type[FeatureReader]] = {reader.kind: reader for reader in (FeatureStore, Lmdb, Hdf5, NpyFolder)}


def open_features(source: str, allow_roots: Sequence[str] | None = None) -> FeatureReader:
    """The features that lie at ``path`` or ``kind:path``; links in a folder of ``.npy`` files may lead to ``allow_roots``."""
    if problems := source_problems(source, allow_roots):
        raise DataError(" ".join(problems))
    kind, path = parse_source(source)
    return NpyFolder(path, allow_roots) if allow_roots else READERS[kind](path)


def source_problems(source: str, allow_roots: Sequence[str] | None = None) -> list[str]:
    """A sentence that says what is wrong with ``path`` or ``kind:path``, or nothing."""
    kind, path = parse_source(source)
    prefix = source.partition(":")[0]
    if kind in READERS and path.exists():
        is_other = bool(allow_roots) and kind != NpyFolder.kind
        return [f"allow_roots is for links in a folder of .npy files, and {path} is of kind {kind}; leave it out."] * is_other
    if not path.exists() and kind == "" and prefix != source and "/" not in prefix:
        return [f"features are of the kinds {', '.join(READERS)}, got {source!r}.{did_you_mean(prefix, READERS)}"]
    if not path.exists():
        return [f"there is no folder {path}; wanted one with a `<image>.npy` for each image, or a store, an LMDB or an HDF5 file."]
    return [f"{path} is no features that can be read; wanted a folder of .npy files, a store, or a file .lmdb, .h5 or .hdf5."]


def parse_source(source: str) -> tuple[str, Path]:
    """The kind of features and their path; the kind is empty where nothing claims the path."""
    kind, colon, path = source.partition(":")
    if colon and kind in READERS:
        return kind, Path(path)
    return next((name for name, reader in READERS.items() if reader.claims(Path(source))), ""), Path(source)
