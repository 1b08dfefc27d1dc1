"""Checkpoints as MMF writes them: weights, and what is written beside them, read without running what is in them.

Such a file is a pickle with tensors beside it. torch reads it in its mode for weights alone; what MMF puts in besides, OmegaConf's
objects and numpy's numbers, is taken by stand-ins of this module that keep what they are given and do nothing.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msd_framework.config.load import parse
from msd_framework.data.regions.restricted_pickle import ALLOWED, BUILT
from msd_framework.errors import DataError
from msd_framework.mmf.configs import filled_in
from msd_framework.models.pretrained.weights import unwrapped

ENDINGS = (".pth", ".ckpt", ".pt")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz")
WANTED = "wanted a .pth or .ckpt of MMF, or the folder of a model of its zoo"
REASON = "which is refused, for it could run any code; wanted tensors, numbers, texts, lists, dicts and OmegaConf's containers"


@dataclass(frozen=True)
class MmfCheckpoint:
    """What a checkpoint of MMF holds."""

    source: str  # its file
    tensors: Mapping[str, Tensor]  # by MMF's names, without the ``module.`` of models that were trained in parallel
    config: Mapping[str, Any] = field(default_factory=dict)  # of the run that made it; empty if nobody wrote it down
    score: float | None = None  # the best value of the monitored metric, if the file says
    updates: int | None = None  # after how many it was written, if the file says

    @property
    def monitored(self) -> str:
        """What MMF calls the metric that the score is of."""
        training = self.config.get("training") or {}
        return str((training.get("early_stop") or {}).get("criteria") or "the monitored metric")


def read_checkpoint(path: str | Path) -> MmfCheckpoint:
    """A checkpoint and its configuration, from a file, with a YAML beside it or not, or from a folder, as MMF's zoo has.

    Raises:
        DataError: if it is missing, damaged, or wants to load anything but what such a file holds.
    """
    file = _file(Path(path).expanduser())
    held = _read(file)
    weights = next((held[key] for key in ("model", "state_dict") if isinstance(held.get(key), Mapping)), held)
    tensors, others = {}, []
    for name, value in weights.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        else:
            others.append(str(name))
    tensors = unwrapped(tensors)
    if not tensors or (others and weights is not held):
        there = ", ".join(sorted(others)[:5]) or "nothing"
        raise DataError(f"{file}: holds no model: {there} where its tensors should be; {WANTED}.")
    config = filled_in(_plain(held["config"])) if isinstance(held.get("config"), Mapping) else _beside(file)
    score, updates = held.get("best_metric_value"), held.get("num_updates")
    score, updates = None if score is None else float(score), None if updates is None else int(updates)
    return MmfCheckpoint(str(file), tensors, config, score, updates)


def _file(path: Path) -> Path:
    if path.name.endswith(ARCHIVES):
        raise DataError(f"{path}: is an archive; unpack it and give the folder that comes of it.")
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in ENDINGS)
        if len(files) != 1:
            names = ", ".join(p.name for p in files) or "none"
            raise DataError(f"{path}: has {len(files)} files of weights ({names}), wanted one; name the file.")
        return files[0]
    if not path.is_file():
        raise DataError(f"there is no file {path}; {WANTED}.")
    return path


def _read(file: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(STAND_INS):
            held = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make its reader raise anything
        refused = re.search(r"GLOBAL (\S+)|call reduce for unrecognized function (.+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise DataError(f"{file}: wants to load {refused.group(1) or refused.group(2)}, {REASON}.") from error
        cause = str(error).splitlines()[0].partition(". ")[0] if str(error) else type(error).__name__
        raise DataError(f"{file}: is damaged or no checkpoint ({cause}); {WANTED}.") from error
    if not isinstance(held, Mapping):
        raise DataError(f"{file}: holds a {type(held).__name__}; {WANTED}.")
    return dict(held)


def _beside(file: Path) -> dict[str, Any]:
    """The configuration of MMF's that lies beside a file of weights, if there is one alone."""
    of_mmf = []
    for path in sorted([*file.parent.glob("*.yaml"), *file.parent.glob("*.yml")]):
        values = parse(path).values
        if "model_config" in values:
            of_mmf.append(values)
    return filled_in(of_mmf[0]) if len(of_mmf) == 1 else {}


class _Kept(dict[Any, Any]):
    """An object of OmegaConf's: what a file says that it holds."""

    def __init__(self, *arguments: Any):
        super().__init__()
        self.state: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, Mapping) else {}


def _nothing(*arguments: Any) -> None:
    """What stands in for a call whose result nobody looks at, such as ``typing.Dict[str, Any]``."""


def _plain(value: Any) -> Any:
    """What OmegaConf's objects hold, as dicts, lists and plain values."""
    if isinstance(value, _Kept) and getattr(value, "state", None):
        return _plain(next((value.state[key] for key in CONTENTS if key in value.state), None))
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return list(map(_plain, value))
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


CONTENTS = ("_content", "content", "_val", "val")  # where OmegaConf's objects hold what they hold, by its versions

_KEPT = {
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.base": ("ContainerMetadata", "Metadata", "SCMode"),
    "omegaconf.nodes": ("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode", "ValueNode"),
    "pythia.utils.configuration": ("ConfigNode",),
    "mmf.utils.configuration": ("ConfigNode",),
    "collections": ("defaultdict",),
}
_IGNORED = {
    "typing": ("Any", "Dict", "List", "Union", "Optional", "Tuple"),
    "builtins": ("dict", "list", "str", "int", "float", "bool", "type"),
    "__builtin__": ("dict", "list", "str", "int", "float", "bool", "type", "unicode", "long"),
    "operator": ("getitem",),
    "_operator": ("getitem",),
}

# what such files load besides tensors, and what takes its place here
STAND_INS: list[Any] = [
    *((_Kept, f"{module}.{name}") for module, names in _KEPT.items() for name in names),
    *((_nothing, f"{module}.{name}") for module, names in _IGNORED.items() for name in names),
    *((call, f"{module}.{name}") for (module, name), call in ALLOWED.items()),
    *BUILT,
]
