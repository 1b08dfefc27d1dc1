"""What a run does: trains, evaluates or predicts, and writes down what came out."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.table import Table
from torch import Tensor

from msd_framework.config.build import Assembly
from msd_framework.config.check import checked
from msd_framework.config.load import Source, load, located, resolve
from msd_framework.config.resume import goes_on as is_resumed
from msd_framework.config.resume import resume_changes
from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import Predictions, measure
from msd_framework.engine.memory import keep_freed_memory
from msd_framework.engine.precision import AUTO
from msd_framework.engine.random_state import seed_everything
from msd_framework.errors import ConfigError
from msd_framework.metrics.fidelity import fidelity
from msd_framework.screen import Screen, say
from msd_framework.structures import FULL, probabilities
from msd_framework.writing import draft, write_text

PACKAGES = (
    "msd_framework",
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "omegaconf",
    "safetensors",
    "torchmetrics",
    "numpy",
)

ROWS = 1024
"""How many rows of predictions are in the making at a time."""

MOST_COLUMNS = 100
"""The most classes that have a column each in a file of predictions."""


def run(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Does what a configuration says.

    Args:
        path: a YAML file.
        overrides: words ``a.b=value`` over it.

    Returns:
        The report, which is also written to `report.json`; empty for ``run_type=check``.

    Raises:
        MSDError: if the user can mend what is wrong.
    """
    source = load(path, overrides)
    config = checked(source)
    if config.run_type == "check":
        return {}
    if config.env.threads:
        torch.set_num_threads(config.env.threads)
    seed_everything(config.seed)  # every process makes the same weights
    try:
        with World.join(config.env.device) as world:
            return RUN_TYPES[config.run_type](Assembly(config, world), resolve(source))
    except ConfigError as error:  # what a constructor refused once data was read
        raise ConfigError(*(located(p, source) for p in error.problems)) from error


