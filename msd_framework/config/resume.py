"""What a resumed run may not change: everything that its weights depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from msd_framework.config.cards import foreign_names, own_names
from msd_framework.config.load import load, resolve
from msd_framework.config.parts import differences
from msd_framework.config.schema import RunConfig
from msd_framework.config.structure import ComponentSlot, component_slots, structure_problems, structured
from msd_framework.config.teachers import teacher_folders
from msd_framework.errors import ConfigError, Problem
from msd_framework.registry import REGISTRIES

FREE = (
    "name",
    "run_type",
    "expected",
    "callbacks",
    "checkpoint",
    "env",
    "allow",
    "imports",
    "user_dir",
    "teacher.checkpoint",
    "teacher.channels.saliency",
    "init.checkpoint",
    "teacher.cache_dir",
    "data.dataset.root",
    "data.test",
    "data.workers",
    "data.cache_mb",
    "data.processors_from",
    "data.max_eval_examples",
    "training.max_updates",
    "training.max_epochs",
    "training.accumulate",
    "training.log_every",
    "evaluation",
)
"""Where a folder lies, how long the run is, what is watched and measured: these may differ from what the run was begun with."""


def goes_on(config: RunConfig) -> bool:
    """Whether a run goes on from its own last checkpoint."""
    last = Path(config.env.save_dir) / "checkpoints" / "last"
    return config.run_type in ("train", "check") and config.checkpoint.resume and last.exists()


def resume_problems(config: RunConfig) -> list[Problem]:
    """What differs from the run in the folder that is gone on with."""
    folder = Path(config.env.save_dir)
    if not goes_on(config):
        return []
    try:
        values = resolve(load(folder / "config.yaml")).values
    except ConfigError as error:
        return [Problem("checkpoint.resume", f"{folder} cannot be gone on with: {error}")]
    if structure_problems(values, RunConfig):
        return [Problem("checkpoint.resume", f"{folder / 'config.yaml'} is of another version. Name another env.save_dir.")]
    begun, own = structured(values, RunConfig), own_names(config)
    foreign = [n for s in component_slots(values) for n in foreign_names(REGISTRIES[s.kind], s.spec, s.path, own)]
    if foreign:
        text = f"{folder / 'config.yaml'} names {foreign[0]!r}, which is code and not in this YAML. Name another env.save_dir."
        return [Problem("checkpoint.resume", text)]
    here, there = dict(_leaves(asdict(config))), dict(_leaves(asdict(begun)))
    texts = {k: _difference(here.get(k), there.get(k)) for k in {**there, **here} if not _is_free(k)}
    teachers, before = len(teacher_folders(config.teacher)), len(teacher_folders(begun.teacher))
    texts["teacher.checkpoint"] = f"names {teachers} teachers here and {before} there" if teachers != before else ""
    text = "{}, in the run that is gone on with. Name another env.save_dir to change it."
    return [Problem(key, text.format(found)) for key, found in texts.items() if found]


def _difference(here: Any, there: Any) -> str:
    """In what two values differ; empty if they do not."""
    if isinstance(here, ComponentSlot) and isinstance(there, ComponentSlot):
        return differences(REGISTRIES[here.kind], here.spec, there.spec)
    return "" if here == there else f"is {_shown(here)} here and {_shown(there)} there"


def _shown(value: Any) -> str:
    return repr(value.spec if isinstance(value, ComponentSlot) else value)


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every value by its key path; components as a whole."""
    slots = {slot.path: slot for slot in component_slots(values)}
    yield from slots.items()
    yield from _plain(values, "", tuple(slots))


def _plain(value: Any, at: str, slots: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if at in slots:
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _plain(inner, f"{at}.{key}" if at else str(key), slots)
    elif not any(s.startswith(f"{at}[") for s in slots):
        yield at, value


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith((f"{free}.", f"{free}[")) for free in FREE)
