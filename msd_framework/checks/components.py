"""What is wrong with components: their names, their options, what their constructors refuse, and the sizes of a model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import nn

from msd_framework.build.facts import RunFacts, dataset_info, known_facts
from msd_framework.components.facts import CONTEXT, STAND_INS
from msd_framework.components.options import options_of
from msd_framework.components.specs import Spec
from msd_framework.errors import ConfigError, Problem
from msd_framework.ranges import most_of, too_large

# kinds that are not built to be checked: their constructors may read files, or take memory
HEAVY = ("models", "encoders", "objectives", "datasets", "experiments")
FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".json")


def component_problems(components: Iterable[Spec]) -> list[Problem]:
    """Names and options that components do not have, values of a wrong type, and values that a constructor refuses."""
    problems, valid = [], {}
    for spec in components:
        wrong = spec.registry.check(spec.value, spec.path, STAND_INS, CONTEXT.get(spec.registry.plural, ()))
        if not wrong:
            # beyond any model: it would never be built, or fill all memory
            for path, value in too_large({spec.path: spec.value}):
                wrong.append(Problem(path, f"must be at most {most_of(path):,}, got {value:,}."))
        problems += wrong
        if not wrong:
            valid[spec.path] = spec
    # where nobody knows the classes, nobody can say whether there are enough weights for them
    facts, unknown = STAND_INS, {"num_classes", "class_names"}
    if "data.dataset" in valid:
        objective = valid["objective"].value if "objective" in valid else None
        try:
            facts, unknown = STAND_INS | known_facts(dataset_info(valid["data.dataset"].value, objective)), set()
        except ConfigError as error:
            problems += error.problems
    refused: list[Problem] = []
    for whole in valid.values():
        for spec in whole.with_nested:
            if unknown & set(options_of(spec.cls)) or spec.registry.plural in HEAVY:
                continue
            try:
                spec.registry.build(spec.value, spec.path, facts)
            except ConfigError as error:
                refused += error.problems
    return [*problems, *dict.fromkeys(refused)]  # what is nested is refused once by itself and once in what holds it


def model_options(run: RunFacts) -> Iterator[Problem]:
    for text in run.model.cls.check(run.model.options, run.setting):
        yield under("model", text)


def model_files(run: RunFacts) -> Iterator[Problem]:
    """Files that the model would read and that are not there."""
    for spec in run.model_specs:
        for key in sorted(spec.cls.reads):
            value = spec.options.get(key)
            if not isinstance(value, str) or Path(value).expanduser().exists():
                continue
            # no name on a hub, such as `bert-base-uncased` or `owner/model`
            if value.startswith(("/", ".", "~")) or value.count("/") > 1 or value.endswith(FILE_SUFFIXES):
                yield Problem(f"{spec.path}.{key}", f"there is no file or folder {value}.")


def model_sizes(run: RunFacts) -> Iterator[Problem]:
    """A model that does not fit into memory, and texts that a processor leaves longer than it has positions for."""
    if run.empty_module is None:
        return
    spec, module = run.empty_module
    needed, memory = sum(p.nbytes for p in module.parameters()), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > 2 * memory:
        sizes = f"its weights take {needed / 2**30:,.0f} GiB, and this machine has {memory / 2**30:,.0f}"
        yield Problem(spec.path, f"{sizes}. Make it smaller.")
        return
    for modality, processor in run.unfitted_processors.items():
        positions, longest = _positions(module, modality), getattr(processor, "max_length", None)
        if processor.kind == "tokens" and positions and longest is not None and longest > min(positions):
            text = f"lets texts of {longest} tokens through, and the positions of {spec.path} are {min(positions)}."
            hint = f"Lower it to {min(positions)}, or take a model with more positions."
            yield Problem(f"data.processors.{modality}.max_length", f"{text} {hint}")


def _positions(model: nn.Module, modality: str) -> list[int]:
    """How many positions each part of a model, or of its encoder of a modality, has."""
    encoders = getattr(model, "encoders", None)
    own = encoders[modality] if isinstance(encoders, nn.ModuleDict) and modality in encoders else model
    numbers = [getattr(module, "max_positions", None) for module in own.modules()]
    return [number for number in numbers if isinstance(number, int)]


def under(at: str, text: str) -> Problem:
    """A component's own sentence, which may begin with one of its keys."""
    key, colon, rest = text.partition(": ")
    return Problem(f"{at}.{key}", sentence(rest)) if colon and " " not in key else Problem(at, sentence(text))


def sentence(text: object) -> str:
    return str(text) if str(text).endswith((".", "?")) else f"{text}."
