"""A teacher's outputs on disk: a row an example, found by the example's id, written once and read by many."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msd_framework.array_files import KEY_BYTES, MappedArrays, ResumableWriter, digest, key_of, read_card, read_object, write_card
from msd_framework.errors import CacheError
from msd_framework.files import write_json
from msd_framework.structures import ModelOutput

FORMAT = 1
SUMMARY = "fused.pooled"  # the feature that a store can keep: what the teacher's classifier reads

CARD, STATE, IDS, MARKS, USED = "card.json", "state.json", "ids.bin", "done.bin", "last_used"
MISSING, DONE, UNREADABLE = 0, 1, 2
"""The marks of rows: nothing yet, the teacher's output, or that the example cannot be read."""

KEY = np.dtype(f"S{KEY_BYTES}")  # the hash of an id

LOWEST = float(torch.finfo(torch.float16).min)
CHUNK = 1 << 16
PAGES = 1 << 16  # bytes that the system maps at once where a row is read
RESIDENT = 1 << 22  # bytes of a store's files that may be mapped before they are let go

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """What is stored of an example: logits, the summary that the classifier reads, or both.

    >>> Layout(("full", "image"), num_classes=2, summary_size=0).row_bytes
    41
    """

    views: tuple[str, ...]
    num_classes: int  # 0 where no logits are stored
    summary_size: int  # 0 where no summary is stored

    @cached_property
    def columns(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """The type and the shape of a row in each file."""
        half: np.dtype[Any] = np.dtype("<f2")
        columns: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        if self.num_classes:
            columns["logits"] = half, (len(self.views), self.num_classes)
            columns["maximum"] = np.dtype("<f4"), (len(self.views),)
        if self.summary_size:
            columns["summary"] = half, (len(self.views), self.summary_size)
        return columns

    @property
    def row_bytes(self) -> int:
        """Bytes of an example: its outputs, the hash of its id, its place in the index and its mark."""
        return sum(_row_bytes(*column) for column in self.columns.values()) + KEY.itemsize + 8 + 1

    @property
    def row_size(self) -> str:
        """What a row takes, as a formula."""
        num_views, terms = len(self.views), []
        if self.num_classes:
            terms.append(f"{self.num_classes:,} logits x 2 bytes + 4")
        if self.summary_size:
            terms.append(f"{self.summary_size:,} features x 2 bytes")
        return f"({num_views} view{'s' * (num_views > 1)} x ({' + '.join(terms)}) + 25 bytes)"


@dataclass(frozen=True)
class Card:
    """What a store holds the outputs for."""

    parts: Mapping[str, Any]  # all that the outputs depend on, in JSON's types
    notes: Mapping[str, Any]  # what helps to name a difference in the parts; no output depends on it
    layout: Layout
    created: str  # the time, ISO 8601

    @property
    def fingerprint(self) -> str:
        """The name of the store's folder: the same for the same parts, stored in the same way."""
        return digest([self.parts, asdict(self.layout)])[:32]

    def write(self, file: Path) -> None:
        write_card(file, {"format": FORMAT, "fingerprint": self.fingerprint, **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Card:
        """The card of a store."""
        file = folder / CARD
        values = read_card(file, FORMAT, _damaged)
        try:
            layout = Layout(tuple(values["layout"]["views"]), values["layout"]["num_classes"], values["layout"]["summary_size"])
            card = cls(values["parts"], values["notes"], layout, values["created"])
            name = values["fingerprint"]
        except (KeyError, TypeError) as error:
            raise _damaged(file, f"is no card of a teacher cache ({error!r})") from error
        if not folder.name == name == card.fingerprint:
            raise _damaged(file, f"is that of the store {name}, in a folder of another name")
        return card


class TeacherStore:
    """The outputs of a teacher for one split, open for reading.

    Files: ``card.json`` says what they are the outputs for; ``state.json`` how many rows there are; ``ids.bin`` holds
    the hash of each row's id and ``index_<rows>.bin`` their order; ``logits.bin`` float16 [N, V, C] less their maximum,
    which is in ``maximum.bin``, float32 [N, V]; ``summary.bin`` float16 [N, V, D]; ``done.bin`` a byte a row.

    They are mapped into memory and no row is an object, so that a store of millions takes little memory. To write to a
    store one must hold its lock; readers have the rows that were there when they opened it.
    """

    def __init__(self, folder: Path):
        self.folder, self.card = folder, Card.read(folder)
        self.layout = self.card.layout
        self.reopen()

    @classmethod
    def create(cls, parent: Path, card: Card) -> TeacherStore:
        """A store without rows, which appears whole; the one of this name, if there is one."""
        folder = parent / card.fingerprint
        if not folder.exists():
            draft = parent / f".new-{card.fingerprint}-{os.getpid()}"
            draft.mkdir(parents=True, exist_ok=True)
            try:
                for name in (IDS, MARKS, USED, _index(0), *(f"{c}.bin" for c in card.layout.columns)):
                    (draft / name).touch()
                card.write(draft / CARD)
                write_json(draft / STATE, {"rows": 0, "done": 0})
                draft.rename(folder)
            except OSError:
                shutil.rmtree(draft, ignore_errors=True)
                raise
        return cls(folder)

    def reopen(self) -> None:
        """Maps the files as they are now."""
        state = read_object(self.folder / STATE, _damaged)
        self.num_rows, self._mapped = int(state["rows"]), MappedArrays(_damaged, RESIDENT)
        self.keys = self._map(IDS, KEY)  # [N]
        self.order = self._map(_index(self.num_rows), np.dtype("<i8"))  # [N]
        self.columns = {name: self._map(f"{name}.bin", *column) for name, column in self.layout.columns.items()}  # [N, V, ..]
        self.marks = self._map(MARKS, np.dtype(np.uint8))  # [N]
        if self.num_done < state["done"]:
            raise _damaged(self.folder / MARKS, f"marks {self.num_done} rows as done, wanted {state['done']} at least")

    def _map(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...] = ()) -> NDArray[Any]:
        return self._mapped.open(self.folder / name, dtype, (self.num_rows, *shape), scattered=True)

    @property
    def num_done(self) -> int:
        """How many rows hold an output."""
        return int(np.count_nonzero(self.marks == DONE))

    def add(self, ids: Iterable[str]) -> None:
        """Makes a row for each id that has none, in their order. Needs the lock."""
        num_rows = self.num_rows
        with (self.folder / IDS).open("r+b") as file:
            file.seek(num_rows * KEY.itemsize)  # what lies behind was left by a process that was killed
            for chunk in chunks(ids):
                keys = hashes(chunk)
                new = keys[self.find(keys) < 0]
                file.write(new.tobytes())
                num_rows += len(new)
            file.truncate()
            os.fsync(file.fileno())
        if num_rows > self.num_rows:
            self._extend(num_rows)

    def _extend(self, num_rows: int) -> None:
        """Makes the other files as long as the file of ids, and the new rows count."""
        keys = np.memmap(self.folder / IDS, KEY, mode="r")
        order = np.argsort(keys, kind="stable").astype("<i8", copy=False)
        for start in range(0, num_rows, CHUNK):
            nearby = order[start : start + CHUNK + 1]
            equal = np.flatnonzero(keys[nearby[1:]] == keys[nearby[:-1]])
            if len(equal):
                first, second = sorted(nearby[equal[0] : equal[0] + 2].tolist())
                same = f"examples {first + 1} and {second + 1} of the split have the same id"
                raise CacheError(f"{self.folder}: {same}; ids must differ.")
        for name, column in self.layout.columns.items():
            os.truncate(self.folder / f"{name}.bin", num_rows * _row_bytes(*column))
        # to its old length first: marks that a killed process left behind it are zeros again
        os.truncate(self.folder / MARKS, self.num_rows)
        os.truncate(self.folder / MARKS, num_rows)
        with (self.folder / _index(num_rows)).open("wb") as file:
            file.write(order.tobytes())  # numpy's own writing does not say why it failed
            os.fsync(file.fileno())
        write_json(self.folder / STATE, {"rows": num_rows, "done": self.num_done})
        (self.folder / _index(self.num_rows)).unlink(missing_ok=True)
        self.reopen()

    def find(self, keys: NDArray[Any]) -> Rows:
        """The row of each hash, int64 [B]; -1 where there is none."""
        if self.num_rows == 0:
            return np.full(len(keys), -1)
        at = np.searchsorted(self.keys, keys, sorter=self.order)
        rows = self.order[np.minimum(at, self.num_rows - 1)]
        return np.where(self.keys[rows] == keys, rows, -1)

    def rows(self, ids: Sequence[str], places: Sequence[int] = ()) -> Rows:
        """The row of each example, int64 [B], mostly its place in the split; -1 where there is none."""
        keys, guess = hashes(ids), np.asarray(places, dtype=np.int64)
        self._mapped.reads(len(keys) * (3 + len(self.columns)) * PAGES)
        if len(guess) == len(keys) and (guess < self.num_rows).all() and (self.keys[guess] == keys).all():
            return guess
        return self.find(keys)

    def read(self, rows: Rows, views: Sequence[str]) -> dict[str, Tensor]:
        """What is stored in some rows, [V, B, ..] by column; rows without an output hold zeros."""
        stored = self.layout.views
        for view in views:
            if view not in stored:
                raise ValueError(f"view {view!r} is not in the teacher cache {self.folder}, only {', '.join(stored)}")
        columns, values = list(map(stored.index, views)), {}
        for name, column in self.columns.items():
            read = column[rows]  # [B, V, ..]
            if columns != list(range(len(stored))):
                read = read[:, columns]
            values[name] = torch.from_numpy(read).movedim(0, 1)
        return values

    def touch(self) -> None:
        """Notes that the store was used, where it may be written to."""
        try:
            os.utime(self.folder / USED)
        except OSError:  # somebody else's cache, which may be read all the same
            return

    def settle(self) -> None:
        """Writes down how many rows are done, so that a loss of some is noticed. Needs the lock."""
        self.reopen()
        write_json(self.folder / STATE, {"rows": self.num_rows, "done": self.num_done})


class Writer(ResumableWriter):
    """Writes outputs into rows of a store. A row is marked as done only once its output has reached the disk.

    Several processes may write to different rows at once.
    """

    def __init__(self, store: TeacherStore):
        super().__init__()
        self.store, self.pending = store, list[Rows]()
        self.files = {name: os.open(store.folder / f"{name}.bin", os.O_WRONLY) for name in (*store.layout.columns, "done")}

    def write(self, rows: Rows, output: ModelOutput) -> None:
        """Writes logits [V, B, C] and the summary [V, B, D] of some examples, those of the two that the store keeps."""
        for name, values in encoded(output, self.store.layout).items():
            if not bool(values.isfinite().all()):
                where = f"row {int(rows[0])} or one of the {len(rows) - 1} after it"
                raise CacheError(
                    f"the teacher's {name} of {where} cannot be kept: a number is not finite, or beyond {-LOWEST:,.0f}. "
                    f"Take another teacher, or teacher.cache=false."
                )
            _write_rows(self.files[name], rows, values.movedim(1, 0).contiguous().cpu().numpy())
        self.pending.append(rows)

    def flush(self) -> None:
        """Marks what was written as done."""
        for name in self.store.layout.columns:
            os.fsync(self.files[name])
        for rows in self.pending:
            self.mark(rows, DONE)
        self.pending.clear()

    def mark(self, rows: Rows, mark: int) -> None:
        _write_rows(self.files["done"], rows, np.full(len(rows), mark, np.uint8))

    def close(self) -> None:
        for file in self.files.values():
            os.close(file)


def encoded(output: ModelOutput, layout: Layout) -> dict[str, Tensor]:
    r"""What is stored of some outputs, by column [V, B, ..].

    .. math:: \tilde z_c = z_c - \max_{c'} z_{c'}

    in float16, whose relative error of 2^-11 then falls on numbers that matter little to a softmax where they are large.

    >>> output = ModelOutput(torch.tensor([[[101.25, 100.0]]]))
    >>> encoded(output, Layout(("full",), 2, 0))["logits"]
    tensor([[[ 0.0000, -1.2500]]], dtype=torch.float16)
    """
    columns: dict[str, Tensor] = {}
    if layout.num_classes:
        maximum = output.logits.float().amax(-1)  # [V, B]
        centred = output.logits.float() - maximum[..., None]  # [V, B, C]
        columns = {"logits": torch.where(centred < LOWEST, LOWEST, centred).half(), "maximum": maximum}
    if layout.summary_size:
        columns["summary"] = output.features[SUMMARY].half()
    return columns


def hashes(ids: Iterable[str]) -> NDArray[Any]:
    """A hash of each id, bytes of 16 [B]."""
    return np.frombuffer(b"".join(map(key_of, ids)), KEY)


def chunks(ids: Iterable[str], size: int = CHUNK) -> Iterator[list[str]]:
    """Ids a number at a time, so that never all of them are in memory."""
    rest = iter(ids)
    while chunk := list(islice(rest, size)):
        yield chunk


def how_to_remove(folder: Path) -> str:
    """The command that removes a store, as the end of an error."""
    command = shlex.join(["msd", "cache", "prune", f"dir={folder.parent}", f"only={folder.name}", "yes=true"])
    return f"Remove it with `{command}`; the next run fills it anew."


def _damaged(file: Path, text: str) -> CacheError:
    return CacheError(f"{file}: {text}, so this teacher cache cannot be trusted. {how_to_remove(file.parent)}")


def _row_bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return dtype.itemsize * int(np.prod(shape))


def _index(num_rows: int) -> str:
    return f"index_{num_rows}.bin"


def _write_rows(file: int, rows: Rows, values: NDArray[Any]) -> None:
    """Writes rows at their places, rows that follow each other in one call."""
    row_bytes = values.nbytes // max(1, len(rows))
    starts = np.flatnonzero(np.diff(rows, prepend=rows[:1] - 2) != 1).tolist()
    for start, end in zip(starts, [*starts[1:], len(rows)]):
        rest, offset = memoryview(values[start:end].tobytes()), int(rows[start]) * row_bytes
        while rest:
            written = os.pwrite(file, rest, offset)
            rest, offset = rest[written:], offset + written
