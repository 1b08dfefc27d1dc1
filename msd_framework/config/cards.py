"""The card of a checkpoint, which may be a stranger's: nothing that it names is imported or built before it is checked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from msd_framework.components.options import mismatch
from msd_framework.components.registry import plain, split
from msd_framework.components.specs import Spec, code_options, differences
from msd_framework.config.schema import RunConfig
from msd_framework.config.structure import component_specs
from msd_framework.data.base import Processor
from msd_framework.engine import checkpoint
from msd_framework.engine.checkpoint import WEIGHTS, Checkpoint, find_checkpoint
from msd_framework.errors import CheckpointError, ConfigError
from msd_framework.models.base import MultimodalModel
from msd_framework.ranges import too_large
from msd_framework.registry import MODELS, PROCESSORS
from msd_framework.structures import Outcomes, Task, outcomes_of

Own: TypeAlias = RunConfig | Collection[str]
"""The user's own run, or names of the user's own classes: what a card may name beside registered components."""

CARD: dict[str, Any] = {
    "model": str | dict[str, Any],
    "rebuild": str | dict[str, Any],
    "facts": dict[str, Any],
    "modalities": list[str],
    "processors": dict[str, dict[str, Any]],
}
# what its facts hold at least; old ones do not say how logits are read
FACTS: dict[str, Any] = {
    "num_classes": int,
    "task": Task,
    "outcomes": Outcomes | None,
    "class_names": list[str] | None,
    "modalities": dict[str, dict[str, Any]],
}
PROCESSOR: dict[str, Any] = {"spec": str | dict[str, Any], "fingerprint": str}


def card_of(path: str | Path, config: Own) -> dict[str, Any]:
    """How the model of a run, or of one of its checkpoints, is rebuilt; refused if it names code that the user's YAML does not."""
    folder = find_checkpoint(path)
    return _checked(checkpoint.read_json(folder / "card.json"), folder, config)


def weights_of(path: str | Path, config: Own) -> tuple[Path, Checkpoint]:
    """Where the checkpoint of a run is, and what its model is rebuilt from; refused in the same way."""
    folder = find_checkpoint(path)
    saved = checkpoint.read(folder, WEIGHTS)
    _checked(saved.card, folder, config)
    return folder, saved


def rebuilt(card: Mapping[str, Any], where: str | Path) -> MultimodalModel:
    """The model that a checked card describes, with weights of its own."""
    try:
        return MODELS.build(card["rebuild"], "model", card["facts"])
    except Exception as error:  # sizes that were edited can make a constructor raise anything
        reason = str(error).split("\n")[0] or type(error).__name__
        raise CheckpointError(f"{where}: no model can be made of its card.json: {reason} Take another checkpoint.") from error


def processors_folder(path: str) -> Path:
    """Where a run, given by its folder or by one of its checkpoints, keeps what its processors learned."""
    for folder in (Path(path), *Path(path).resolve().parents[:2], *find_checkpoint(path).parents[:2]):
        if (folder / "processors").is_dir():
            return folder / "processors"
    raise CheckpointError(f"{path}: has no folder `processors` beside its checkpoints; copy the whole folder of the run.")


def learned_processors(path: str, config: Own) -> dict[str, Path]:
    """Where a run keeps what the processor of each of its modalities learned."""
    folder = processors_folder(path)
    return {modality: folder / modality for modality in card_of(path, config)["processors"]}


def other_tensors(here: Any, there: Any) -> str:
    """In what two processors' parts of YAMLs make different tensors of the same example; empty if they make the same.

    >>> other_tensors({"type": "pixels", "size": 32, "augment": "crop_flip"}, {"type": "pixels", "size": 64})
    'size is 32 here and 64 there'
    """
    free = PROCESSORS.get(split(here, "processor", PROCESSORS)[0]).free_options
    mine, theirs = plain(here), plain(there)
    for option in free:
        mine.pop(option, None)
        theirs.pop(option, None)
    return differences(PROCESSORS, mine, theirs)


