"""What is wrong with a model, as far as it can be told without data and weights: it is built, and its weights are left empty."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from msd_framework.components.options import options_of
from msd_framework.components.registry import Registry, nested, split
from msd_framework.config.components import STAND_INS, known_facts
from msd_framework.config.parts import Part, code_options, parts
from msd_framework.config.schema import RunConfig
from msd_framework.errors import ConfigError, Problem
from msd_framework.models.base import MultimodalModel
from msd_framework.registry import ENCODERS, MODELS, PROCESSORS
from msd_framework.structures import DatasetInfo

RANDOM_FILLS = {"normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_"}
"""What draws the first numbers of weights, in torch and in `torch.nn.init`."""

TRUNCATED = "_no_grad_trunc_normal_"
"""What draws truncated normal numbers in `torch.nn.init`, for whoever asks for them."""


class Unfilled(TorchFunctionMode):
    """A context in which weights get no first numbers, so that memory is only set aside and a big model costs no time.

    The device `meta` is for this as well, but its first operation imports torch's compiler, which takes a second. Truncated
    normal numbers are left out by another way: torch draws them until all lie in their range, which empty memory may never do.
    """

    def __enter__(self) -> Unfilled:
        self.truncated = getattr(init, TRUNCATED)
        setattr(init, TRUNCATED, lambda tensor, *_, **__: tensor)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        setattr(init, TRUNCATED, self.truncated)

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if getattr(function, "__name__", "") in RANDOM_FILLS:
            return arguments[0] if arguments else options["tensor"]
        return function(*arguments, **(options or {}))


LARGE_VOCABULARY = 2**18
"""Stands in for a vocabulary that is not learned yet: larger than those of published models, and with room for its embedding."""

ANY_ENCODER = {"type": "features", "feature_size": 1}
"""Stands in for an encoder whose sizes are in files."""

FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".json")


def model_problems(config: RunConfig, info: DatasetInfo) -> list[Problem]:
    """Files that a model would read and are not there; else what the constructors of it and its encoders refuse."""
    found = list(parts(MODELS, config.model, "model"))
    missing = [p for part in found for p in _missing_files(part)]
    return missing or _refusals(found, known_facts(info) | {"seed": config.seed, "modalities": _facts(config)}, config)


def empty_model(config: RunConfig, info: DatasetInfo) -> MultimodalModel | None:
    """The model with empty weights, to be asked what it is; None where its sizes are in files that it reads."""
    if any(_reads(part) for part in parts(MODELS, config.model, "model")):
        return None
    facts = known_facts(info) | {"seed": config.seed, "modalities": _facts(config)}
    with Unfilled():
        return MODELS.build(_without_files(MODELS, config.model, facts), "model", facts)


def _missing_files(part: Part) -> list[Problem]:
    named = {key: part.options.get(key) for key in sorted(part.cls.reads)}
    return [
        Problem(f"{part.path}.{key}", f"there is no file or folder {value}.")
        for key, value in named.items()
        if isinstance(value, str) and _is_a_path(value) and not Path(value).expanduser().exists()
    ]


def may_be_pretrained(config: RunConfig) -> bool:
    """Whether the model, or a part of it, starts from weights of others; of a module of a user's own nobody can tell, so it may."""
    found = list(parts(MODELS, config.model, "model"))
    read = any(part.options.get(key) is not None for part in found for key in part.cls.reads)
    return config.init is not None or read or any(code_options(part.cls) for part in found)


def weights_are_at_hand(config: RunConfig) -> bool:
    """Whether all that a model and its tokenizers read is on disk, and no code is named that is not loaded."""
    if config.allow or any(_names_unloaded_code(part) for part in parts(MODELS, config.model, "model")):
        return False
    found = [p for m, spec in config.data.processors.items() for p in parts(PROCESSORS, spec, f"data.processors.{m}")]
    read = [part.options.get(key) for part in parts(MODELS, config.model, "model") for key in part.cls.reads]
    read += [part.options.get("name") for part in found]
    return all(name is None or Path(str(name)).expanduser().exists() for name in read)


