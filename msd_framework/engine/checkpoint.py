"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import reprlib
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from msd_framework.array_files import read_object
from msd_framework.errors import CheckpointError
from msd_framework.files import sync_folder

FORMAT = 1
TENSORS = ("model", "objective", "optimizer", "random")  # the files of tensors in a checkpoint
WEIGHTS = ("model", "objective")  # those that a model, and what hides modalities from it, are rebuilt from
# the name of a checkpoint's folder: its update, and how many checkpoints of that update there were before
NAME = re.compile(r"update_(\d{8,})(?:\.(\d+))?")
DRAFT = re.compile(r"\.update_\d{8,}(?:\.\d+)?\.(\d+)")  # the name while a process, whose number comes last, is writing it


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run goes on from, or that a model is rebuilt from."""

    model: dict[str, Tensor]  # the trained model's weights by name
    objective: dict[str, Tensor] = field(default_factory=dict)  # what else the objective learned or measured: weightings, means
    optimizer: dict[str, Tensor] = field(default_factory=dict)  # named ``<parameter's index>.<name>``
    random: dict[str, Tensor] = field(default_factory=dict)  # the random states of each process, named ``<rank>.<generator>``
    state: dict[str, Any] = field(default_factory=dict)  # everything else, in JSON's types
    card: dict[str, Any] = field(default_factory=dict)  # how the model is rebuilt: its component, facts, modalities and classes


class CheckpointFolder:
    """The checkpoints of a run, a folder each.

    Where the file system has symbolic links, `best` and `last` lead to two of them, for people. Nothing here relies on links, since
    object stores, archives and some file systems lose them. So many as `keep` are kept beside the best and the last one.
    """

    def __init__(self, folder: Path, keep: int = 1):
        self.folder, self.keep = folder, keep
        self.best: str | None = None
        self.written: list[str] = []

    def save(self, checkpoint: Checkpoint, update: int, best: bool) -> Path:
        """Writes a checkpoint under a temporary name and renames it; from then on it is the last one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self._free_name(update)
        draft = self.folder / f".{final.name}.{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        now_best = final.name if best else self.best
        written = [name for name in self.written if (self.folder / name).is_dir()] + [final.name]
        state = {**checkpoint.state, "best_checkpoint": now_best, "written": written}
        try:
            write(replace(checkpoint, state=state), draft)
            draft.rename(final)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        self.best, self.written = now_best, written
        with suppress(OSError):  # network disks may not be able to
            sync_folder(self.folder)
        self._link("best", self.best)
        self._link("last", final.name)
        self._prune({self.best, final.name})
        return final

    def go_on_from(self, state: Mapping[str, Any], keeps_best: bool = True) -> None:
        """Takes up the run that a checkpoint's state is of; if its best is no longer the best, that one is never deleted."""
        best = _name_of_best(self.folder, state)
        self.best = best if keeps_best else None
        self.written = []
        for name in map(str, state.get("written", [])):
            # Whoever edits the file must not make us delete another folder.
            if NAME.fullmatch(name) and (keeps_best or name != best):
                self.written.append(name)

    def path(self, name: str) -> Path | None:
        """Where `best` or `last` is, if it is anywhere."""
        saved = _saved(self.folder)
        if not saved or name == "last":
            return saved[-1] if saved else None
        best = _name_of_best(self.folder, read_json(saved[-1] / "state.json"))
        if best is None:  # of a run that never validated
            return saved[-1]
        # Some tools copy what the link `best` leads to under its name, and leave out the rest.
        for path in (self.folder / best, self.folder / "best"):
            if path in saved:
                return path
        names = ", ".join(path.name for path in saved)
        raise CheckpointError(f"{self.folder / best}: the best checkpoint of this run is missing. Name another one: {names}.")

    def newest_whole(self) -> tuple[Path | None, list[str]]:
        """The last checkpoint of which every file is what was written, and what is wrong with those that came after it."""
        damaged = []
        for path in sorted(self.folder.glob("update_*")):  # what has lost the list of its files
            if NAME.fullmatch(path.name) and not (path / "files.json").is_file():
                damaged.append(f"{path / 'files.json'}: is missing")
        for path in reversed(_saved(self.folder)):
            try:
                check_files(path)
                return path, damaged
            except CheckpointError as error:
                damaged.append(str(error))
        if self.holds_some:
            why = f": {damaged[0].rstrip('.')}" if damaged else ""
            raise CheckpointError(
                f"{self.folder}: holds no whole checkpoint to go on from{why}. Bring the files back, or name another env.save_dir."
            )
        return None, []

    @property
    def holds_some(self) -> bool:
        """Whether there is anything but what a killed run left half-written."""
        return self.folder.is_dir() and any(not path.name.startswith(".") for path in self.folder.iterdir())

    def _free_name(self, update: int) -> Path:
        path = first = self.folder / f"update_{update:08d}"
        again = 0
        while path.exists():
            again += 1
            path = first.with_name(f"{first.name}.{again}")
        return path

    def _link(self, name: str, target: str | None) -> None:
        """Lets a link lead to a checkpoint, or takes it away; where there are no links, nothing is lost."""
        link, draft = self.folder / name, self.folder / f".{name}.{os.getpid()}"
        with suppress(OSError, CheckpointError):
            if link.is_dir() and not link.is_symlink():  # a copy of what a link led to, which would soon be out of date
                link.rename(self._free_name(_update(link)))
            if target is None:
                link.unlink(missing_ok=True)
                return
            draft.unlink(missing_ok=True)
            draft.symlink_to(target)
            draft.replace(link)

    def _prune(self, wanted: Collection[str | None]) -> None:
        """Deletes checkpoints of this run that are too many, and what a process that is gone left half-written."""
        others = [name for name in self.written if name not in wanted]
        for name in others[: max(0, len(others) - self.keep)]:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for path in list(self.folder.iterdir()):
            draft = DRAFT.fullmatch(path.name)
            if draft and not _is_alive(int(draft[1])):
                shutil.rmtree(path, ignore_errors=True)


