"""Words that stand for other embeddings: a model that was pretrained with one tokenizer, and texts that another one reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msd_framework.components.registry import split
from msd_framework.config.parts import parts
from msd_framework.config.schema import RunConfig
from msd_framework.data.text import Tokenizer, read_tokenizer
from msd_framework.errors import DataError, Problem
from msd_framework.registry import MODELS, PROCESSORS

SHIPPED = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
"""Files of a folder that hold the vocabulary of its model."""

OTHER = 0.05
"""The share of words that may have another number than in the vocabulary of the model, such as unused ones that got a name."""


def tokenizer_problems(config: RunConfig) -> list[Problem]:
    """Tokenizers whose words have other numbers than those that a pretrained part of the model learned; folders on disk alone."""
    if config.init is not None and config.init.checkpoint is not None:
        return []
    name, options = split(config.model, "model", MODELS)
    modalities = MODELS.get(name).modalities_of(options)
    problems = []
    for part in parts(MODELS, config.model, "model"):
        for key in sorted(part.cls.reads):
            folder = part.options.get(key)
            if not isinstance(folder, str) or not _ships_vocabulary(Path(folder).expanduser()):
                continue
            for modality in _read_by(part.path, modalities):
                spec = config.data.processors.get(modality)
                made = PROCESSORS.build(spec, f"data.processors.{modality}") if spec is not None else None
                if isinstance(made, Tokenizer):
                    problems += _problems(modality, made, folder)
    return list(dict.fromkeys(problems))


def _problems(modality: str, tokenizer: Tokenizer, folder: str) -> list[Problem]:
    at = f"data.processors.{modality}.name"
    if tokenizer.name is None:
        text = f"must be {folder}: the model's weights there know the words of that folder's tokenizer, and this one learns others."
        return [Problem(at, text)]
    if Path(tokenizer.name).expanduser() == Path(folder).expanduser():
        return []
    try:
        here: Mapping[str, int] = tokenizer.tokenizer.get_vocab()
        there: Mapping[str, int] = read_tokenizer(folder).get_vocab()
    except DataError as error:
        return [Problem(at, f"{error}.")]
    other = [word for word, number in here.items() if number < len(there) and there.get(word) != number]
    if len(other) <= OTHER * len(here):
        return []
    count = f"{len(other):,} of the {len(here):,} words of {tokenizer.name}, such as {other[0]!r}"
    text = f"{count}, have another number in the vocabulary that the weights in {folder} were trained with. Take name: {folder}."
    return [Problem(at, text)]


def _ships_vocabulary(folder: Path) -> bool:
    return folder.is_dir() and any((folder / name).is_file() for name in SHIPPED)


def _read_by(path: str, modalities: tuple[str, ...]) -> list[Any]:
    """The modalities that a part of a model may read, by its place: `model.encoders.text`, `model.text_encoder`, or the model."""
    last = path.rpartition(".")[2].removesuffix("_encoder")
    return [last] if last in modalities else list(modalities) if path == "model" or last == "encoder" else []