def _is_a_path(name: str) -> bool:
    """Whether a name cannot be one on a hub, such as `bert-base-uncased` or `owner/model`."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith(FILE_SUFFIXES)


def _facts(config: RunConfig) -> dict[str, dict[str, Any]]:
    """What the processors can tell before they have seen any data; a vocabulary has to be learned or read first."""
    made = {m: PROCESSORS.build(spec, f"data.processors.{m}") for m, spec in config.data.processors.items()}
    return {m: processor.facts for m, processor in made.items() if processor.kind != "tokens"}


def reads_files(model: Any) -> bool:
    """Whether a model's constructor reads files, published weights or modules of Python, itself or for an encoder."""
    return any(_reads(part) for part in parts(MODELS, model, "model"))


def _refusals(found: list[Part], facts: Mapping[str, Any], config: RunConfig) -> list[Problem]:
    """What the outermost constructor that reads no file refuses, or one nested in it; and texts too long for it."""
    whole = next((part for part in reversed(found) if not _reads(part)), None)
    if whole is None:
        return []
    try:
        with Unfilled():
            built = whole.registry.build(_without_files(whole.registry, whole.spec, facts), whole.path, facts)
    except ConfigError as error:
        return list(error.problems)
    except RuntimeError as error:
        too_big = "alloc" in str(error) or "overflow" in str(error)
        return [Problem(whole.path, f"needs more memory than there is: {str(error).splitlines()[0]}.")] if too_big else []
    except Exception:  # a module of a user's may look at its weights, which is right where there are some
        return []
    needed, there = sum(p.nbytes for p in built.parameters()), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"its weights take {needed / 2**30:,.0f} GiB, and this machine has {there / 2**30:,.0f}. Make it smaller."
    return [Problem(whole.path, text)] if needed > 2 * there else _length_problems(whole, built, config)


def _length_problems(part: Part, built: nn.Module, config: RunConfig) -> list[Problem]:
    """Texts that a processor leaves longer than a model, or one of its encoders, has positions for."""
    problems = []
    for modality, spec in config.data.processors.items():
        processor = PROCESSORS.build(spec, f"data.processors.{modality}")
        encoders = getattr(built, "encoders", None)
        own = encoders[modality] if isinstance(encoders, nn.ModuleDict) and modality in encoders else built
        positions: list[int] = [n for m in own.modules() if isinstance(n := getattr(m, "max_positions", None), int)]
        longest = getattr(processor, "max_length", None)
        if processor.kind == "tokens" and positions and longest is not None and longest > min(positions):
            text = f"lets texts of {longest} tokens through, and the positions of {part.path} are {min(positions)}."
            hint = f"Lower it to {min(positions)}, or take a model with more positions."
            problems.append(Problem(f"data.processors.{modality}.max_length", f"{text} {hint}"))
    return problems


def _reads(part: Part) -> bool:
    return any(part.options.get(key) is not None for key in part.cls.reads) or _names_unloaded_code(part)


def _names_unloaded_code(part: Part) -> bool:
    return any(str(part.options[key]).rpartition(".")[0] not in sys.modules for key in code_options(part.cls))


def _without_files(registry: Registry[Any], spec: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A component's part of a YAML, with stand-ins for what it must be given, is unknown yet or would be read."""
    part = Part("", registry, spec)
    if registry is ENCODERS and _reads(part):
        return ANY_ENCODER
    known = {*facts, *(name for told in facts["modalities"].values() for name in told)}
    options = options_of(part.cls)
    stand_ins = STAND_INS | {"vocab_size": LARGE_VOCABULARY}
    filled: dict[str, Any] = {n: stand_ins[n] for n, o in options.items() if o.required and n in STAND_INS and n not in known}
    for key, value in part.options.items():
        inner, container = nested(options[key].annotation)
        if inner is None or value is None:
            filled[key] = value
        elif container is dict:
            filled[key] = {k: _without_files(inner, one, facts) for k, one in value.items()}
        else:
            filled[key] = [_without_files(inner, one, facts) for one in value] if container else _without_files(inner, value, facts)
    return {"type": split(spec, "", registry)[0], **filled}