def read_as(card: Mapping[str, Any]) -> Outcomes:
    """How the logits of a saved model are read, from its card; as is usual for its task where the card is older than that."""
    return outcomes_of(card["facts"]["task"], card["facts"].get("outcomes"))


def make_card(
    model: MultimodalModel, spec: Any, facts: Mapping[str, Any], processors: Mapping[str, Processor], specs: Mapping[str, Any]
) -> dict[str, Any]:
    """How a model is rebuilt, to be kept with its weights; the specs are the parts of the YAML of model and processors."""
    name, options = split(spec, "model", MODELS)
    return {
        "model": plain(spec),
        "rebuild": {"type": name, **model.rebuild_options(options)},
        "facts": facts,
        "modalities": list(model.modalities),
        "processors": {m: {"spec": plain(specs[m]), "fingerprint": fingerprint(p)} for m, p in processors.items()},
    }


def fingerprint(processor: Processor) -> str:
    """What a teacher and its student, or a model that is trained and then evaluated, must share of a processor."""
    return processor.deterministic().fingerprint


def own_names(config: Own) -> frozenset[str]:
    """The classes of a user's own that the run names itself: under `allow`, or as a component."""
    if not isinstance(config, RunConfig):
        return frozenset(config)
    names = set(config.allow)
    for component in component_specs(asdict(config)):
        for spec in component.with_nested:
            names |= {spec.name, *_code_named_by(spec)}
    return frozenset(names)


def _code_named_by(spec: Spec) -> list[str]:
    return [str(spec.options[key]) for key in code_options(spec.cls) if key in spec.options]


def foreign_names(spec: Spec, own: frozenset[str]) -> Iterator[str]:
    """What a component that somebody else has written names, at any depth, and is neither registered nor a user's own.

    Nothing is imported but what is the user's own.
    """
    if "." in spec.name and spec.name not in spec.registry.names() and spec.name not in own:
        yield spec.name
        return
    yield from (name for name in _code_named_by(spec) if name not in own)
    for inner in spec.nested:
        yield from foreign_names(inner, own)


def _checked(card: dict[str, Any], folder: Path, config: Own) -> dict[str, Any]:
    """A card, once it is known to be one and to name no code but the user's own."""
    wrong = _misfit(card, CARD) or _misfit({"outcomes": None, **card["facts"]}, FACTS)
    for modality in card["modalities"] if not wrong else ():
        if modality not in card["processors"]:
            wrong = wrong or f"it lacks the processor of {modality!r}"
    for saved in card["processors"].values() if not wrong else ():
        wrong = wrong or _misfit(saved, PROCESSOR)
    if wrong:
        raise CheckpointError(f"{folder}: its card.json does not describe a model ({wrong}). Take another checkpoint.")
    file = folder / "card.json"
    for key, value in too_large({"rebuild": card["rebuild"], "facts": card["facts"]}):
        raise CheckpointError(f"{file}: {key} is {value}, more than any model has. Take another checkpoint.")
    specs = [Spec(f"{file}: {key}", MODELS, card[key]) for key in ("model", "rebuild")]
    specs += [Spec(f"{file}: processors.{m}.spec", PROCESSORS, saved["spec"]) for m, saved in card["processors"].items()]
    own = own_names(config)
    for spec in specs:
        try:
            foreign = next(foreign_names(spec, own), None)
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
        if foreign is not None:
            text = f"names {foreign!r}, which is code and no registered component, and a card may come from anybody."
            of_a_run = isinstance(config, RunConfig)
            remedy = f"add `allow: [{foreign}]` to your YAML" if of_a_run else f"allow it: load(..., allow=[{foreign!r}])"
            raise CheckpointError(f"{spec.path} {text} If it is yours, {remedy}.")
    return card


def _misfit(values: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    for key, annotation in wanted.items():
        if key not in values:
            return f"it lacks {key!r}"
        if text := mismatch(values[key], annotation):
            return f"{key}: {text.removesuffix('.')}"
    return ""
