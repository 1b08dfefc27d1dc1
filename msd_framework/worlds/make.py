"""Making a world: options in, a folder in a public format out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from msd_framework.components.options import mismatch
from msd_framework.data.processors.audio import write_wav
from msd_framework.errors import ConfigError, DataError, Problem, did_you_mean
from msd_framework.files import write_text
from msd_framework.worlds.handwriting import glyph_bank
from msd_framework.worlds.hateful_memes import HatefulMemesLayout
from msd_framework.worlds.layout import Drawn, Layout, Recipe
from msd_framework.worlds.mm_imdb import MmImdbLayout
from msd_framework.worlds.snli_ve import SnliVeLayout
from msd_framework.worlds.talking_cards import TalkingCardsLayout
from msd_framework.worlds.tones import RATE
from msd_framework.worlds.vqa import VqaLayout
from msd_framework.worlds.write import whole_folder, write_image, write_json_lines

LAYOUTS: dict[str, type[Layout]] = {
    "hateful_memes": HatefulMemesLayout,
    "mm_imdb": MmImdbLayout,
    "snli_ve": SnliVeLayout,
    "talking_cards": TalkingCardsLayout,
    "vqa_v2": VqaLayout,
}
VERSION = 1  # counts up when the same options give another world
MANIFEST = "world.json"
BLOCK = 256  # rows that are drawn at once, each block from a seed of its own, so that a larger world begins with the smaller one
IDS_PER_SPLIT = 1_000_000  # the ids of split number s are seven digits that begin with s + 1


@dataclass(frozen=True)
class WorldPlan:
    """All that a made world depends on."""

    layout: str
    version: int  # of the generator
    seed: int
    sizes: Mapping[str, int]  # the number of rows of each split
    mix: Mapping[str, float]  # the share of each kind of row; they sum to 1
    noise: float  # the standard deviation of the pixels' noise, in a range of 0 to 1
    label_noise: float  # the share of wrong training labels


@dataclass(frozen=True)
class WorldSummary:
    """What `make_world` has made."""

    folder: Path
    plan: WorldPlan
    reused: bool  # whether it had been there already


def make_world(
    layout: str,
    folder: str | Path,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    mix: Mapping[str, float] | None = None,
    noise: float = 0.1,
    label_noise: float = 0.0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> WorldSummary:
    """Writes a world of digit cards in a public data set's format.

    The same options give the same rows, and a split's first rows do not depend on its size. The folder appears when all
    is written. A folder that holds this very world is left as it is.

    Args:
        layout: the data set whose format and task it has: ``hateful_memes``, ``mm_imdb``, ``snli_ve`` or ``vqa_v2``; or
            ``talking_cards``, with a third modality, in the format of a user's own data.
        folder: where to write it.
        seed: of all chance, 0 or more; every split and block of rows has its own stream.
        sizes: rows by split; a split that is not named keeps its default, and one of size 0 is left out.
        mix: the share of each kind of row, in any unit; a kind that is not named has none. None is the layout's own mix.
        noise: the standard deviation of the noise on each pixel, of 0 to 1, and on each sample of a sound, of -1 to 1.
        label_noise: the share of wrong labels in the training split; the other splits are always right.
        overwrite: whether another made world in the folder may be replaced.
        progress: called with the rows done and the rows in all, every few hundred rows.

    Raises:
        ConfigError: with every option that is wrong.
        DataError: if the folder holds something else.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "memes"
    >>> summary = make_world("hateful_memes", folder, sizes={"train": 3, "dev_seen": 0, "test_seen": 2})
    >>> sorted(path.name for path in folder.iterdir())
    ['img', 'oracle_test_seen.jsonl', 'oracle_train.jsonl', 'test_seen.jsonl', 'train.jsonl', 'world.json']
    """
    plan = _plan(layout, seed, sizes, mix, noise, label_noise)
    folder = Path(folder)
    if _is_there(plan, folder, overwrite):
        return WorldSummary(folder, plan, reused=True)
    with whole_folder(folder) as making:
        _write(plan, making, progress)
    return WorldSummary(folder, plan, reused=False)


def draw_split(plan: WorldPlan, split: str) -> Iterator[Drawn]:
    """The rows of one split, a block at a time, without writing them."""
    layout = LAYOUTS[plan.layout]
    bank, number = layout.splits[split].bank, list(layout.splits).index(split)
    first_id = IDS_PER_SPLIT * (number + 1)
    for start in range(0, plan.sizes[split], BLOCK):
        ids = range(first_id + start, first_id + start + BLOCK)
        generator = np.random.default_rng([plan.seed, number, start // BLOCK])
        label_noise = plan.label_noise if bank == "train" else 0.0
        block = layout().draw(Recipe(ids, glyph_bank(bank), plan.mix, plan.noise, label_noise, generator))
        size = min(BLOCK, plan.sizes[split] - start)
        yield Drawn(block.images[:size], block.records[:size], block.oracle[:size], block.sounds[:size])


def _write(plan: WorldPlan, folder: Path, progress: Callable[[int, int], None] | None) -> None:
    layout = LAYOUTS[plan.layout]()
    done, total, records = 0, sum(plan.sizes.values()), {}
    for number, split in enumerate(layout.splits):
        if not plan.sizes[split]:
            continue
        (folder / layout.images.format(split=split, number=0)).parent.mkdir(exist_ok=True)
        (folder / layout.sounds).mkdir(exist_ok=True)
        rows: list[Mapping[str, Any]] = []
        oracle: list[Mapping[str, Any]] = []
        for block in draw_split(plan, split):
            first_id = IDS_PER_SPLIT * (number + 1) + len(rows)
            for row, image in enumerate(block.images, first_id):
                write_image(image, folder / layout.images.format(split=split, number=row))
            for row, sound in enumerate(block.sounds, first_id):
                write_wav(folder / layout.sounds / f"{row}.wav", torch.from_numpy(sound), RATE)
            rows += block.records
            oracle += block.oracle
            done += len(block.images)
            if progress:
                progress(done, total)
        records[split] = rows
        write_json_lines(oracle, folder / f"oracle_{split}.jsonl")
    layout.write_index(folder, records)
    write_text(folder / MANIFEST, json.dumps(asdict(plan)))


def _is_there(plan: WorldPlan, folder: Path, overwrite: bool) -> bool:
    """Whether the folder holds this very world; raises if it holds what may not be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{folder} is there and no made world (it has no {MANIFEST}). Choose another folder.")
    wanted, found = asdict(plan), json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if found == wanted:
        return True
    if overwrite:
        return False
    differing = "; ".join(f"{key} is {found.get(key)}, wanted {value}" for key, value in wanted.items() if found.get(key) != value)
    raise DataError(f"{folder} holds another made world: {differing}. Choose another folder, or pass overwrite=true to replace it.")


