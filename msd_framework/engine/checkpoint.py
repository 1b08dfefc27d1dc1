"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from msd_framework.errors import CheckpointError

FORMAT = 1
TENSORS = ("model", "objective", "optimizer", "random")
"""The files of tensors in a checkpoint."""

WEIGHTS = ("model", "objective")
"""Those that a model, and what hides modalities from it, are rebuilt from."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run goes on from, or that a model is rebuilt from.

    Args:
        model: the trained model's weights by name.
        objective: what else the objective learned or measured: weightings, means.
        optimizer: the optimizer's tensors, named ``<parameter's index>.<name>``.
        random: the random states of each process, named ``<rank>.<generator>``.
        state: everything else, in JSON's types.
        card: how the model is rebuilt: its component, facts, modalities and classes.
    """

    model: dict[str, Tensor]
    objective: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    random: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)


class CheckpointFolder:
    """The checkpoints of a run: one folder each, and the links `best` and `last`.

    Args:
        folder: where they are.
        keep: how many are kept beside the best and the last one.
    """

    def __init__(self, folder: Path, keep: int = 1):
        self.folder, self.keep = folder, keep

    def save(self, checkpoint: Checkpoint, update: int, best: bool) -> Path:
        """Writes a checkpoint under a temporary name, renames it, and only then lets `best` and `last` point to it.

        `last` comes last: a run that is killed before goes on from the one before, and makes this one again.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self._free_name(update)
        draft = self.folder / f".{final.name}.{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        write(checkpoint, draft)
        draft.rename(final)
        _sync(self.folder)
        for name in ("best", "last") if best else ("last",):
            self._point(name, final)
        self._prune()
        return final

    def path(self, name: str) -> Path | None:
        """Where `best` or `last` is, if it is anywhere."""
        link = self.folder / name
        return link.resolve() if link.exists() else None

    def _free_name(self, update: int) -> Path:
        """Where an update's checkpoint goes; one that was made before may still be pointed to, so it is left alone."""
        name = f"update_{update:08d}"
        names = itertools.chain([name], (f"{name}.{i}" for i in itertools.count(1)))
        return next(self.folder / n for n in names if not (self.folder / n).exists())

    def _point(self, name: str, target: Path) -> None:
        draft = self.folder / f".{name}.{os.getpid()}"
        draft.unlink(missing_ok=True)
        draft.symlink_to(target.name)
        draft.replace(self.folder / name)

    def _prune(self) -> None:
        linked = {self.path("best"), self.path("last")}
        others = sorted(p for p in self.folder.glob("update_*") if p.resolve() not in linked)
        drafts = [p for p in self.folder.glob(".update_*") if p.is_dir()]
        for old in others[: max(0, len(others) - self.keep)] + drafts:
            shutil.rmtree(old, ignore_errors=True)


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a checkpoint's files into a new folder, each flushed to disk, the one with their hashes last."""
    folder.mkdir(parents=True)
    for name in TENSORS:
        tensors = {k: t.detach().to("cpu").contiguous() for k, t in getattr(checkpoint, name).items()}
        save_file(_apart(tensors), folder / f"{name}.safetensors")
    for name in ("state", "card"):
        (folder / f"{name}.json").write_text(json.dumps(getattr(checkpoint, name), indent=1))
    hashes = {p.name: _sha256(p) for p in sorted(folder.iterdir())}
    (folder / "files.json").write_text(json.dumps({"format": FORMAT, "sha256": hashes}, indent=1))
    for path in folder.iterdir():
        _sync(path)


def read(folder: Path, names: Sequence[str] = TENSORS) -> Checkpoint:
    """A checkpoint, with every file that is read compared with the hash that was written with it.

    Args:
        folder: where it is.
        names: which tensors are read; `model` and `objective` are what a model is rebuilt from.

    Raises:
        CheckpointError: if a file is missing or is not what was written.
    """
    check_files(folder, {f"{n}.safetensors" for n in names} | {"state.json", "card.json"})
    tensors = {n: _load_tensors(folder / f"{n}.safetensors") if n in names else {} for n in TENSORS}
    return Checkpoint(**tensors, state=read_json(folder / "state.json"), card=read_json(folder / "card.json"))


def check_files(folder: Path, wanted: Collection[str]) -> None:
    """Compares files of a checkpoint with their hashes."""
    listed = read_json(folder / "files.json")
    if listed.get("format") != FORMAT:
        raise CheckpointError(f"{folder}: is of format {listed.get('format')}, wanted {FORMAT}; it was written by another version.")
    for name, digest in listed["sha256"].items():
        if name not in wanted:
            continue
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: is missing, so this checkpoint is incomplete. Take another one.")
        if _sha256(folder / name) != digest:
            raise CheckpointError(f"{folder / name}: is damaged: its content is not what was written. Take another checkpoint.")


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a user means by a path: itself, or the best one of a run's folder.

    Raises:
        CheckpointError: if there is none.
    """
    given = Path(path)
    for candidate in (given, given / "checkpoints" / "best", given / "checkpoints" / "last", given / "best", given / "last"):
        if (candidate / "files.json").is_file():
            return candidate.resolve()
    if not given.exists():
        raise CheckpointError(f"there is no folder {given}; wanted the folder of a finished run, or one of its checkpoints.")
    raise CheckpointError(f"{given} holds no checkpoint; wanted the folder of a finished run, or one of its checkpoints.")


def read_card(path: str | Path) -> dict[str, Any]:
    """How the model of a checkpoint is rebuilt, without its weights."""
    return read_json(find_checkpoint(path) / "card.json")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: is missing, so this is no complete checkpoint. Take another one.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: is damaged: {error}. Take another checkpoint.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: is damaged: wanted an object, got a {type(found).__name__}. Take another checkpoint.")
    return found


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors, and the rest of it in JSON's types."""
    state = optimizer.state_dict()
    tensors = {f"{i}.{k}": v for i, entry in state["state"].items() for k, v in entry.items() if isinstance(v, Tensor)}
    plain = {str(i): {k: v for k, v in entry.items() if not isinstance(v, Tensor)} for i, entry in state["state"].items()}
    return tensors, {"param_groups": state["param_groups"], "plain": plain}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Puts back what `optimizer_tensors` took."""
    state: dict[int, dict[str, Any]] = {int(i): dict(entry) for i, entry in rest["plain"].items()}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Puts weights into a model that must have exactly these.

    Raises:
        CheckpointError: if names or shapes differ, with the first of them.
    """
    own = model.state_dict()
    shapes = [
        f"{k} is {tuple(own[k].shape)} here and {tuple(weights[k].shape)} there"
        for k in own
        if k in weights and own[k].shape != weights[k].shape
    ]
    names = [f"{k} is missing there" for k in own if k not in weights] + [f"{k} is unknown here" for k in weights if k not in own]
    if shapes or names:
        shown = "; ".join((shapes + names)[:3])
        raise CheckpointError(f"{where}: holds the weights of another model: {shown} ({len(shapes + names)} differences).")
    model.load_state_dict(dict(weights))


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: is damaged: {error}. Take another checkpoint.") from error
    return found


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory (tied weights) as copies, since the file format keeps none shared."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return apart


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
