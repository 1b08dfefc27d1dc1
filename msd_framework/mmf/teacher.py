"""A checkpoint of MMF as the folder of a run of ours, which can teach, be evaluated, and be begun from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msd_framework.build.facts import RunFacts
from msd_framework.checks.run import understood
from msd_framework.components.registry import plain
from msd_framework.config.cards import make_card
from msd_framework.data.base import Processor
from msd_framework.data.processors.features import RegionFeatures
from msd_framework.engine.checkpoint import Checkpoint, CheckpointFolder
from msd_framework.errors import ConfigError, DataError, Problem
from msd_framework.mmf.checkpoints import MmfCheckpoint
from msd_framework.mmf.models import FAMILIES, family_of, options_of_model, other_options
from msd_framework.models.base import MultimodalModel
from msd_framework.models.mmf import MmfModel, load_tensors
from msd_framework.models.pretrained.weights import load_exactly
from msd_framework.randomness import random_numbers_apart
from msd_framework.reading import read_text
from msd_framework.registry import MODELS, PROCESSORS
from msd_framework.structures import DatasetInfo

AS_IN_THE_DATA = "data"  # stands for the order of the data set's classes where a file of their names could stand
UNKNOWN = "<unk>"  # what MMF calls a class that is none of its list


@dataclass(frozen=True)
class Teacher:
    """A checkpoint of MMF as ours."""

    values: Mapping[str, Any]  # the run's configuration
    card: Mapping[str, Any]  # how the model is rebuilt
    model: MultimodalModel
    processors: Mapping[str, Processor]
    unused: tuple[str, ...]  # the names of tensors of the file that are no part of the model
    info: DatasetInfo


def make_teacher(
    checkpoint: MmfCheckpoint,
    values: Mapping[str, Any],
    name: str | None = None,
    classes: str | None = None,
    options: Mapping[str, Any] | None = None,
    keep: bool = False,
) -> Teacher:
    """Our model with the weights of a checkpoint of MMF's.

    Args:
        values: a configuration of ours; its `data` says the classes, and how each modality becomes tensors.
        name: MMF's name of the model, if the checkpoint does not tell.
        classes: a file with a class a line, as MMF numbers them; or `data` for the data set's order.
        options: of MMF's model, over those that the checkpoint's configuration says.
        keep: whether MMF's own model is kept, which then runs in MMF.
    """
    if keep:
        family = name or str(checkpoint.config.get("model") or "")
        own = _merged(options_of_model(family, checkpoint.config), options or {})
        spec = _kept(family, own)
    else:
        family = family_of(checkpoint.tensors, checkpoint.config, name)
        own = _merged(options_of_model(family, checkpoint.config), options or {})
        if other := other_options(family, own):
            raise ConfigError(*(Problem(key, f"is {text}; keep=true keeps MMF's own model.") for key, text in other.items()))
        spec = _trained_spec(family, checkpoint.tensors, own, checkpoint.source)
    config, problems = understood({**values, "model": spec})
    if problems or config is None:
        raise ConfigError(*problems)
    before = RunFacts(replace(config, run_type="train"))
    specs = {m: s for m, s in config.data.processors.items() if m in before.student.modalities}
    width = spec.get("feature_size")
    processors = {m: _ready(m, s, before.known, width) for m, s in specs.items()}
    facts = {**before.known, "modalities": {m: p.facts for m, p in processors.items()}}
    _refuse_sizes(spec, facts["modalities"])
    with random_numbers_apart():
        model = MODELS.build(config.model, "model", facts)
    unused: tuple[str, ...] = ()
    if keep:
        _load_mmf(model, checkpoint)
    else:
        unused = _load(model, family, checkpoint, before.info, classes)
    card = make_card(model, config.model, facts, processors, specs)
    return Teacher({**values, "model": plain(config.model)}, card, model, processors, unused, before.info)


def save_teacher(teacher: Teacher, checkpoint: MmfCheckpoint, folder: Path) -> Path:
    """Writes the folder of a run: what its processors learned, and the one checkpoint."""
    for modality, processor in teacher.processors.items():
        place = folder / "processors" / modality
        place.mkdir(parents=True, exist_ok=True)
        processor.save(place)
    recorded = {"source": checkpoint.source, "metric": checkpoint.monitored, "score": checkpoint.score}
    updates = checkpoint.updates or 0
    state = {"update": updates, "best": checkpoint.score, "converted_from_mmf": recorded}
    converted = Checkpoint(dict(teacher.model.state_dict()), state=state, card=dict(teacher.card))
    return CheckpointFolder(folder / "checkpoints").save(converted, updates, best=True)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Options over others, key by key."""
    merged = {**under, **over}
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(under.get(key), dict):
            merged[key] = _merged(under[key], value)
    return merged


def _trained_spec(family: str, tensors: Mapping[str, Tensor], own: Mapping[str, Any], source: str) -> dict[str, Any]:
    try:
        return FAMILIES[family].trained(tensors, own)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{source}: {error}") from error
    except (KeyError, ValueError) as error:
        raise DataError(f"{source}: lacks tensors that tell its sizes ({error}).") from error


