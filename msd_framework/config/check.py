"""Everything that is wrong with a configuration, found at once and before any data or weight is loaded."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from msd_framework.config.load import Source, located, resolve
from msd_framework.config.schema import RunConfig
from msd_framework.config.structure import component_slots, structure_problems, structured
from msd_framework.engine.checkpoint import find_checkpoint, read_card, read_json
from msd_framework.errors import CheckpointError, ConfigError, Problem, did_you_mean
from msd_framework.options import options_of
from msd_framework.registry import DATASETS, MASKERS, METRICS, MODELS, OBJECTIVES, PROCESSORS, REGISTRIES, Registry, nested, split
from msd_framework.structures import FULL, DatasetInfo, Setting, visible_modalities

FACTS = {
    "num_classes": 2,
    "task": "single_label",
    "class_names": (),
    "vocab_size": 30522,
    "pad_id": 0,
    "cls_id": 2,
    "sep_id": 3,
    "image_size": 224,
    "image_channels": 3,
    "feature_size": 2048,
    "seed": 0,
}
"""What a run fills in where a component asks for it by name, with stand-ins for what is not known before data is read."""

CONTEXT = {"objectives": ("model", "teacher", "masker"), "datasets": ("split", "on_error", "max_examples")}
"""Arguments that only the run can give, by the kind of component that takes them."""

CHEAP = {"maskers", "task_losses", "distillation_losses", "saliencies", "weightings", "metrics", "optimizers", "schedulers", "callbacks"}
"""Kinds that are built to be checked: their constructors read nothing and allocate nothing to speak of."""


def checked(source: Source) -> RunConfig:
    """The configuration, once nothing is wrong with it.

    Raises:
        ConfigError: with every problem that was found, each with the place that it was written at.
    """
    source = resolve(source)
    problems = structure_problems(source.values, RunConfig)
    if problems:
        raise ConfigError(*(located(p, source) for p in problems))
    config = structured(source.values, RunConfig)
    problems = import_problems(config) or component_problems(config)
    if not problems:
        problems = [*data_problems(config), *run_problems(config)]
        problems = problems or pairing_problems(config)
    if problems:
        raise ConfigError(*(located(p, source) for p in problems))
    return config


def import_problems(config: RunConfig) -> list[Problem]:
    """Imports a user's own modules, so that their components have names."""
    problems = []
    for i, module in enumerate(config.imports):
        try:
            importlib.import_module(module)
        except ImportError as error:
            problems.append(Problem(f"imports[{i}]", f"the module {module!r} cannot be imported: {error}."))
    if config.user_dir is not None:
        folder = Path(config.user_dir)
        if not folder.is_dir():
            return [*problems, Problem("user_dir", f"there is no folder {folder}.")]
        for path in sorted(folder.rglob("*.py")):
            name = "msd_user_dir." + ".".join(path.relative_to(folder).with_suffix("").parts)
            if name not in sys.modules:
                problems += _import_file(name, path)
    return problems


def component_problems(config: RunConfig) -> list[Problem]:
    """Names and options that components do not have, values of a wrong type, and values that a constructor refuses."""
    problems = []
    for slot in component_slots(config):
        context = CONTEXT.get(slot.kind, ())
        found = REGISTRIES[slot.kind].check(slot.spec, slot.path, FACTS, context)
        problems += found or _refusals(REGISTRIES[slot.kind], slot.spec, slot.path)
    return problems


def data_problems(config: RunConfig) -> list[Problem]:
    """Splits that do not exist and files that are missing."""
    data = config.data
    name, options = split(data.dataset, "data.dataset", DATASETS)
    dataset = DATASETS.get(name)
    problems = []
    for use in ("train", "validation", "test"):
        wanted = getattr(data, use)
        if wanted is not None:
            problems += [(use, text) for text in dataset.check(options, wanted)]
    merged: dict[str, str] = {}
    for use, text in problems:  # one missing root is one problem, not one a split
        merged.setdefault(text, use)
    found = [Problem(f"data.{use}", text) for text, use in merged.items()]
    info = dataset.describe(options)
    for modality in data.processors:
        if modality not in info.modalities:
            hint = did_you_mean(modality, info.modalities)
            known = ", ".join(info.modalities)
            found.append(Problem(f"data.processors.{modality}", f"{name} has no such modality.{hint} It has {known}."))
    return found


