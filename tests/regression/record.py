"""Records what small runs end with, to the bit, and compares later code with it.

python -m tests.regression.record compare [NAME ...]
python -m tests.regression.record record [NAME ...]
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import itertools
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import Template
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the processes that are started

import torch
from safetensors.torch import load_file

from msd_framework.cli import main as msd
from tests.regression.recorded_runs import ALIKE, RUNS, SAME

Record = dict[str, Any]
"""What a run ended with: `weights` and `predictions` as hashes, `numbers` as they are, each by its name, and a list of `files`."""

Change = tuple[str, str, str, str]
"""A run, which thing of it differs, what that was and what it is."""

ROOT = Path(__file__).parents[2]
RECORDED = Path(__file__).with_name("recorded.json")
PACKAGES = ("torch", "torchvision", "transformers", "numpy", "scikit-learn", "pillow")
LOSSES = 1.0
"""How far the last losses of a run may be from the recorded ones elsewhere, as a share of those above 1. It is wide since torch
2.6 draws other dropout and other truncated normals than 2.14: with the same code, a loss of 1.80 is one of 2.75 there."""

ROUNDING = 1e-3
"""How far numbers of runs may be apart whose teachers' answers are rounded to float16."""

REPORTS = ("report", "summary", "doctor", "saliency")
PICTURES = (".png", ".jpg", ".jpeg", ".wav")
UNNAMED = ("cache", "tensorboard")
"""Folders whose files have names that paths or times go into."""

KINDS = ("weights", "numbers", "predictions", "files")
LINES = 4


def environment() -> dict[str, str]:
    """What bits depend on beside our own code."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {**versions, "threads": "1", "arithmetic": arithmetic()}


def arithmetic() -> str:
    """A hash of what this CPU makes of a fixed computation: kernels differ by its instructions, and round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x = torch.linspace(-3, 3, 96 * 64).sin().reshape(96, 64)
    layer = torch.nn.functional.layer_norm(x @ x.T / 8, (96,)).softmax(-1)
    image = torch.nn.functional.conv2d(x.reshape(2, 3, 32, 32), x[:24].reshape(-1)[:216].reshape(8, 3, 3, 3))
    torch.set_num_threads(threads)
    return digest(torch.cat([layer.flatten(), torch.nn.functional.gelu(image).flatten(), x.exp().sum(0)]).numpy().tobytes())


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def with_needs(names: Iterable[str]) -> list[str]:
    """Runs, those whose folders they read and those that they must end like, in the order in which they go."""
    wanted, waiting = {"here"}, list(names)
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += re.findall(r"\$(\w+)", str(RUNS[name]))
            waiting += [pairs[name] for pairs in (SAME, ALIKE) if name in pairs]
    return [name for name in RUNS if name in wanted]


def records(names: Iterable[str], folder: Path) -> Iterator[tuple[str, Record]]:
    """Goes through runs and what they need, one after another, in the working directory of the project.

    Raises:
        RuntimeError: if one of them fails, with what it printed.
    """
    folders = {name: str(folder / name) for name in RUNS}
    for name in with_needs(names):
        for words in RUNS[name]:
            execute([Template(word).substitute(folders, here=folders[name]) for word in words])
        yield name, read(folder / name)