def holds_run(folder: Path) -> bool:
    """Whether a folder has a run in it that has come as far as its first checkpoint, be that still there or not."""
    if CheckpointFolder(folder / "checkpoints").holds_some or (folder / "report.json").exists():
        return True
    try:
        first = None  # update with a validation: a checkpoint follows, and a line of a later update shows that there was one
        for line in map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
            if first is not None and line["update"] > first:
                return True
            if first is None and any(key.startswith("validation/") for key in line):
                first = line["update"]
        return False
    except (OSError, ValueError, TypeError, KeyError):
        return False


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a checkpoint's files into a new folder, each flushed to disk, the one with their hashes last."""
    path = folder
    try:
        folder.mkdir(parents=True)
        for name in ("state", "card"):
            path = folder / f"{name}.json"
            path.write_text(json.dumps(getattr(checkpoint, name), indent=1), encoding="utf-8")
        for name in TENSORS:
            path = folder / f"{name}.safetensors"
            save_file(_apart(getattr(checkpoint, name)), path)
            with suppress(OSError):  # safetensors lets nobody else read it, whatever the umask; some disks know no modes
                path.chmod((folder / "card.json").stat().st_mode)
        hashes = {p.name: _sha256(p) for p in sorted(folder.iterdir())}
        path = folder / "files.json"
        path.write_text(json.dumps({"format": FORMAT, "sha256": hashes}, indent=1), encoding="utf-8")
        for path in folder.iterdir():
            sync_folder(path)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        why = "the disk is full" if full else getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            f"{path}: cannot be written: {why}. Make room, or name another env.save_dir; what was saved before is as it was."
        ) from error


def read(folder: Path, names: Sequence[str] = TENSORS) -> Checkpoint:
    """A checkpoint with some of its tensors; every file that is read is compared with the hash that was written with it.

    Raises:
        CheckpointError: if a file is missing or is not what was written.
    """
    check_files(folder, [*(f"{name}.safetensors" for name in names), "state.json", "card.json"])
    tensors: dict[str, dict[str, Tensor]] = {name: {} for name in TENSORS}
    for name in names:
        path = folder / f"{name}.safetensors"
        try:
            tensors[name] = load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: is damaged: {error}. Take another checkpoint.") from error
    return Checkpoint(**tensors, state=read_json(folder / "state.json"), card=read_json(folder / "card.json"))


