"""What is wrong with components: their names, their options, what their constructors refuse, and the sizes of a model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from msd_framework.build.facts import RunFacts, described, known_facts
from msd_framework.components.facts import CONTEXT, STAND_INS
from msd_framework.components.options import options_of
from msd_framework.components.specs import Spec, parts
from msd_framework.config.structure import ComponentSlot
from msd_framework.errors import ConfigError, Problem
from msd_framework.ranges import most_of, too_large
from msd_framework.registry import REGISTRIES

HEAVY = {"models", "encoders", "objectives", "datasets", "experiments"}
"""Kinds that are not built to be checked: their constructors may read files, or take memory."""

FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".json")


def component_problems(slots: Iterable[ComponentSlot]) -> list[Problem]:
    """Names and options that components do not have, values of a wrong type, and values that a constructor refuses."""
    problems, right = [], []
    for slot in slots:
        found = REGISTRIES[slot.kind].check(slot.spec, slot.path, STAND_INS, CONTEXT.get(slot.kind, ()))
        found = found or list(_too_large(slot))
        problems += found
        right += [] if found else [slot]
    facts, unknown = STAND_INS, {"num_classes", "class_names"}
    dataset, objective = (next((s.spec for s in right if s.path == path), None) for path in ("data.dataset", "objective"))
    if dataset is not None:
        try:
            facts, unknown = STAND_INS | known_facts(described(dataset, objective)), set()
        except ConfigError as error:
            problems += error.problems
    refused: list[Problem] = []
    for slot in right:
        for part in parts(REGISTRIES[slot.kind], slot.spec, slot.path):
            # where nobody knows the classes, nobody can say whether there are enough weights for them
            if not unknown & set(options_of(part.cls)):
                refused += _refusals(part, facts)
    return [*problems, *dict.fromkeys(refused)]  # what is nested is refused once by itself and once in what holds it


def _too_large(slot: ComponentSlot) -> Iterator[Problem]:
    """Numbers that are beyond any model, which would never be built or fill all memory."""
    for path, value in too_large({slot.path: slot.spec}):
        yield Problem(path, f"must be at most {most_of(path):,}, got {value:,}.")


def _refusals(part: Spec, facts: Mapping[str, Any]) -> tuple[Problem, ...]:
    if part.registry.plural in HEAVY:
        return ()
    try:
        part.registry.build(part.spec, part.path, facts)
    except ConfigError as error:
        return error.problems
    return ()


def model_options(run: RunFacts) -> Iterator[Problem]:
    """What the model itself has against its options."""
    for text in run.model.cls.check(run.model.options, run.setting):
        yield under("model", text)


def model_files(run: RunFacts) -> Iterator[Problem]:
    """Files that the model would read and that are not there."""
    for part in run.model_parts:
        for key in sorted(part.cls.reads):
            value = part.options.get(key)
            if isinstance(value, str) and _is_a_path(value) and not Path(value).expanduser().exists():
                yield Problem(f"{part.path}.{key}", f"there is no file or folder {value}.")


def model_sizes(run: RunFacts) -> Iterator[Problem]:
    """A model that does not fit into memory, and texts that a processor leaves longer than it has positions for."""
    if run.empty_part is None:
        return
    part, built = run.empty_part
    needed, there = sum(p.nbytes for p in built.parameters()), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > 2 * there:
        text = f"its weights take {needed / 2**30:,.0f} GiB, and this machine has {there / 2**30:,.0f}. Make it smaller."
        yield Problem(part.path, text)
        return
    for modality, processor in run.made_processors.items():
        positions, longest = _positions(built, modality), getattr(processor, "max_length", None)
        if processor.kind == "tokens" and positions and longest is not None and longest > min(positions):
            text = f"lets texts of {longest} tokens through, and the positions of {part.path} are {min(positions)}."
            hint = f"Lower it to {min(positions)}, or take a model with more positions."
            yield Problem(f"data.processors.{modality}.max_length", f"{text} {hint}")


def _positions(model: nn.Module, modality: str) -> list[int]:
    """How many positions each part of a model, or of its encoder of a modality, has."""
    encoders = getattr(model, "encoders", None)
    own = encoders[modality] if isinstance(encoders, nn.ModuleDict) and modality in encoders else model
    return [n for module in own.modules() if isinstance(n := getattr(module, "max_positions", None), int)]


def _is_a_path(name: str) -> bool:
    """Whether a name cannot be one on a hub, such as `bert-base-uncased` or `owner/model`."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith(FILE_SUFFIXES)


def under(at: str, text: str) -> Problem:
    """A component's own sentence, which may begin with one of its keys."""
    key, colon, rest = text.partition(": ")
    return Problem(f"{at}.{key}", sentence(rest)) if colon and " " not in key else Problem(at, sentence(text))


def sentence(text: object) -> str:
    return str(text) if str(text).endswith((".", "?")) else f"{text}."