def _plan(
    layout: str, seed: int, sizes: Mapping[str, int] | None, mix: Mapping[str, float] | None, noise: float, label_noise: float
) -> WorldPlan:
    if layout not in LAYOUTS:
        known = f"Known: {', '.join(LAYOUTS)}."
        raise ConfigError(Problem("layout", f"no layout is named {layout!r}.{did_you_mean(str(layout), LAYOUTS)} {known}"))
    splits, default_mix = LAYOUTS[layout].splits, LAYOUTS[layout].mix
    sizes, mix = {} if sizes is None else sizes, default_mix if mix is None else mix
    problems = [
        *_number("seed", seed, int),
        *_number("noise", noise, float),
        *_number("label_noise", label_noise, float, most=1),
        *_numbers("sizes", sizes, splits, f"{layout} has no such split", int, most=IDS_PER_SPLIT),
        *_numbers("mix", mix, default_mix, f"{layout} has no such kind of row", float),
    ]
    if problems:
        raise ConfigError(*problems)
    planned = {split: sizes.get(split, default.size) for split, default in splits.items()}
    if not any(planned.values()):
        raise ConfigError(Problem("sizes", f"every split has size 0. Give at least one of {', '.join(splits)} a row."))
    total = sum(mix.values())
    if total == 0:
        raise ConfigError(Problem("mix", f"the shares sum to 0. Give at least one of {', '.join(default_mix)} a share above 0."))
    shares = {kind: mix.get(kind, 0.0) / total for kind in default_mix}
    return WorldPlan(layout, VERSION, seed, planned, shares, float(noise), float(label_noise))


def _numbers(
    at: str, given: Mapping[str, float], known: Mapping[str, object], unknown: str, kind: type[float], most: float = math.inf
) -> list[Problem]:
    """What is wrong with numbers by name."""
    if text := mismatch(given, dict[str, Any]):
        return [Problem(at, text)]
    problems = []
    for name, value in given.items():
        if name not in known:
            problems.append(Problem(f"{at}.{name}", f"{unknown}.{did_you_mean(name, known)} Known: {', '.join(known)}."))
        else:
            problems += _number(f"{at}.{name}", value, kind, most)
    return problems


def _number(at: str, value: float, kind: type[float], most: float = math.inf) -> list[Problem]:
    """What is wrong with a number that may not be negative."""
    if text := mismatch(value, kind):
        return [Problem(at, text)]
    if not (0 <= value <= most and math.isfinite(value)):
        upper = "" if math.isinf(most) else f" and at most {most:,}"
        return [Problem(at, f"wanted a number of at least 0{upper}, got {value}.")]
    return []