def train(assembly: Assembly, source: Source) -> dict[str, Any]:
    """Fits the model, then reports the best checkpoint on the validation and the test split."""
    started = time.monotonic()
    changes, goes_on = resume_changes(assembly.config), is_resumed(assembly.config)
    runner = assembly.runner
    if goes_on:
        seed_everything(assembly.config.seed, assembly.world.rank)  # for a process that was not there before
        runner.resume()
        if assembly.world.is_first:
            for note in [*changes, *runner.notes]:
                say(f"resume: {note}")
    if assembly.world.is_first:  # a run that cannot be gone on with keeps its own
        values = with_teachers(source.values, assembly.teacher_folders)
        write_text(assembly.folder / "config.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    assembly.world.wait()
    if not goes_on:
        assembly.fit_statistics()
        seed_everything(assembly.config.seed, assembly.world.rank)  # and then draws noise of its own
    assembly.open_teacher_cache(("train", *SPLITS["train"]))
    keep_freed_memory()  # from here on: what opening files has taken is not asked for again
    choice = runner.choose_precision()
    if assembly.world.is_first:
        write_json(assembly.folder / "environment.json", {**environment(assembly.world), "precision": asdict(choice)})
        if assembly.config.training.precision == AUTO:
            say(choice.line)
    runner.fit()
    facts = {"updates": runner.update, "stopped": runner.stop_reason, "seconds": round(time.monotonic() - started, 2)}
    return report(assembly, {**facts, "skipped_updates": runner.skipped} if runner.skipped else facts)


def with_teachers(values: Mapping[str, Any], folders: Sequence[str]) -> dict[str, Any]:
    """A run's values with several teachers by their names, so that what a pattern matches later changes nothing."""
    several = {"teacher": {**values["teacher"], "checkpoint": list(folders)}} if len(folders) > 1 else {}
    return {**values, **several}


def evaluate(assembly: Assembly, source: Source) -> dict[str, Any]:
    """Reports a checkpoint on the split that the run type names."""
    return report(assembly, {})


RUN_TYPES = {"train": train, "val": evaluate, "test": evaluate, "predict": evaluate}
"""What each `run_type` does."""

SPLITS = {"train": ("validation", "test"), "val": ("validation",), "test": ("test",), "predict": ("test",)}
"""The splits that each `run_type` reports on."""


def report(assembly: Assembly, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Predicts and measures with the best checkpoint, and writes predictions, `report.json` and `report.md`."""
    config = assembly.config
    best = assembly.load_model(config.checkpoint.load or assembly.folder)
    assembly.open_teacher_cache(SPLITS[config.run_type])
    keep_freed_memory()
    metrics: dict[str, float] = {}
    examples: dict[str, int] = {}
    for use in SPLITS[config.run_type]:
        if getattr(config.data, use):
            predictions = assembly.predict(use)
            examples[use] = len(predictions.places)
            metrics |= split_metrics(assembly, use, predictions)
            if assembly.world.is_first:
                write_predictions(assembly, use, predictions)
                if FULL in predictions.logits:
                    raw = assembly.evaluation[use].reader.dataset
                    raw.write_submission(assembly.folder, predictions.places.tolist(), predictions.logits[FULL])
    result = {
        "name": config.name,
        "run_type": config.run_type,
        "seed": config.seed,
        "metrics": metrics,
        "expected": config.expected,
        "best_update": best,
        "parameters": sum(p.numel() for p in assembly.model.parameters()),
        "frozen_parameters": sum(p.numel() for p in assembly.model.parameters() if not p.requires_grad),
        "examples": examples,
        "precision": asdict(assembly.precision),
        **facts,
        "skipped": skipped(assembly),
    }
    if assembly.world.is_first:
        name = "report" if config.run_type == "train" else f"report_{config.run_type}"
        write_json(assembly.folder / f"{name}.json", result)
        write_text(assembly.folder / f"{name}.md", markdown(result))
        show(result)
    return result


def split_metrics(assembly: Assembly, use: str, predictions: Predictions) -> dict[str, float]:
    """The metrics of a split, and how faithful they are to the teacher where there is one."""
    found: dict[str, float] = {}
    if assembly.config.run_type != "predict" and bool(predictions.labelled.any()):
        found |= {f"{use}/{k}": v for k, v in measure(predictions, assembly.metrics).items()}
    taught = assembly.ask_teacher(use)
    for view, logits in (taught.logits if taught else {}).items():
        prefix = f"{use}/" if view == FULL else f"{use}/{view}/"
        found |= {
            prefix + k: v for k, v in fidelity(predictions.logits[view], logits, assembly.info.task, assembly.info.outcomes).items()
        }
    return found


def skipped(assembly: Assembly) -> list[str]:
    """What was wrong with each line or file that was left out, by any process."""
    readers = [b.reader for b in assembly.evaluation.values()]
    if "training_reader" in vars(assembly):
        readers.append(assembly.training_reader)
    mine = [text for r in readers for text in (*getattr(r.dataset, "skipped", []), *r.skipped.values())]
    return list(dict.fromkeys(text for texts in assembly.world.gather(mine) for text in texts))


def write_predictions(assembly: Assembly, use: str, predictions: Predictions) -> None:
    """A row an example: id, what the data set keeps with it, label, and a column of probabilities a class, for each view.

    Of more than `MOST_COLUMNS` classes, the most probable one and its probability; of scores, those that are not 0.
    """
    config, info = assembly.config, assembly.info
    split, dataset = getattr(config.data, use), assembly.evaluation[use].reader.dataset
    kept = list(dict.fromkeys(name for i in range(len(dataset)) for name in dataset[i].facts))
    names = info.class_names or tuple(str(i) for i in range(info.num_classes))
    is_wide = info.num_classes > MOST_COLUMNS
    shown = ("prediction", "probability") if is_wide else names
    header = [n if v == FULL else f"{v}/{n}" for v in predictions.logits for n in shown]
    columns = [predictions.places, predictions.targets, predictions.labelled, *predictions.logits.values()]
    with draft(Path(config.env.save_dir) / f"predictions_{split.replace('/', '_')}.csv") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *kept, "label", *header])
        for first in range(0, len(predictions.places), ROWS):
            places, targets, labelled, *logits = (column[first : first + ROWS] for column in columns)
            shares = [probabilities(x, info.outcomes) for x in logits]
            rows = _best(shares, names) if is_wide else _all(shares)
            for place, target, known, row in zip(places.tolist(), targets.tolist(), labelled.tolist(), rows):
                example = dataset[place]
                label = "" if not known else target if isinstance(target, int) else _scores(target, names if is_wide else ())
                writer.writerow([example.id, *(example.facts.get(k, "") for k in kept), label, *row])


def _all(shares: Sequence[Tensor]) -> Iterator[list[str]]:
    """The probabilities of each example, over views."""
    return ([f"{p:.6f}" for p in row] for row in torch.cat(list(shares), 1).tolist())


def _best(shares: Sequence[Tensor], names: Sequence[str]) -> Iterator[list[str]]:
    """The most probable class of each example and its probability, over views."""
    best = [x.max(-1) for x in shares]
    for views in zip(*(zip(found.indices.tolist(), found.values.tolist()) for found in best)):
        yield [text for c, p in views for text in (names[c], f"{p:.6f}")]


def _scores(target: Sequence[float], names: Sequence[str]) -> str:
    """A score a class; with names, those that are not 0."""
    return " ".join(f"{n}:{t:g}" for n, t in zip(names, target) if t) if names else " ".join(f"{t:g}" for t in target)


def environment(world: World) -> dict[str, Any]:
    """What the run was made with."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "processes": world.size,
        "cpus": os.cpu_count(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The report as a page."""
    frozen = f" ({result['frozen_parameters']:,} of them frozen)" if result["frozen_parameters"] else ""
    lines = [
        f"# {result['name']}",
        "",
        f"Seed {result['seed']}, {result['parameters']:,} parameters{frozen}, best at update {result['best_update']}.",
    ]
    if "seconds" in result:
        lines.append(f"{result['updates']} updates in {result['seconds']} s. {result['stopped']}".rstrip())
    lines += ["", result["precision"]["line"]]
    if "skipped_updates" in result:
        lines.append(f"{result['skipped_updates']} updates were skipped, since their gradients were not finite in fp16.")
    expected = result["expected"]
    lines += ["", "| metric | value | expected |", "|---|---|---|"]
    lines += [f"| {k} | {v:.4f} | {f'{expected[k]:.4f}' if k in expected else ''} |" for k, v in result["metrics"].items()]
    if result["skipped"]:
        lines += ["", f"{len(result['skipped'])} examples were left out:", "", *(f"- {text}" for text in result["skipped"][:20])]
    return "\n".join(lines) + "\n"


def show(result: Mapping[str, Any]) -> None:
    """The report on the screen."""
    table = Table(title=f"{result['name']} (seed {result['seed']})", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("expected", justify="right")
    for name, value in result["metrics"].items():
        wanted = result["expected"].get(name)
        table.add_row(name, f"{value:.4f}", "" if wanted is None else f"{wanted:.4f}")
    console = Screen()
    console.print(table)
    if result["skipped"]:
        console.print(f"{len(result['skipped'])} examples were left out; report.json names them.")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all; numbers that are not finite, which JSON does not have, become null."""
    write_text(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """A nest of plain values with None in place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
