"""Whether a pretrained model is shown images and texts as it was trained on them, with the words that it knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msd_framework.build.facts import RunFacts
from msd_framework.components.specs import Spec, complete
from msd_framework.data.processors.text import Tokenizer, read_tokenizer
from msd_framework.errors import DataError, Problem
from msd_framework.models.base import Encoder
from msd_framework.models.pretrained.weights import find_file
from msd_framework.reading import read_json
from msd_framework.registry import PROCESSORS

# files of a folder that hold the vocabulary of its model
SHIPPED = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")
OTHER = 0.05  # the share of words that may have another number than in the model's vocabulary: unused ones that got a name
IMAGES, TEXTS = "preprocessor_config.json", "tokenizer_config.json"
RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic", 4: "box"}  # what PIL's numbers of interpolations are called here


def tokenizers(run: RunFacts) -> Iterator[Problem]:
    """Tokenizers whose words have other numbers than those that a pretrained part of the model learned; folders on disk alone."""
    if run.config.init is not None and run.config.init.checkpoint is not None:
        return
    problems: dict[Problem, None] = {}  # a problem once, whichever parts of the model it is for
    for spec in run.model_specs:
        for key in sorted(spec.cls.reads):
            folder = spec.options.get(key)
            if not isinstance(folder, str) or not any((Path(folder).expanduser() / name).is_file() for name in SHIPPED):
                continue
            # the modalities that the part may read, by its place: model.encoders.text, model.text_encoder, or the model
            last = spec.path.rpartition(".")[2].removesuffix("_encoder")
            own = run.student.modalities if spec.path == "model" or last == "encoder" else ()
            for modality in (last,) if last in run.student.modalities else own:
                tokenizer = run.unfitted_processors.get(modality)
                if isinstance(tokenizer, Tokenizer) and (text := _other_words(tokenizer, folder)):
                    problems[Problem(f"data.processors.{modality}.name", text)] = None
    yield from problems


def _other_words(tokenizer: Tokenizer, folder: str) -> str:
    """In what a tokenizer differs from the one that a folder's weights were trained with; empty if in nothing."""
    if tokenizer.name is None:
        return f"must be {folder}: the model's weights there know the words of that folder's tokenizer, and this one learns others."
    if Path(tokenizer.name).expanduser() == Path(folder).expanduser():
        return ""
    try:
        here: Mapping[str, int] = tokenizer.tokenizer.get_vocab()
        there: Mapping[str, int] = read_tokenizer(folder).get_vocab()
    except DataError as error:
        return f"{error}."
    other = [word for word, number in here.items() if number < len(there) and there.get(word) != number]
    if len(other) <= OTHER * len(here):
        return ""
    count = f"{len(other):,} of the {len(here):,} words of {tokenizer.name}, such as {other[0]!r}"
    return f"{count}, have another number in the vocabulary that the weights in {folder} were trained with. Take name: {folder}."


def images_and_lengths(run: RunFacts) -> Iterator[Problem]:
    """What a model from a folder or hub name is shown in another way than it was trained on: images by defaults, longer texts.

    What the YAML says itself of images is taken. A check downloads nothing: the run then compares the images, before it trains.
    """
    if run.config.is_evaluated:
        return
    for source in run.model_specs:
        # torchvision's and timm's names, such as resnet18, are no folders and no names on a hub
        name = source.options.get("name") if "name" in source.cls.reads else None
        known = source.cls.shown_images(source.options) if issubclass(source.cls, Encoder) else {}
        if not isinstance(name, str) and not known:
            continue
        wanted: Mapping[str, Any] | None = known or None
        title, says = (str(source.options["name"]), "as its package has it") if known else (str(name), f"its {IMAGES}")
        last = source.path.rpartition(".")[2]
        for modality, spec in run.processors.items():
            # as in model.encoders.image and model.image_encoder
            is_read = last == modality or last.startswith(f"{modality}_")
            if source.path == "model":
                is_read = modality in run.student.modalities
            if is_read and spec.name == "tokenizer" and not known:
                yield from _too_long(spec, title)
            elif is_read and spec.name == "pixels":
                wanted = dict(_wanted(title, run.config.run_type != "check")) if wanted is None else wanted
                yield from _shown_otherwise(spec, run.unfitted_processors[modality], title, says, wanted)


def _too_long(tokenizer: Spec, name: str) -> Iterator[Problem]:
    """Texts longer than any that a model was trained on; of models on this disk alone, since a hub takes its time."""
    try:
        file = find_file(name, TEXTS, download=False)
    except ValueError:  # a model need not say it
        return
    longest, used = read_json(file).get("model_max_length"), complete(PROCESSORS, tokenizer.value)["max_length"]
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, (int, float)) or longest < 3):
        raise DataError(f"{file}: model_max_length is {longest!r}, wanted a number of tokens from 3 on")
    if longest is not None and used > longest:
        text = f"is {used}, and {name} was trained on texts of at most {longest} tokens (model_max_length in its {TEXTS})"
        yield Problem(f"{tokenizer.path}.max_length", f"{text}. Lower it to {longest}.")


def _shown_otherwise(spec: Spec, processor: Any, name: str, says: str, wanted: Mapping[str, Any]) -> Iterator[Problem]:
    used = complete(PROCESSORS, spec.value)
    was, now_is, fix = [], [], []
    for key, value in wanted.items():
        now = getattr(processor, key) if key in ("mean", "std", "size") else used[key]
        # numbers of three channels say nothing of an image of one
        is_of_colours = key in ("mean", "std") and used["channels"] != 3
        if spec.options.get(key) is None and now != value and not is_of_colours:
            was.append(f"{key} {value}")
            now_is.append(f"{key} {now}")
            fix.append(f"{key}: {value}")
    if was:
        text = f"{name} was trained on images with {', '.join(was)} ({says}), and would see {', '.join(now_is)}."
        yield Problem(spec.path, f"{text} Write {', '.join(fix)}, or the values that you want.")


def _wanted(name: str, download: bool) -> Iterator[tuple[str, Any]]:
    """How a model was shown images, under the names of the options of `pixels`; nothing where it does not say."""
    try:
        file = find_file(name, IMAGES, download=download)
    except ValueError:  # a model need not say it
        return
    settings = read_json(file)
    if settings.get("do_normalize", True):
        for theirs, ours in (("image_mean", "mean"), ("image_std", "std")):
            values = settings.get(theirs)
            if isinstance(values, list) and all(isinstance(v, (int, float)) for v in values):
                yield ours, list(map(float, values))
    else:
        yield from (("mean", [0.0, 0.0, 0.0]), ("std", [1.0, 1.0, 1.0]))
    if sides := _sides(settings.get("crop_size" if settings.get("do_center_crop") else "size"), file):
        yield "size", sides
    if settings.get("do_resize", True) and settings.get("resample") in RESAMPLING:
        yield "interpolation", RESAMPLING[settings["resample"]]


def _sides(size: Any, file: object) -> list[int] | None:
    """Height and width, both of the shortest edge where that is given; None where nothing is."""
    if isinstance(size, Mapping):
        sides = [size.get(key, size.get("shortest_edge")) for key in ("height", "width")]
    else:
        sides = list(size) if isinstance(size, list) else [size, size]
    if sides == [None, None]:
        return None
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise DataError(f"{file}: size is {size!r}, wanted a number of pixels, or height and width")
    return sides
