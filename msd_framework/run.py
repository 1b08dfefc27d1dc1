"""What a run does: trains, evaluates or predicts, and writes down what came out."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from msd_framework.callbacks.logging import NO_TENSORBOARD, tensorboard_is_installed
from msd_framework.checks.resume import at_its_place, leaves, resume_changes
from msd_framework.checks.run import checked
from msd_framework.config.build import Assembly
from msd_framework.config.load import Source, load, located, resolve
from msd_framework.config.schema import RunConfig
from msd_framework.config.try_out import try_out
from msd_framework.config.values import dump, to_copy
from msd_framework.data.base import SubmissionFile
from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import Measures, in_order, in_step
from msd_framework.engine.memory import keep_freed_memory
from msd_framework.engine.precision import AUTO
from msd_framework.engine.prediction_table import PredictionTable
from msd_framework.engine.random_state import seed_everything
from msd_framework.errors import ConfigError
from msd_framework.escaping import CsvWriter
from msd_framework.escaping import markdown as escaped
from msd_framework.files import draft, write_json, write_text
from msd_framework.launch import launched
from msd_framework.metrics.fidelity import Comparison, compare
from msd_framework.screen import Screen, say
from msd_framework.structures import FULL

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
    source = at_its_place(load(path, overrides), Path(path))
    if launched().size == 1 or source.values.get("run_type") == "check":
        return _run(checked(source), World.join, source)
    with World.join(_device(source)) as world:  # first of all: a mistake of one machine's must end all processes
        world.agree(
            {key: str(value) for key, value in leaves(resolve(source).values, "")}, "Start all with the same configuration."
        )
        return _run(world.together(lambda: checked(source)), lambda _: nullcontext(world), source)


def _run(config: RunConfig, join: Callable[[str], AbstractContextManager[World]], source: Source) -> dict[str, Any]:
    if config.env.threads and config.run_type != "check":
        torch.set_num_threads(config.env.threads)
    seed_everything(config.seed)  # every process makes the same weights
    try:
        if config.run_type == "check":
            try_out(config)
            return {}
        with join(config.env.device) as world:
            world.share(Path(config.env.save_dir))
            assembly = Assembly(config, world)
            if world.size > 1:
                world.agree(world.together(lambda: assembly.contents), "All machines must read the same files.")
            return RUN_TYPES[config.run_type](assembly, resolve(source))
    except ConfigError as error:  # what a constructor refused once data was read
        raise ConfigError(*(located(p, source) for p in error.problems)) from error


def _device(source: Source) -> str:
    """What processes meet on, of a configuration that is not checked yet."""
    env = source.values.get("env")
    named = env.get("device", "auto") if isinstance(env, Mapping) else "auto"
    return named if named == "auto" or (named == "cuda" and torch.cuda.is_available()) else "cpu"


def train(assembly: Assembly, source: Source) -> dict[str, Any]:
    """Fits the model, then reports the best checkpoint on the validation and the test split."""
    started = time.monotonic()
    assembly.open_splits()
    changes, goes_on = resume_changes(assembly.config), assembly.config.goes_on
    runner = assembly.runner
    if goes_on:
        seed_everything(assembly.config.seed, assembly.world.rank)  # for a process that was not there before
        runner.resume()
        if assembly.world.is_first:
            for note in [*changes, *runner.notes]:
                say(f"resume: {note}")
    elif assembly.config.checkpoint.resume and (assembly.folder / "metrics.jsonl").exists() and assembly.world.is_first:
        say(f"resume: {assembly.folder} has no checkpoint yet, so the run begins at update 0")
    if assembly.world.is_first:  # a run that cannot be gone on with keeps its own
        values = with_teachers(source.values, assembly.teacher_folders)
        write_text(assembly.folder / "config.yaml", dump(values))
    assembly.world.wait()
    dry_run = assembly.dry_run()
    assembly.try_models(dry_run)
    if assembly.waits_before_training:
        dry_run.training_mode(assembly.model)
    if not goes_on:
        assembly.fit_statistics()
        seed_everything(assembly.config.seed, assembly.world.rank)  # and then draws noise of its own
    assembly.open_teacher_cache(("train", *SPLITS["train"]))
    dry_run.step(assembly.objective)
    keep_freed_memory()  # from here on: what opening files has taken is not asked for again
    choice = runner.choose_precision()
    if assembly.world.is_first:
        write_json(assembly.folder / "environment.json", {**environment(assembly.world), "precision": asdict(choice)})
        if assembly.config.training.precision == AUTO:
            say(choice.line)
        if not tensorboard_is_installed():
            say(NO_TENSORBOARD)
    runner.fit()
    facts = {"updates": runner.update, "stopped": runner.stop_reason, "seconds": round(time.monotonic() - started, 2)}
    return report(assembly, {**facts, "skipped_updates": runner.skipped} if runner.skipped else facts)


def with_teachers(values: Mapping[str, Any], folders: Sequence[str]) -> dict[str, Any]:
    """A run's values with several teachers by their names, so that what a pattern matches later changes nothing."""
    several = {"teacher": {**values["teacher"], "checkpoint": list(folders)}} if len(folders) > 1 else {}
    return {**values, **several}


