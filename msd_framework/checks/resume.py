"""What a resumed run may change, and what then happens to its state; it may not change what its weights depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from msd_framework.build.facts import RunFacts
from msd_framework.components.specs import Spec, differences
from msd_framework.config.cards import foreign_names, own_names
from msd_framework.config.load import COMMAND_LINE, Source, load, resolve
from msd_framework.config.schema import RunConfig
from msd_framework.config.structure import component_specs, structure_problems, structured
from msd_framework.config.values import join
from msd_framework.engine.checkpoint import CheckpointFolder, holds_run
from msd_framework.errors import CheckpointError, ConfigError, Problem
from msd_framework.launch import is_first
from msd_framework.screen import say

NOTHING = "nothing of what is saved depends on it"
# what may differ from what the run was begun with, and what then happens to what is saved; nothing else may
FREE = {
    "name": NOTHING,
    "run_type": NOTHING,
    "expected": NOTHING,
    "callbacks": "each takes its own state by its name; a new one begins afresh, and what one that is gone knew is dropped",
    "checkpoint": "holds for checkpoints from here on",
    "env": "on another device or number of threads, the same numbers are added in another order",
    "allow": NOTHING,
    "imports": NOTHING,
    "user_dir": NOTHING,
    "teacher.checkpoint": "the teachers must be as many and say the same; only what maskers learned of their inputs is saved",
    "teacher.processors": "the teachers must see what they were trained on",
    "teacher.channels.saliency": "what the teacher says from here on",
    "init.checkpoint": "no more read: the weights are those of the last checkpoint",
    "teacher.cache_dir": NOTHING,
    "data.dataset.root": "the training examples must be the same ones; the best value begins anew with other validation examples",
    "data.test": NOTHING,
    "data.workers": NOTHING,
    "data.cache_mb": NOTHING,
    "data.partners": "examples meet other rows from here on",
    "data.processors_from": "no more read: what the processors learned is in the run's folder",
    "data.max_eval_examples": "the best value and the patience of early stopping begin anew",
    "training.max_updates": "the schedule of the learning rate is that of the new length; the optimizer's state stays",
    "training.max_epochs": "the schedule of the learning rate is that of the new length; the optimizer's state stays",
    "training.accumulate": "the same numbers are added in another order",
    "training.log_every": "from here on",
    "evaluation.monitor": "the best value and the patience of early stopping begin anew; the best checkpoint so far stays",
    "evaluation.metrics": "where it is the monitored one, the best value and the patience of early stopping begin anew",
    "evaluation": "from here on",
}


def at_its_place(source: Source, path: Path) -> Source:
    """A configuration read from `path`, whose run is where its own `config.yaml` lies, wherever it was begun."""
    folder, env = path.parent, source.values.get("env")
    named = env.get("save_dir") if isinstance(env, Mapping) else None
    is_own = path.name == "config.yaml" and source.origin("env.save_dir") != COMMAND_LINE and holds_run(folder)
    if not is_own or not isinstance(env, Mapping) or not isinstance(named, str) or Path(named).resolve() == folder.resolve():
        return source
    if holds_run(Path(named)):
        text = f"{path} is of the run beside it and names {named}, where there is another one."
        raise ConfigError(Problem("env.save_dir", f"{text} Write env.save_dir={folder} or {named}."))
    if is_first():
        say(f"env.save_dir: the run was begun in {named}, and is taken to be in {folder} now.")
    return replace(source, values={**source.values, "env": {**env, "save_dir": str(folder)}})


def resumption(run: RunFacts) -> Iterator[Problem]:
    """What differs from the run in the folder that is gone on with, and why that cannot be gone on with."""
    config, at = run.config, "checkpoint.resume"
    if not config.goes_on:
        return
    folder = Path(config.env.save_dir)
    try:
        last, _ = CheckpointFolder(folder / "checkpoints").newest_whole()
        begun = begun_with(folder, config) if last is not None else None
    except (CheckpointError, ConfigError) as error:
        yield Problem(at, str(error))
        return
    if begun is None:
        text = f"{folder} holds a run whose checkpoints are gone. Bring them back, or name another env.save_dir to begin anew."
        yield Problem(at, text)
        return
    refused = [(key, text) for key, text in _differences(config, begun).items() if not _entry(key)]
    teachers, before = len(config.teacher_folders), len(begun.teacher_folders)
    if teachers != before:
        refused.append(("teacher.checkpoint", f"names {teachers} teachers here and {before} there"))
    for key, text in refused:
        yield Problem(key, f"{text}, in the run that is gone on with. Name another env.save_dir to change it.")


def resume_changes(config: RunConfig) -> list[str]:
    """What a run that is gone on with does otherwise than before, and what that does to what is saved; a line each."""
    if not config.goes_on:
        return []
    lines = []
    for key, text in _differences(config, begun_with(Path(config.env.save_dir), config)).items():
        entry = _entry(key)
        if entry and key not in ("checkpoint.resume", "env.save_dir"):
            lines.append(f"{key} {text}: {FREE[entry]}")
    return lines


def begun_with(folder: Path, config: RunConfig) -> RunConfig:
    """The configuration of the run in a folder, which names no code but what is named in the user's own."""
    try:
        values = resolve(load(folder / "config.yaml")).values
    except ConfigError as error:
        raise ConfigError(f"{folder} cannot be gone on with: {error}") from error
    if structure_problems(values, RunConfig):
        raise ConfigError(f"{folder / 'config.yaml'} is of another version. Name another env.save_dir.")
    for spec in component_specs(values):
        for name in foreign_names(spec, own_names(config)):
            text = f"names {name!r}, which is code and not in this YAML. Name another env.save_dir."
            raise ConfigError(f"{folder / 'config.yaml'} {text}")
    return structured(values, RunConfig)