def execute(words: list[str]) -> None:
    """Runs a command as the console script does, or in two processes."""
    printed = io.StringIO()
    if words[0] == "torchrun":
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "tools/run.py"]
        done = subprocess.run([*start, *words[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        code, _ = done.returncode, printed.write(done.stdout)
    else:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = msd(words)
    if code != 0 and words[0] != "doctor":  # which ends with 1 where it finds something
        raise RuntimeError(f"msd {' '.join(words)}\nended with {code}:\n{printed.getvalue()}")


def read(folder: Path) -> Record:
    """What lies in the folder of a run."""
    weights = {}
    for file in sorted(folder.glob("checkpoints/last/*.safetensors")):
        if file.stem in ("model", "objective"):
            for name, tensor in sorted(load_file(file).items()):
                described = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
                weights[f"{file.stem}: {name}"] = digest(described + tensor.numpy().tobytes())[:12]
    if weights:
        weights["all of them"] = digest(json.dumps(weights).encode())

    files, numbers, predictions = [], {}, {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.is_dir() or file.suffix in PICTURES or name.parts[0] in UNNAMED:
            continue
        files.append(str(name))
        if file.name == "metrics.jsonl":
            for line in file.read_text(encoding="utf-8").splitlines():
                logged = {key: value for key, value in json.loads(line).items() if key.startswith("train/")}
                numbers.update(flat(logged, "last"))
        elif file.suffix in (".csv", ".jsonl"):
            predictions[str(name)] = digest(file.read_bytes())
        elif file.suffix == ".json" and file.stem.startswith(REPORTS):
            numbers.update(flat(json.loads(file.read_text(encoding="utf-8")), file.stem))
    return {"weights": weights, "numbers": numbers, "predictions": predictions, "files": files}


def flat(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """The numbers in a nest of JSON by their path, without times and without the configuration."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("config", "expected", "bayes", "maskers", "possible") and not key.endswith("seconds"):
                yield from flat(inner, f"{name} {key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from flat(inner, f"{name} {i}")
    elif isinstance(value, (int, float)):
        yield name, float(f"{value:.9g}")  # all that a float32 has


def changes(name: str, before: Record, after: Record, kinds: Iterable[str] = KINDS, tolerance: float = 0.0) -> list[Change]:
    """What differs between two records of a run, in some of what they hold."""
    found = []
    for kind in kinds:
        was, now = (dict.fromkeys(r[kind], "there") if kind == "files" else r[kind] for r in (before, after))
        for key in sorted({*was, *now}):
            pair = was.get(key, "nothing"), now.get(key, "nothing")
            if not near(*pair, tolerance):
                found.append((name, f"{kind}: {key}", str(pair[0]), str(pair[1])))
    return found


def outline(made: Record) -> Record:
    """A record without what other versions change: losses as they are, and the names of all else."""
    losses = {key: value for key, value in made["numbers"].items() if key.startswith("last train/")}
    names = {kind: dict.fromkeys(made[kind], "there") for kind in KINDS}
    return {**names, "numbers": {**names["numbers"], **losses}}


def near(was: Any, now: Any, tolerance: float) -> bool:
    """Whether two values are the same, or two numbers nearly so."""
    if isinstance(was, float) and isinstance(now, float):
        return was == now or abs(was - now) <= tolerance * max(1.0, abs(was))
    return bool(was == now)


def compare(names: Iterable[str], folder: Path) -> tuple[str, list[Change]]:
    """Repeats runs: how they are compared with what is recorded, and what has changed."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    here, there = environment(), recorded["environment"]
    others = [f"{key} {there[key][:12]}, here {here[key][:12]}" for key in here if here[key] != there[key]]
    how = "to the bit"
    if others:
        how = f"no hashes, but names, and losses to {LOSSES}, since the record was made with {'; '.join(others)}"
    made, found = dict(records(names, folder)), []
    for name, now in made.items():
        was = recorded["runs"][name]
        found += changes(name, outline(was), outline(now), tolerance=LOSSES) if others else changes(name, was, now)
    return how, found + unequal(made)


def record(names: Iterable[str], folder: Path) -> tuple[str, list[Change]]:
    """Writes down what runs end with; those that are not named keep what is written if it was made in this environment."""
    old = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    now = dict(records(names, folder))
    runs = {**(old["runs"] if old.get("environment") == environment() else {}), **now}
    lines = [f'"environment": {json.dumps(environment())}']
    for name in RUNS:
        if name in runs:
            kinds = (f" {json.dumps(kind)}: {json.dumps(runs[name][kind])}" for kind in KINDS)
            lines.append(f"{json.dumps(name)}: {{\n" + ",\n".join(kinds) + "}")
    RECORDED.write_text(f'{{{lines[0]},\n"runs": {{\n' + ",\n".join(lines[1:]) + "}}\n", encoding="utf-8")
    return f"recorded {len(now)} runs", unequal(now)


def unequal(made: dict[str, Record]) -> list[Change]:
    """What runs that must end alike do not share."""
    found = []
    for pairs, kinds, tolerance in ((SAME, ("weights", "predictions"), 0.0), (ALIKE, ("numbers",), ROUNDING)):
        for name, other in pairs.items():
            if name in made:
                found += changes(f"{other} = {name}", made[other], made[name], kinds, tolerance)
    return found


def main(words: list[str]) -> int:
    command, *names = words or ["compare"]
    unknown = [name for name in names if name not in RUNS]
    if command not in ("compare", "record") or unknown:
        print(f"wanted compare or record, and names of runs; got {' '.join(words)}. Runs: {', '.join(RUNS)}")
        return 2
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        how, changed = (record if command == "record" else compare)(names or list(RUNS), Path(folder))
    show(how, changed)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{time.process_time() + children.ru_utime + children.ru_stime:.0f} seconds of CPU time")
    return 1 if changed else 0


def show(how: str, changed: list[Change]) -> None:
    """Prints what has changed, a few lines of each kind in a run."""
    print(how)
    for (name, kind), lines in itertools.groupby(changed, lambda change: (change[0], change[1].partition(":")[0])):
        first, *more = lines
        for _, what, was, now in [first, *more][:LINES]:
            print(f"{name:24} {what:60} {was[:20]:20} -> {now[:20]}")
        if len(more) >= LINES:
            print(f"{name:24} {kind}: {len(more) + 1 - LINES} more")
    print(f"{len(changed)} differences")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