def evaluate(assembly: Assembly, source: Source) -> dict[str, Any]:
    """Reports a checkpoint on the split that the run type names."""
    assembly.open_splits()
    for use in SPLITS[assembly.config.run_type]:
        if getattr(assembly.config.data, use):
            assembly.evaluation[use].reader.check_files()
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
            found, examples[use] = evaluate_split(assembly, use)
            metrics |= {f"{use}/{name}": value for name, value in found.items()}
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
        "lacking": lacking(assembly),
        "skipped": skipped(assembly),
    }
    if assembly.world.is_first:
        name = "report" if config.run_type == "train" else f"report_{config.run_type}"
        write_json(assembly.folder / f"{name}.json", result)
        write_text(assembly.folder / f"{name}.md", markdown(result))
        show(result)
    return result


def evaluate_split(assembly: Assembly, use: str) -> tuple[dict[str, float], int]:
    """Goes through a split once: measures the model, compares it with its teacher, and writes its predictions as they come.

    Returns:
        the metrics of each view, where there are labels, and how faithful it is to its teacher, if there is one; and how many
        examples there were.

    Raises:
        DataError: if the split is empty.
    """
    info, world, dataset = assembly.info, assembly.world, assembly.evaluation[use].reader.dataset
    ours, theirs = in_step(assembly.evaluation[use])  # both are asked about a batch before the next one is read
    student, teacher = assembly.predict(use, ours), assembly.ask_teacher(use, theirs)
    table = PredictionTable(dataset, info, student.views)
    submission = dataset.submission if FULL in student.views else None
    measures = Measures({} if assembly.config.run_type == "predict" else assembly.metrics)
    compared: dict[str, Comparison] = {}

    def made() -> Iterator[list[tuple[int, tuple[list[Any], str]]]]:
        for found, told in zip(student, teacher or repeat(None)):
            measures.add(found)
            for view, logits in told.logits.items() if told else ():
                rows = torch.ones_like(found.labelled)
                for side in (found.shown, told.shown if told else {}):
                    rows = rows & side.get(view, rows)
                if rows.any():
                    part = compare(found.logits[view][rows], logits[rows], info.task, info.outcomes)
                    compared[view] = compared[view] + part if view in compared else part
            places = found.places.tolist()
            entries = dataset.submission_entries(places, found.logits[FULL]) if submission else repeat("")
            yield list(zip(places, zip(table.rows(found), entries)))

    path = assembly.folder / f"predictions_{getattr(assembly.config.data, use).replace('/', '_')}.csv"
    with prediction_files(path, table.header, submission) if world.is_first else nullcontext(_ignore) as write:
        for row, entry in in_order(made(), world):
            write(row, entry)
        examples, labelled = measures.seen(world)
    metrics = measures.values(world) if labelled else {}
    shares = world.gather(compared)
    for view in dict.fromkeys(view for share in shares for view in share):
        first, *rest = (share[view] for share in shares if view in share)
        faithful = sum(rest, first).report()
        metrics |= {name if view == FULL else f"{view}/{name}": value for name, value in faithful.items()}
    return metrics, examples