def _kept(name: str, own: Mapping[str, Any]) -> dict[str, Any]:
    if not name:
        raise ConfigError(Problem("model", "must be given: what MMF calls the model, since the checkpoint does not tell."))
    pixels = not own.get("direct_features_input", name not in ("late_fusion", "concat_bert", "concat_bow", "mmbt"))
    inputs = {"image": "image" if pixels else "image_feature_0", "text": "input_ids"}
    return {"type": "mmf", "name": name, "config": dict(own), "inputs": inputs}


def _ready(modality: str, spec: Any, known: Mapping[str, Any], feature_size: int | None) -> Processor:
    """A processor that learns nothing from the training split, which says nothing of what a checkpoint was trained on."""
    at = f"data.processors.{modality}"
    processor = PROCESSORS.build(spec, at, dict(known))
    if isinstance(processor, RegionFeatures):
        processor.feature_size = processor.feature_size or feature_size
        return processor
    try:
        processor.fit(())
    except DataError as error:
        text = "must be the one that the checkpoint was trained with, such as {type: tokenizer, name: bert-base-uncased}"
        raise ConfigError(Problem(at, f"{text}: {error}.")) from error
    return processor


def _refuse_sizes(spec: Mapping[str, Any], modalities: Mapping[str, Mapping[str, Any]]) -> None:
    """Processors that make other tensors than the weights are for."""
    encoder = spec.get("text_encoder") or (spec.get("encoders") or {}).get("text") or {}
    words = spec.get("vocab_size") or (encoder.get("config") or {}).get("vocab_size")
    width = spec.get("feature_size")
    made_words = modalities.get("text", {}).get("vocab_size")
    made_width = modalities.get("image", {}).get("feature_size")
    text = "makes {}, and the checkpoint has weights for {}. Give the one that it was trained with."
    if words is not None and made_words is not None and made_words > words:
        raise ConfigError(Problem("data.processors.text", text.format(f"{made_words} words", words)))
    if width is not None and made_width is not None and made_width != width:
        raise ConfigError(Problem("data.processors.image", text.format(f"{made_width} features a region", width)))


def _load(
    model: MultimodalModel, family: str, checkpoint: MmfCheckpoint, info: DatasetInfo, classes: str | None
) -> tuple[str, ...]:
    """Gives a model of ours its weights; the names of what is left over."""
    try:
        ours = FAMILIES[family].ours(checkpoint.tensors, model.state_dict())
        used = {id(t) for t in ours.values()}
        heads = FAMILIES[family].classifiers(checkpoint.tensors)
        if not any(n.startswith(heads) for n in ours):
            raise DataError(f"{checkpoint.source}: there is no classifier in it, so it cannot teach; it was made for pretraining.")
        ours = _with_classes(ours, heads, info, classes, checkpoint.source)
        load_exactly(model, ours, checkpoint.source)
    except (ConfigError, DataError):
        raise
    except ValueError as error:
        raise DataError(f"{checkpoint.source}: {error}.") from error
    return tuple(sorted(n for n, t in checkpoint.tensors.items() if id(t) not in used))


def _load_mmf(model: MultimodalModel, checkpoint: MmfCheckpoint) -> None:
    assert isinstance(model, MmfModel)
    try:
        load_tensors(model.model, checkpoint.tensors, checkpoint.source)
    except ValueError as error:
        raise DataError(f"{error}.") from error


def _with_classes(
    ours: Mapping[str, Tensor], heads: tuple[str, ...], info: DatasetInfo, classes: str | None, source: str
) -> dict[str, Tensor]:
    """The tensors with the classes of the last layers in the order of the data set."""
    num = next(len(t) for n, t in ours.items() if n.startswith(heads))
    if classes is None and info.task != "single_label":
        text = f"must be given: the file that numbers MMF's {num} classes, such as classes_mm_imdb.txt or answers_vqa.txt; or data"
        raise ConfigError(Problem("classes", f"{text}, if they are in the data set's order."))
    if classes in (None, AS_IN_THE_DATA):
        if num != info.num_classes:
            text = f"{source} has {num} classes and the data set {info.num_classes}; give the file that names MMF's."
            raise ConfigError(Problem("classes", text))
        return dict(ours)
    rows = torch.tensor(_rows(Path(str(classes)), num, info.class_names))
    return {n: t.index_select(0, rows) if n.startswith(heads) else t for n, t in ours.items()}


def _rows(file: Path, num: int, wanted: Sequence[str]) -> list[int]:
    """Where in MMF's list each class of the data set stands."""
    if not file.expanduser().is_file():
        raise ConfigError(Problem("classes", f"{file} cannot be read (no such file); wanted a class a line."))
    try:
        lines = list(map(str.strip, read_text(file.expanduser()).splitlines()))
    except DataError as error:
        raise ConfigError(Problem("classes", f"{error}; wanted a class a line.")) from error
    names = [line.casefold() for line in lines if line]
    names = names if UNKNOWN in names else [UNKNOWN, *names][-num:]  # MMF puts it first where its file has none
    if len(names) != num:
        raise ConfigError(Problem("classes", f"{file} names {len(names)} classes and the checkpoint has {num}."))
    lacking = [name for name in wanted if name.casefold() not in names]
    if lacking or not wanted:
        wrong = f"lacks {', '.join(lacking[:5])}" if wanted else "cannot be compared: the data set does not name its classes here"
        raise ConfigError(Problem("classes", f"{file} {wrong}; the data set has {len(wanted)} classes."))
    return [names.index(name.casefold()) for name in wanted]
