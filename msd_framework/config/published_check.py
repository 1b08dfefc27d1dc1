"""Whether a published model is shown images and texts as it was trained on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msd_framework.components.registry import plain
from msd_framework.config.components import modalities_of
from msd_framework.config.parts import complete, parts
from msd_framework.config.schema import RunConfig
from msd_framework.errors import DataError, Problem
from msd_framework.models.weights import find_file
from msd_framework.reading import read_json
from msd_framework.registry import MODELS, PROCESSORS

FILE, TEXTS = "preprocessor_config.json", "tokenizer_config.json"
RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic", 4: "box"}
"""What PIL's numbers of interpolations are called here."""


def published_problems(config: RunConfig) -> list[Problem]:
    """What a model from a folder or hub name is shown in another way than it was trained on: images by defaults, longer texts.

    What the YAML says itself of images is taken, whatever the model was trained on. A check downloads nothing: of a model that is
    not on this disk the run compares the images, before it trains.
    """
    specs = {} if config.is_evaluated else config.data.processors
    pixels, texts = ([m for m, spec in specs.items() if plain(spec)["type"] == name] for name in ("pixels", "tokenizer"))
    found = parts(MODELS, config.model, "model") if pixels or texts else ()
    # torchvision's names, such as resnet18, are no folders and no names on a hub
    sources = [part for part in found if "name" in part.cls.reads and isinstance(part.options.get("name"), str)]
    problems: list[Problem] = []
    for part in sources:
        own = [m for m in specs if (part.path == "model" and m in modalities_of(config.model)) or _is_for(part.path, m)]
        for modality in (m for m in own if m in texts):
            problems += _too_long(f"data.processors.{modality}.max_length", specs[modality], part.options["name"])
        seen = [m for m in own if m in pixels]
        wanted = dict(_wanted(part.options["name"], config.run_type != "check")) if seen else {}
        for modality in seen:
            problems += _problems(f"data.processors.{modality}", specs[modality], part.options["name"], wanted)
    return problems


def _too_long(at: str, spec: Any, name: str) -> Iterator[Problem]:
    """Texts longer than any that a model was trained on; of models on this disk alone, since a hub takes its time."""
    try:
        file = find_file(name, TEXTS, download=False)
    except ValueError:  # a model need not say it
        return
    longest, used = read_json(file).get("model_max_length"), complete(PROCESSORS, spec)["max_length"]
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, (int, float)) or longest < 3):
        raise DataError(f"{file}: model_max_length is {longest!r}, wanted a number of tokens from 3 on")
    if longest is not None and used > longest:
        text = f"is {used}, and {name} was trained on texts of at most {longest} tokens (model_max_length in its {TEXTS})"
        yield Problem(at, f"{text}. Lower it to {longest}.")


def _is_for(path: str, modality: str) -> bool:
    """Whether a part is for one modality, as in `model.encoders.image` and `model.image_encoder`."""
    name = path.rpartition(".")[2]
    return name == modality or name.startswith(f"{modality}_")


def _problems(at: str, spec: Any, name: str, wanted: Mapping[str, Any]) -> list[Problem]:
    used = complete(PROCESSORS, spec)
    built = PROCESSORS.build(spec, at)
    used |= {key: getattr(built, key) for key in ("mean", "std", "size")}
    left = {key: value for key, value in wanted.items() if plain(spec).get(key) is None and used[key] != value}
    if used["channels"] != 3:
        left = {key: value for key, value in left.items() if key not in ("mean", "std")}
    if not left:
        return []
    was = ", ".join(f"{key} {value}" for key, value in left.items())
    is_now = ", ".join(f"{key} {used[key]}" for key in left)
    fix = ", ".join(f"{key}: {value}" for key, value in left.items())
    text = (
        f"{name} was trained on images with {was} (its {FILE}), and would see {is_now}. Write {fix}, or the values that you want."
    )
    return [Problem(at, text)]


def _wanted(name: str, download: bool) -> Iterator[tuple[str, Any]]:
    """How a model was shown images, under the names of the options of `pixels`; nothing where it does not say."""
    try:
        file = find_file(name, FILE, download=download)
    except ValueError:  # a model need not say it
        return
    said = read_json(file)
    if said.get("do_normalize", True):
        for key, of_ours in (("image_mean", "mean"), ("image_std", "std")):
            values = said.get(key)
            if isinstance(values, list) and all(isinstance(v, (int, float)) for v in values):
                yield of_ours, [float(v) for v in values]
    else:
        yield from (("mean", [0.0, 0.0, 0.0]), ("std", [1.0, 1.0, 1.0]))
    if sides := _sides(said.get("crop_size") if said.get("do_center_crop") else said.get("size"), file):
        yield "size", sides
    if said.get("do_resize", True) and said.get("resample") in RESAMPLING:
        yield "interpolation", RESAMPLING[said["resample"]]


def _sides(size: Any, file: object) -> list[int] | None:
    """Height and width, both of the shortest edge where that is what is said; None where nothing is."""
    if isinstance(size, Mapping):
        found = [size.get(key, size.get("shortest_edge")) for key in ("height", "width")]
    else:
        found = list(size) if isinstance(size, list) else [size, size]
    if found == [None, None]:
        return None
    if len(found) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in found):
        raise DataError(f"{file}: size is {size!r}, wanted a number of pixels, or height and width")
    return [int(side) for side in found if side is not None]