@contextmanager
def prediction_files(
    path: Path, header: Sequence[str], submission: SubmissionFile | None
) -> Iterator[Callable[[Sequence[Any], str], None]]:
    """The file of predictions and, beside it, what a server takes; both take their names once all is written.

    Yields:
        what writes an example's row and its entry.
    """
    with ExitStack() as files:
        writer = CsvWriter(files.enter_context(draft(path)))
        writer.writerow(header)
        second = files.enter_context(draft(path.with_name(submission.name))) if submission else None
        before = submission.begin if submission else ""

        def write(row: Sequence[Any], entry: str) -> None:
            nonlocal before
            writer.writerow(row)
            if second and submission:
                second.write(before + entry)
                before = submission.between

        yield write
        if second and submission:
            second.write(submission.end)


def _ignore(row: Sequence[Any], entry: str) -> None:
    """What a process that writes nothing does with a row."""


def skipped(assembly: Assembly) -> list[str]:
    """What was wrong with each line or file that was left out, by any process."""
    readers = [b.reader for b in assembly.evaluation.values()]
    if "training_reader" in vars(assembly):
        readers.append(assembly.training_reader)
    mine = [text for r in readers for text in (*getattr(r.dataset, "skipped", []), *r.skipped.values())]
    return list(dict.fromkeys(text for texts in assembly.world.gather(mine) for text in texts))


def lacking(assembly: Assembly) -> dict[str, dict[str, int]]:
    """How many of the examples that were read lack each modality, by the use of their split."""
    readers = {use: batches.reader for use, batches in assembly.evaluation.items()}
    if "training_reader" in vars(assembly):
        readers = {"train": assembly.training_reader, **readers}
    mine = [(use, m, places) for use, reader in readers.items() for m, places in sorted(reader.lacking.items())]
    found: dict[str, dict[str, set[int]]] = {}
    for use, modality, places in (entry for share in assembly.world.gather(mine) for entry in share):
        found.setdefault(use, {}).setdefault(modality, set()).update(places)
    return {use: {m: len(places) for m, places in by_modality.items()} for use, by_modality in found.items()}


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
        "command": to_copy(Path(sys.argv[0]).name, *sys.argv[1:]),
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The report as a page."""
    frozen = f" ({result['frozen_parameters']:,} of them frozen)" if result["frozen_parameters"] else ""
    lines = [
        f"# {escaped(result['name'])}",
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
    lines += [
        f"| {escaped(k)} | {_shown(v)} | {f'{expected[k]:.4f}' if k in expected else ''} |" for k, v in result["metrics"].items()
    ]
    if result["lacking"]:
        lines += ["", f"{escaped(lacking_line(result))} Views that show nothing of an example are not measured on it."]
    if result["skipped"]:
        lines += [
            "",
            f"{left_out_line(result)}:",
            "",
            *(f"- {escaped(text)}" for text in result["skipped"][:20]),
        ]
    return "\n".join(lines) + "\n"


def lacking_line(result: Mapping[str, Any]) -> str:
    """How many examples lack what, as sentences."""
    counts = [(use, m, n) for use, found in result["lacking"].items() for m, n in found.items()]
    return " ".join(f"{n:,} {use} example{'s have' if n != 1 else ' has'} no {m}." for use, m, n in counts)


def left_out_line(result: Mapping[str, Any]) -> str:
    """How many examples were left out, without a full stop."""
    count = len(result["skipped"])
    return f"{count:,} example{' was' if count == 1 else 's were'} left out"


def show(result: Mapping[str, Any]) -> None:
    """The report on the screen."""
    table = Table(title=f"{result['name']} (seed {result['seed']})", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("expected", justify="right")
    for name, value in result["metrics"].items():
        wanted = result["expected"].get(name)
        table.add_row(name, _shown(value), "" if wanted is None else f"{wanted:.4f}")
    console = Screen()
    console.print(table)
    if result["lacking"]:
        console.print(lacking_line(result))
    if result["skipped"]:
        console.print(f"{left_out_line(result)}; report.json names them.")


def _shown(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"
