"""What is wrong with components: their names, their options, and what their constructors refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from msd_framework.components.options import options_of
from msd_framework.components.registry import raised_at, split
from msd_framework.config.parts import Part, parts
from msd_framework.config.structure import ComponentSlot
from msd_framework.errors import ConfigError, DataError, Problem
from msd_framework.ranges import most_of, too_large
from msd_framework.registry import DATASETS, MODELS, OBJECTIVES, REGISTRIES, TASK_LOSSES
from msd_framework.structures import DatasetInfo

T = TypeVar("T")

STAND_INS = {
    "num_classes": 2,
    "task": "single_label",
    "outcomes": None,
    "class_names": (),
    "vocab_size": 2**31 - 1,  # large, so that no id is refused that may be there
    "pad_id": 0,
    "cls_id": 2,
    "sep_id": 3,
    "image_size": 224,
    "image_channels": 3,
    "feature_size": 2048,
    "sample_rate": 16000,
    "seed": 0,
    "fine_tunes": False,
}
"""What a run fills in where a component asks for it by name, as far as it is not known before data is read."""

CONTEXT = {"objectives": ("model", "teacher", "masker"), "datasets": ("split", "on_error", "max_examples", "unlabelled")}
"""Arguments that only the run can give, by the kind of component that takes them."""

HEAVY = {"models", "encoders", "objectives", "datasets", "experiments"}
"""Kinds that are not built to be checked: their constructors may read files, or take memory."""


def component_problems(slots: Iterable[ComponentSlot]) -> list[Problem]:
    """Names and options that components do not have, values of a wrong type, and values that a constructor refuses."""
    slots = list(slots)
    named = {
        s.path: REGISTRIES[s.kind].check(s.spec, s.path, STAND_INS, CONTEXT.get(s.kind, ())) or _size_problems(s) for s in slots
    }
    problems = [p for found in named.values() for p in found]
    facts, unknown = STAND_INS, {"num_classes", "class_names"}
    objective = next((s.spec for s in slots if s.path == "objective" and not named[s.path]), None)
    for slot in slots:
        if slot.path == "data.dataset" and not named[slot.path]:
            try:
                facts, unknown = STAND_INS | known_facts(described(slot.spec, objective)), set()
            except ConfigError as error:
                problems += error.problems
    right = [s for s in slots if not named[s.path]]
    found = [part for s in right for part in parts(REGISTRIES[s.kind], s.spec, s.path)]
    # where nobody knows the classes, nobody can say whether there are enough weights for them
    refused = [p for part in found if not unknown & set(options_of(part.cls)) for p in _refusals(part, facts)]
    return [*problems, *dict.fromkeys(refused)]  # what is nested is refused once by itself and once in what holds it


def described(dataset: Any, objective: Any = None, at: str = "data.dataset") -> DatasetInfo:
    """What is known of a data set, and how a run's task loss reads what its model says of it, from their parts of a YAML.

    Args:
        dataset: the data set's part.
        objective: the objective's, where there is a run.
        at: the key path of the data set's part.

    Raises:
        ConfigError: if the data set's options do not go together.
    """
    name, options = split(dataset, at, DATASETS)
    info = asked(lambda: DATASETS.get(name, at).describe(options), f"describe of {name}", at)
    if not isinstance(info, DatasetInfo):
        raise ConfigError(Problem(at, f"describe of {name} must return a DatasetInfo, got {info!r}."))
    loss = None if objective is None else split(objective, "objective", OBJECTIVES)[1].get("task_loss")
    if loss is None:
        return info
    return replace(info, trained=TASK_LOSSES.get(split(loss, "objective.task_loss", TASK_LOSSES)[0]).outcomes)


def modalities_of(model: Any) -> tuple[str, ...]:
    """The modalities that a model takes, from its part of a YAML.

    Raises:
        ConfigError: if a class of a user's own does not tell.
    """
    name, options = split(model, "model", MODELS)
    found = asked(lambda: MODELS.get(name).modalities_of(options), f"modalities_of of {name}", "model")
    if not isinstance(found, (tuple, list)) or not found or not all(isinstance(m, str) for m in found):
        raise ConfigError(Problem("model", f"modalities_of of {name} must return the names of modalities, got {found!r}."))
    return tuple(found)


def asked(question: Callable[[], T], what: str, at: str) -> T:
    """What a class method says; what one of a user's own raises becomes a sentence.

    Args:
        question: asks it.
        what: which method of which class.
        at: the key path of the class.

    Raises:
        ConfigError: with what it raised, and where.
    """
    try:
        return question()
    except ConfigError:
        raise
    except (ValueError, DataError) as error:
        raise ConfigError(Problem(at, str(error))) from error
    except Exception as error:  # a class of a user's may raise anything
        raise ConfigError(Problem(at, f"{what} failed: {raised_at(error)}")) from error


def known_facts(info: DatasetInfo) -> dict[str, Any]:
    """What components may ask for by name and a data set's description tells."""
    return {"num_classes": info.num_classes, "task": info.task, "outcomes": info.outcomes, "class_names": info.class_names}


def _size_problems(slot: ComponentSlot) -> list[Problem]:
    """Numbers that are beyond any model, which would never be built or fill all memory."""
    found = too_large({slot.path: slot.spec})
    return [Problem(path, f"must be at most {most_of(path):,}, got {value:,}.") for path, value in found]


def _refusals(part: Part, facts: Mapping[str, Any]) -> tuple[Problem, ...]:
    if part.registry.plural in HEAVY:
        return ()
    try:
        part.registry.build(part.spec, part.path, facts)
    except ConfigError as error:
        return error.problems
    return ()
