"""Published weights: a folder or a hub name, read without running what is in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msd_framework.reading import read_json

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

# what torch puts into the names of weights for a module that was compiled, sharded or recomputed
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


@dataclass(frozen=True)
class Pretrained:
    """A published model."""

    source: str  # its folder or hub name, for errors
    config: Mapping[str, Any]  # what its config.json says
    tensors: Mapping[str, Tensor]


def read_pretrained(source: str) -> Pretrained:
    """A model in the layout of transformers, from a folder or a hub name: config.json beside one of `WEIGHT_FILES`."""
    config = read_json(find_file(source, "config.json"))
    return Pretrained(source, config, read_tensors(find_file(source, *WEIGHT_FILES)))


def find_file(source: str, *names: str, download: bool = True) -> Path:
    """The first of these files that a folder or a hub name has; `download` asks the hub for what is not in its cache here."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        for name in names:
            if (folder / name).is_file():
                return folder / name
        raise ValueError(f"the folder {source} has no {' or '.join(names)}")
    from transformers.utils.hub import cached_file

    for name in names:
        try:
            return Path(cached_file(source, name, local_files_only=not download))
        except OSError as error:
            reason = str(error).splitlines()[0]
    files = " or ".join(names)
    where = "on the Hugging Face hub, as far as it can be reached"
    raise ValueError(f"{source!r} is neither a folder here nor a model with {files} {where}: {reason}")


def is_weight_file(name: str) -> bool:
    return Path(name).suffix in (".safetensors", ".pth", ".pt", ".bin")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a torch file that holds nothing but tensors, by their names without wrappers."""
    if not path.is_file():
        raise ValueError(f"there is no weight file {path}")
    return unwrapped(_as_saved(path))


def has_wrappers(path: Path) -> bool:
    if path.suffix == ".safetensors":
        with _safetensors(path) as opened:
            names = list(opened.keys())
    else:
        names = list(_as_saved(path))
    return any(_own_name(name) != name for name in names)


@contextmanager
def _safetensors(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as opened:
            yield opened
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def _as_saved(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        with _safetensors(path) as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn or hostile file can make it raise anything
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is not a file of tensors alone, so it is not read: {reason}") from error
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path} holds something else than tensors by name; save the model's state_dict alone")
    return dict(state)


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without what `torch.compile` and parallel training have put into their names, in any order and any number.

    >>> sorted(unwrapped({"_orig_mod.module.layer._orig_mod.weight": torch.ones(1), "module._orig_mod.bias": torch.ones(1)}))
    ['bias', 'layer.weight']
    """
    return {_own_name(str(name)): tensor for name, tensor in tensors.items()}


def _own_name(name: str) -> str:
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Loads every tensor into a module and leaves none of the module's out, or tells all that does not fit."""
    wanted, shapes = module.state_dict(), []
    missing, unexpected = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    for name in sorted(wanted.keys() & tensors.keys()):
        if tensors[name].shape != wanted[name].shape:
            shapes.append(f"{name} {list(tensors[name].shape)}, wanted {list(wanted[name].shape)}")
    differences = {"it lacks": missing, "it has besides": unexpected, "of another shape": shapes}
    problems = [f"{what} {', '.join(names)}" for what, names in differences.items() if names]
    if problems:
        raise ValueError(f"the weights of {source} do not fit: {'; '.join(problems)}")
    module.load_state_dict(dict(tensors))