def run_problems(config: RunConfig) -> list[Problem]:
    """Lengths, sizes, devices and folders that do not go together."""
    training, problems = config.training, []
    needs = {"train": "train", "check": "train", "val": "validation", "test": "test", "predict": "test"}[config.run_type]
    if getattr(config.data, needs) is None:
        problems.append(Problem(f"data.{needs}", f"must name a split of the data set for run_type={config.run_type}."))
    if config.run_type in ("train", "check") and (training.max_updates is None) == (training.max_epochs is None):
        both = training.max_updates is not None
        problems.append(
            Problem("training.max_updates", f"wanted either max_updates or max_epochs, got {'both' if both else 'neither'}.")
        )
    positive = {
        "training.max_updates": training.max_updates,
        "training.max_epochs": training.max_epochs,
        "training.batch_size": training.batch_size,
        "training.accumulate": training.accumulate,
        "training.clip_norm": training.clip_norm,
        "training.log_every": training.log_every,
        "evaluation.batch_size": config.evaluation.batch_size,
        "evaluation.every_updates": config.evaluation.every_updates,
        "checkpoint.every_updates": config.checkpoint.every_updates,
        "data.max_train_examples": config.data.max_train_examples,
        "data.max_eval_examples": config.data.max_eval_examples,
    }
    problems += [Problem(p, f"must be above 0, got {v}.") for p, v in positive.items() if v is not None and v <= 0]
    zero = {"data.workers": config.data.workers, "data.cache_mb": config.data.cache_mb, "checkpoint.keep": config.checkpoint.keep}
    zero |= {"env.threads": config.env.threads, "seed": config.seed}
    problems += [Problem(p, f"must be 0 or more, got {v}.") for p, v in zero.items() if v < 0]
    parts = int(os.environ.get("WORLD_SIZE", "1")) * training.accumulate
    if training.accumulate > 0 and training.batch_size % parts:
        problems.append(
            Problem("training.batch_size", f"must be a multiple of processes times training.accumulate ({parts}), got {training.batch_size}.")
        )
    if config.env.device == "cuda" and not torch.cuda.is_available():
        problems.append(Problem("env.device", "this machine has no GPU that torch can use. Set env.device=cpu or auto."))
    return problems + _folder_problems(config)


def pairing_problems(config: RunConfig) -> list[Problem]:
    """What model, teacher, data, views, losses and metrics do not agree on."""
    name, options = split(config.model, "model", MODELS)
    model = MODELS.get(name)
    dataset, data_options = split(config.data.dataset, "data.dataset", DATASETS)
    info: DatasetInfo = DATASETS.get(dataset).describe(data_options)
    modalities = model.modalities_of(options)
    problems = [
        Problem("model", f"{name} takes {m!r}, which {dataset} does not have; it has {', '.join(info.modalities)}.")
        for m in modalities
        if m not in info.modalities
    ]
    problems += [
        Problem("data.processors", f"nothing says how {m!r} becomes tensors, which the model takes. Add data.processors.{m}.")
        for m in modalities
        if m in info.modalities and m not in config.data.processors
    ]
    if problems:
        return problems
    kinds = {m: PROCESSORS.get(split(s, "", PROCESSORS)[0]).kind for m, s in config.data.processors.items()}
    teacher, problems = _teacher(config, info)
    setting = Setting(info, modalities, teacher.modalities if teacher else None, kinds)
    problems += [Problem("model", text) for text in model.check(options, setting)]
    problems += _objective_problems(config, setting) if not problems else []
    problems += _view_problems(config, setting)
    problems += _task_problems(config, info)
    return problems + _monitor_problems(config)


@dataclass(frozen=True)
class TeacherFacts:
    """What is known of a teacher without its weights."""

    modalities: tuple[str, ...]
    takes_subsets: bool