def _differences(config: RunConfig, begun: RunConfig) -> dict[str, str]:
    here, there = _values_by_key(config), _values_by_key(begun)
    texts = {}
    for key in {**there, **here}:
        # names that were written for a pattern of the same teachers
        is_spelling = key.startswith("teacher.checkpoint") and config.teacher_folders == begun.teacher_folders
        mine, theirs = here.get(key), there.get(key)
        if isinstance(mine, Spec) and isinstance(theirs, Spec):
            text = differences(mine.registry, mine.value, theirs.value)
        else:
            mine, theirs = (value.value if isinstance(value, Spec) else value for value in (mine, theirs))
            text = "" if mine == theirs else f"is {mine!r} here and {theirs!r} there"
        if text and not is_spelling:
            texts[key] = text
    return texts


def _values_by_key(config: RunConfig) -> dict[str, Any]:
    """The components of a configuration and all other values, by key path; a component's free options have keys of their own."""
    values = asdict(config)
    specs, by_key = list(component_specs(values)), dict[str, Any]()
    for spec in specs:
        by_key[spec.path] = spec
        kept = dict(spec.value) if isinstance(spec.value, Mapping) else {}
        for option in list(kept):
            if f"{spec.path}.{option}" in FREE:
                by_key[f"{spec.path}.{option}"] = kept.pop(option)
        if kept:
            by_key[spec.path] = replace(spec, value=kept)
    return by_key | dict(leaves(values, "", tuple(spec.path for spec in specs)))


def leaves(value: Any, at: str, components: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every value of a nest of mappings by its key path, without the components at some paths."""
    if at in components:
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, join(at, key), components)
    elif not any(path.startswith(f"{at}[") for path in components):
        yield at, value


def _entry(key: str) -> str:
    """The entry of `FREE` that a key falls under, the narrowest one; empty if it may not be changed."""
    if key == "evaluation.masker":  # what it learns of the training examples is learned when a run begins
        return ""
    entries = (free for free in FREE if key == free or key.startswith((f"{free}.", f"{free}[")))
    return max(entries, key=len, default="")
