"""What a run takes that learns from a thousand, a hundred thousand or a million examples, with the teacher's answers cached.

python -m benchmarks.scale NUMBER ... makes data and caches, trains on each in a process of its own, and prints a JSON list.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.memory import peak, resident
from benchmarks.quantities import Quantity, quantity
from msd_framework.build.data import build_data
from msd_framework.build.facts import RunFacts
from msd_framework.build.models import build_maskers
from msd_framework.build.splits import content, open_splits
from msd_framework.build.teacher_cache import CachedSplit
from msd_framework.build.teachers import cached_split, trained_teachers
from msd_framework.build.training import build_batches
from msd_framework.checks.run import checked
from msd_framework.config.load import load
from msd_framework.data.batches.subset import Subset
from msd_framework.engine.distributed import World
from msd_framework.run import run
from msd_framework.structures import ModelOutput
from msd_framework.teachers.store import TeacherStore, Writer

ENDS, ALL = (10**3, 10**6), (10**3, 10**5, 10**6)
NUM_MEMES, NUM_UPDATES, BATCH_SIZE = 20, 300, 32
"""Distinct memes, of which a data set is made over and over."""


def quantities(numbers: Sequence[int]) -> list[Quantity]:
    """The peak of resident memory for each number of examples, with what else was found; measured in fresh processes."""
    found = json.loads(python_says(*map(str, numbers)))
    return [quantity(f"memory of a run, {power(facts['examples'])} examples", facts["peak"], "bytes", **facts) for facts in found]


def power(number: int) -> str:
    """A power of ten as keys have it.

    >>> power(1000)
    '1e3'
    """
    return f"1e{len(str(number)) - 1}"


def python_says(*words: str) -> str:
    """The last line that a fresh process of this module prints.

    Raises:
        SystemExit: with all that it wrote, if it fails.
    """
    command = [sys.executable, "-m", "benchmarks.scale", *words]
    said = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if said.returncode:
        raise SystemExit(f"{' '.join(command)}\n{said.stderr}")
    return said.stdout.splitlines()[-1]


def measure(numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Sizes and times of a cache and a data set, and the memory of a run, for each number of examples."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder / "small", 200)
        teacher = write_config(folder / "teacher.yaml", folder / "small", folder / "teacher", training={"max_updates": 2})
        run(teacher)
        return [facts(folder / power(number), folder, number) for number in numbers]


def facts(data: Path, folder: Path, number: int) -> dict[str, Any]:
    """What is found for one number of examples."""
    make_data(data, number)
    (data / "cache").mkdir()
    config = write_config(
        data / "student.yaml",
        data,
        data / "run",
        training={"max_updates": NUM_UPDATES},
        teacher={"checkpoint": str(folder / "teacher"), "cache": "read", "cache_dir": str(data / "cache")},
        objective={"type": "distillation", "views": ["full", "image", "text"]},
    )
    of_run, world = checked(load(config)), World()
    known = RunFacts(of_run)
    indexed, splits = timed(lambda: open_splits(known, world))
    built = build_data(known, world, splits)
    maskers = build_maskers(built)
    (teacher,) = trained_teachers(built, maskers)
    store = fill(cached_split(teacher, "train", built, maskers, content(known, splits, "train")), number)
    opened, store = timed(lambda: TeacherStore(store.folder))
    read, _ = timed(lambda: list(islice(build_batches(built, None).training.starting_at(0), 20)))
    places = torch.randint(number, (100, BATCH_SIZE)).tolist()
    looked, _ = timed(lambda: [store.read(store.rows([name_of(i) for i in p], p), store.layout.views) for p in places])
    return {
        "examples": number,
        **json.loads(python_says("run", str(config))),
        "updates": NUM_UPDATES,
        "cache_bytes_a_row": sum(f.stat().st_size for f in store.folder.iterdir()) / number,
        "cache_opening_s": opened,
        "cache_look_up_s_a_row": looked / (100 * BATCH_SIZE),
        "data_opening_s": indexed,
        "data_reading_s_a_row": read / (20 * BATCH_SIZE),
    }


def fill(split: CachedSplit, number: int) -> TeacherStore:
    """The store that a run will look for, filled without asking the teacher more than once about the same meme."""
    store = TeacherStore.create(split.folder, split.key.card("fp32"))
    store.add(name_of(i) for i in range(number))
    (batch,) = split.batches(Subset(split.dataset, np.arange(NUM_MEMES)))
    said = split.teacher().predict(batch, store.layout.views).logits[:, :NUM_MEMES]  # [V, NUM_MEMES, C]
    with Writer(store) as writer:
        for rows in torch.arange(number).split(1 << 16):
            writer.write(rows.numpy(), ModelOutput(said[:, rows % NUM_MEMES]))
    store.settle()
    return store


def name_of(example: int) -> str:
    return f"{example:07}"


def make_data(root: Path, number: int) -> None:
    """A folder in the layout of Hateful Memes; a few memes make up all of its examples."""
    from PIL import Image

    (root / "img").mkdir(parents=True)
    for i in range(NUM_MEMES):
        Image.new("RGB", (8, 8), (12 * i, 120 * (i % 2), 90)).save(root / "img" / f"{i}.png")
    with (root / "train.jsonl").open("w") as file:
        file.writelines(lines(number))


def lines(number: int) -> Iterator[str]:
    memes = [f'"img": "img/{i}.png", "label": {i % 2}, "text": "what a day number {i} it is"' for i in range(NUM_MEMES)]
    return (f'{{"id": "{name_of(i)}", {memes[i % NUM_MEMES]}}}\n' for i in range(number))


def write_config(file: Path, data: Path, save_dir: Path, training: dict[str, Any], **others: Any) -> Path:
    """The configuration of a run with a tiny model that keeps nothing that it read."""
    values = {
        "data": {
            "dataset": {"type": "hateful_memes", "root": str(data)},
            "processors": {"text": {"type": "tokenizer", "max_length": 16}, "image": {"type": "pixels", "size": 8}},
            "train": "train",
            "cache_mb": 0,
        },
        "model": {
            "type": "visual_bert",
            "hidden_size": 16,
            "num_layers": 1,
            "num_heads": 2,
            "intermediate_size": 32,
            "max_positions": 16,
            "image_encoder": {"type": "patches", "patch_size": 4},
        },
        "training": {"batch_size": BATCH_SIZE, **training},
        "env": {"save_dir": str(save_dir), "threads": 1, "device": "cpu"},
        **others,
    }
    file.write_text(yaml.safe_dump(values))
    return file


def timed(function: Any) -> tuple[float, Any]:
    """CPU seconds of a call, and what it returns."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "run":
        run(sys.argv[2])
        print(json.dumps({"peak": peak(), "resident": resident()}))
    else:
        print(json.dumps(measure(list(map(int, sys.argv[1:])))))