def _teacher(config: RunConfig, info: DatasetInfo) -> tuple[TeacherFacts | None, list[Problem]]:
    name, _ = split(config.objective, "objective", OBJECTIVES)
    wanted = OBJECTIVES.get(name).needs_teacher
    if config.teacher is None:
        return None, [Problem("teacher", f"must be given: the objective {name} learns from one.")] if wanted else []
    if not wanted:
        return None, [Problem("teacher", f"the objective {name} has no use for a teacher. Leave it out, or take objective=distillation.")]
    if (config.teacher.checkpoint is None) == (config.teacher.model is None):
        return None, [Problem("teacher", "wanted either `checkpoint` or `model`, got " + ("neither." if config.teacher.model is None else "both."))]
    if config.teacher.model is not None:
        kind, options = split(config.teacher.model, "teacher.model", MODELS)
        cls = MODELS.get(kind)
        return TeacherFacts(cls.modalities_of(options), cls.takes_subsets), []
    try:
        card = read_card(str(config.teacher.checkpoint))
    except CheckpointError as error:
        return None, [Problem("teacher.checkpoint", str(error))]
    problems = []
    if card["facts"]["num_classes"] != info.num_classes:
        problems.append(
            Problem("teacher.checkpoint", f"the teacher tells {card['facts']['num_classes']} classes apart and the data set {info.num_classes}. Take a teacher of this data set.")
        )
    for m in card["modalities"]:
        if m not in config.data.processors:
            problems.append(Problem("teacher.checkpoint", f"the teacher takes {m!r}, and data.processors does not say how it becomes tensors."))
    for m, spec in config.data.processors.items():
        theirs = card["processors"].get(m)
        if m in card["modalities"] and theirs is not None and theirs["spec"] != plain(spec):
            problems.append(
                Problem(f"data.processors.{m}", f"is {plain(spec)}, and the teacher was trained on {theirs['spec']}. They must see the same tensors: write the teacher's options here.")
            )
    cls = MODELS.get(split(card["model"], "teacher", MODELS)[0])
    return TeacherFacts(tuple(card["modalities"]), cls.takes_subsets), problems


def _objective_problems(config: RunConfig, setting: Setting) -> list[Problem]:
    name, options = split(config.objective, "objective", OBJECTIVES)
    return [_under("objective", text) for text in OBJECTIVES.get(name).check(options, setting)]


def _view_problems(config: RunConfig, setting: Setting) -> list[Problem]:
    """Views that a model cannot be shown, and maskers that cannot hide what a view hides."""
    problems = []
    for i, view in enumerate(config.evaluation.views):
        try:
            visible_modalities(view, setting.student_modalities)
        except ValueError as error:
            problems.append(Problem(f"evaluation.views[{i}]", f"{error}."))
    _, options = split(config.objective, "objective", OBJECTIVES)
    taught = [v for v in options.get("views", []) if isinstance(v, (str, Mapping))]
    hides = any(v != FULL for v in config.evaluation.views) or any(v not in (FULL, {"teacher": FULL, "student": FULL}) for v in taught)
    if hides and not problems:
        name, given = split(config.masker, "masker", MASKERS)
        masker = MASKERS.get(name)
        problems += [Problem("masker", text) for text in masker.check(given, setting)]
        model = MODELS.get(split(config.model, "model", MODELS)[0])
        if masker.removes and not model.takes_subsets:
            problems.append(Problem("masker", f"{name} leaves modalities out, and {model.__name__} needs all of them. Take masker=attention or constant."))
    return problems


def _task_problems(config: RunConfig, info: DatasetInfo) -> list[Problem]:
    problems = []
    for slot in component_slots(config):
        for path, name, cls, _ in components_in(REGISTRIES[slot.kind], slot.spec, slot.path):
            tasks = getattr(cls, "tasks", None)
            if tasks is not None and info.task not in tasks:
                problems.append(Problem(path, f"{name} is for {' or '.join(sorted(tasks))} targets, and the data set's are {info.task}."))
    return problems