def check_files(folder: Path, wanted: Collection[str] | None = None) -> None:
    """Compares files of a checkpoint with their hashes: those that are wanted, or all of them."""
    listed = read_json(folder / "files.json")
    if listed.get("format") != FORMAT:
        raise CheckpointError(f"{folder}: is of format {listed.get('format')}, wanted {FORMAT}; it was written by another version.")
    hashes = listed.get("sha256")
    if not isinstance(hashes, dict):
        raise CheckpointError(f"{folder / 'files.json'}: is damaged: it lists no hashes. Take another checkpoint.")
    for name, digest in hashes.items():
        if wanted is not None and name not in wanted:
            continue
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: is missing, so this checkpoint is incomplete. Take another one.")
        if _sha256(folder / name) != digest:
            raise CheckpointError(f"{folder / name}: is damaged: its content is not what was written. Take another checkpoint.")


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a user means by a path: itself, or the best one of a run's folder."""
    given = Path(path)
    is_link = given.is_symlink() or not given.exists()
    if given.name in ("best", "last") and is_link and _saved(given.parent):  # wherever the link leads, if it is one
        named = CheckpointFolder(given.parent).path(given.name)
        assert named is not None
        return named.resolve()
    if (given / "files.json").is_file():
        return given.resolve()
    for folder in (given / "checkpoints", given):
        best = CheckpointFolder(folder).path("best")
        if best is not None:
            return best.resolve()
    if not given.exists():
        raise CheckpointError(f"there is no folder {given}; wanted the folder of a finished run, or one of its checkpoints.")
    raise CheckpointError(f"{given} holds no checkpoint; wanted the folder of a finished run, or one of its checkpoints.")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint."""

    def damaged(file: Path, text: str) -> CheckpointError:
        if text == "is missing":
            return CheckpointError(f"{file}: is missing, so this is no complete checkpoint. Take another one.")
        return CheckpointError(f"{file}: {text}. Take another checkpoint.")

    return read_object(path, damaged)


def misfit(saved: Any, own: Any, at: str = "") -> str:
    """In what a saved state has another form than a run's own, such as a text for a number; empty if in nothing.

    What one of them lacks is no misfit: versions of torch differ in that.

    >>> misfit({"groups": [{"lr": "fast"}]}, {"groups": [{"lr": 0.1}]})
    "groups[0].lr is 'fast' (str), wanted float"
    """
    if own is None:
        return ""
    is_alike = isinstance(saved, _types_in_json(own)) and not (isinstance(saved, int) and saved.bit_length() > 64)
    if not is_alike:
        return f"{at or 'it'} is {reprlib.repr(saved)} ({type(saved).__name__}), wanted {type(own).__name__}"
    wrong: list[str] = []
    if isinstance(own, Mapping):
        for key in own:
            if key in saved:
                wrong.append(misfit(saved[key], own[key], f"{at}.{key}" if at else str(key)))
    elif isinstance(own, (list, tuple)):
        if len(saved) != len(own):
            return f"{at} has {len(saved)} items, wanted {len(own)}"
        for i, (one, inner) in enumerate(zip(saved, own)):
            wrong.append(misfit(one, inner, f"{at}[{i}]"))
    return next(filter(None, wrong), "")


def _types_in_json(own: Any) -> tuple[type, ...]:
    """The types in which JSON gives back a value."""
    if isinstance(own, bool):
        return (bool,)
    for types in ((int, float), (list, tuple), (Mapping,)):
        if isinstance(own, types):
            return types
    return (type(own),)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Puts weights into a model that must have exactly these; an error tells the first differences."""
    differences = []
    try:
        # A part that learned its tensors' shapes, such as the means of a masker, makes room for them in a hook of its own.
        result = model.load_state_dict(dict(weights), strict=False)
        missing, unknown = result.missing_keys, result.unexpected_keys
    except RuntimeError:
        own = model.state_dict()
        missing = []
        for name, tensor in own.items():
            if name not in weights:
                missing.append(name)
            elif tensor.shape != weights[name].shape:
                differences.append(f"{name} is {tuple(tensor.shape)} here and {tuple(weights[name].shape)} there")
        unknown = [name for name in weights if name not in own]
        if not (differences or missing or unknown):
            raise
    for name in missing:
        differences.append(f"{name} is missing there")
    for name in unknown:
        differences.append(f"{name} is unknown here")
    if differences:
        count = f"{len(differences)} difference{'s' * (len(differences) != 1)}"
        raise CheckpointError(f"{where}: holds the weights of another model: {'; '.join(differences[:3])} ({count}).")


def _name_of_best(folder: Path, state: Mapping[str, Any]) -> str | None:
    """The best checkpoint of a run that has come to this state; older versions wrote down its value alone, and a link."""
    if "best_checkpoint" in state or state.get("best") is None:
        name = state.get("best_checkpoint")
        return None if name is None else str(name)
    for path in _saved(folder):
        if read_json(path / "state.json").get("best") == state["best"]:
            return path.name
    return None


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin like this, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def put_under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names begin like this, of those without it."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU, and those that share memory (tied weights) as copies: the file format keeps none shared."""
    storages: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().to("cpu").contiguous()
        storage = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    return apart


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _saved(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    saved = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if not path.name.startswith(".") and not path.is_symlink() and (path / "files.json").is_file():
            saved.append(path)
    return sorted(saved, key=_order)


def _order(path: Path) -> tuple[int, int]:
    """The update of a checkpoint, by its name where its state cannot be read, and how many of that update there were before."""
    name = NAME.fullmatch(path.name)
    try:
        update = _update(path)
    except CheckpointError:
        update = int(name[1]) if name else -1
    return update, int(name[2] or 0) if name else -1


def _update(path: Path) -> int:
    update = read_json(path / "state.json").get("update")
    if not isinstance(update, int):
        raise CheckpointError(f"{path / 'state.json'}: is damaged: it names no update. Take another checkpoint.")
    return update


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