def _monitor_problems(config: RunConfig) -> list[Problem]:
    names = [split(m, "", METRICS)[0] for m in config.evaluation.metrics]
    if not names:
        return [Problem("evaluation.metrics", "wanted at least one metric, got none.")]
    if len(set(names)) < len(names):
        return [Problem("evaluation.metrics", "a metric is listed twice.")]
    known = [m if v == FULL else f"{v}/{m}" for v in config.evaluation.views for m in names]
    monitor = config.evaluation.monitor
    if monitor is not None and monitor not in known:
        hint = did_you_mean(monitor, known)
        return [Problem("evaluation.monitor", f"{monitor!r} is none of the metrics {', '.join(known)}.{hint}")]
    return []


def _folder_problems(config: RunConfig) -> list[Problem]:
    folder = Path(config.env.save_dir)
    checkpoints = folder / "checkpoints"
    if folder.exists() and not folder.is_dir():
        return [Problem("env.save_dir", f"{folder} is a file, wanted a folder.")]
    parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not os.access(parent, os.W_OK):
        return [Problem("env.save_dir", f"{folder} cannot be written to.")]
    if config.run_type == "train" and not config.checkpoint.resume and (checkpoints / "last").exists():
        return [
            Problem("env.save_dir", f"{folder} already holds a run. Set checkpoint.resume=true to go on with it, or name another folder.")
        ]
    if config.run_type in ("val", "test", "predict"):
        try:
            found = find_checkpoint(config.checkpoint.load or folder)
            card = read_card(found)
        except CheckpointError as error:
            return [Problem("checkpoint.load" if config.checkpoint.load else "env.save_dir", str(error))]
        if card["model"] != plain(config.model):
            return [Problem("model", f"is {plain(config.model)}, and the checkpoint {found} holds {card['model']}. Give the options that it was trained with.")]
    if config.run_type == "train" and config.checkpoint.resume and (checkpoints / "last").exists():
        try:
            saved = read_json(checkpoints / "last" / "card.json")["model"]
        except CheckpointError as error:
            return [Problem("checkpoint.resume", str(error))]
        if saved != plain(config.model):
            return [Problem("model", f"is {plain(config.model)}, and {folder} holds a run of {saved}. Name another env.save_dir.")]
    return []


def components_in(registry: Registry[Any], spec: Any, at: str) -> Iterator[tuple[str, str, type, dict[str, Any]]]:
    """A component and all that are nested in it: key path, name, class and options."""
    name, given = split(spec, at, registry)
    cls = registry.get(name, at)
    yield at, name, cls, given
    options = options_of(cls)
    for key, value in given.items():
        inner, container = nested(options[key].annotation)
        if inner is None or value is None:
            continue
        pairs = [("", value)] if container is None else [(f".{k}", v) for k, v in value.items()] if container is dict else [(f"[{i}]", v) for i, v in enumerate(value)]
        for suffix, one in pairs:
            yield from components_in(inner, one, f"{at}.{key}{suffix}")


def _refusals(registry: Registry[Any], spec: Any, at: str) -> list[Problem]:
    """What the constructors of cheap components say of their options."""
    problems = []
    for path, _, cls, given in components_in(registry, spec, at):
        owner = next((r for r in REGISTRIES.values() if _extends(cls, r.contract)), None)
        if owner is not None and owner.group in CHEAP:
            try:
                owner.build({"type": f"{cls.__module__}.{cls.__qualname__}", **given}, path, FACTS)
            except ConfigError as error:
                problems += list(error.problems)
    return problems


def _extends(cls: type, contract: str) -> bool:
    return any(f"{base.__module__}.{base.__qualname__}" == contract for base in cls.__mro__)


def _import_file(name: str, path: Path) -> list[Problem]:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, NameError) as error:
        del sys.modules[name]
        return [Problem("user_dir", f"{path} cannot be imported: {error}.")]
    return []


def _under(at: str, text: str) -> Problem:
    """A component's own sentence, whose first word may be one of its keys."""
    key, colon, rest = text.partition(": ")
    return Problem(f"{at}.{key}", rest) if colon and " " not in key else Problem(at, text)


def plain(spec: Any) -> dict[str, Any]:
    """A component's part of a YAML with its name always under `type`."""
    return {"type": spec} if isinstance(spec, str) else dict(spec)
