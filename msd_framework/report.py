"""The report of a run: predictions, metrics, and what was left out, for people and for programs."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch

from msd_framework.build.run import Run
from msd_framework.components.registry import plain
from msd_framework.config.schema import USED_SPLITS
from msd_framework.config.values import flow
from msd_framework.data.base import SubmissionFile
from msd_framework.data.batches.reader import ExampleReader
from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import Measures, Predictions, in_order, in_step
from msd_framework.engine.memory import keep_freed_memory
from msd_framework.engine.prediction_table import PredictionTable
from msd_framework.escaping import CsvWriter
from msd_framework.escaping import markdown as escaped
from msd_framework.files import draft, split_file, write_json, write_text
from msd_framework.metrics.fidelity import Comparison, compare
from msd_framework.screen import Screen
from msd_framework.structures import DatasetInfo
from msd_framework.table import Table
from msd_framework.views import FULL
from msd_framework.worlds.reader import ExactReader

PACKAGES = ("torch", "torchvision", "transformers", "tokenizers", "omegaconf", "safetensors", "torchmetrics", "numpy")

SPLITS = {"train": ("validation", "test"), **USED_SPLITS}  # that each `run_type` reports on


def report(run: Run, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Predicts and measures with the best checkpoint, and writes predictions, `report.json` and `report.md`."""
    config = run.config
    best = run.load_trained()
    run.teachers.open_caches(run.data, SPLITS[config.run_type])
    keep_freed_memory()
    metrics: dict[str, float] = {}
    bayes: dict[str, float] = {}
    examples: dict[str, int] = {}
    for use in SPLITS[config.run_type]:
        if use in run.data.evaluation:
            of_split, of_reader, examples[use] = evaluate_split(run, use)
            metrics |= {f"{use}/{name}": value for name, value in of_split.items()}
            bayes |= {f"{use}/{name}": value for name, value in of_reader.items()}
    result = {
        "name": config.name,
        "run_type": config.run_type,
        "seed": config.seed,
        "metrics": metrics,
        "bayes": bayes,
        "expected": config.expected,
        "best_update": best,
        "parameters": sum(map(torch.numel, run.model.parameters())),
        "frozen_parameters": sum(p.numel() for p in run.model.parameters() if not p.requires_grad),
        "examples": examples,
        "maskers": evaluation_maskers(run),
        "precision": asdict(run.precision),
        **facts,
        "lacking": lacking(run),
        "skipped": skipped(run),
    }
    if run.world.is_first:
        name = "report" if config.run_type == "train" else f"report_{config.run_type}"
        write_json(run.folder / f"{name}.json", result)
        write_text(run.folder / f"{name}.md", markdown(result))
        show(result)
    return result


def evaluate_split(run: Run, use: str) -> tuple[dict[str, float], dict[str, float], int]:
    """Measures, compares and writes the predictions of a split in one pass.

    Returns the metrics, those of the exact posteriors where a made world has them, and how many examples there are.
    """
    info, world, dataset = run.data.info, run.world, run.data.splits[use]
    root, split = plain(run.config.data.dataset).get("root"), getattr(run.config.data, use)
    ours, theirs = in_step(run.data.evaluation[use])  # both are asked about a batch before the next one is read
    student, teacher = run.predict(ours), run.ask_teacher(use, theirs)
    reader = ExactReader.of(root, split, student.modalities, info)
    table = PredictionTable(dataset, info, student.views)
    submission = dataset.submission if FULL in student.views else None
    measured = {} if run.config.run_type == "predict" else run.metrics
    measures, possible = Measures(measured), Measures(measured)
    compared: dict[str, Comparison] = {}

    def rows() -> Iterator[list[tuple[int, tuple[list[Any], str]]]]:
        """Of each batch, the place of each example, its row and its entry; the batch is measured on the way."""
        for predictions, of_teacher in zip(student, teacher or repeat(None)):
            measures.add(predictions)
            if of_teacher:
                _add_comparisons(compared, predictions, of_teacher, info)
            places = predictions.places.tolist()
            ids = [dataset[place].id for place in places] if reader else []
            if reader and reader.knows(ids):
                possible.add(reader.predict(ids, predictions))
            entries = dataset.submission_entries(places, predictions.logits[FULL]) if submission else repeat("")
            yield list(zip(places, zip(table.rows(predictions), entries)))

    path = split_file(run.folder, "predictions", split, "csv")
    with prediction_files(path, table.header, submission) if world.is_first else nullcontext(lambda row, entry: None) as write:
        for row, entry in in_order(rows(), world):
            write(row, entry)
        examples, labelled = measures.seen(world)
    metrics = measures.values(world) if labelled else {}
    is_made = sum(world.gather(possible.num_examples)) == examples
    bayes = possible.values(world) if labelled and is_made else {}
    whole: dict[str, Comparison] = {}
    for share in world.gather(compared):
        for view, comparison in share.items():
            whole[view] = whole[view] + comparison if view in whole else comparison
    for view, comparison in whole.items():
        for name, value in comparison.report().items():
            metrics[name if view == FULL else f"{view}/{name}"] = value
    return metrics, bayes, examples


def _add_comparisons(compared: dict[str, Comparison], student: Predictions, teacher: Predictions, info: DatasetInfo) -> None:
    """Adds how far student and teacher agree on each view, where both see something of an example."""
    for view, logits in teacher.logits.items():
        rows = torch.ones_like(student.labelled)
        for shown in (student.shown, teacher.shown):
            rows = rows & shown.get(view, rows)
        if rows.any():
            part = compare(student.logits[view][rows], logits[rows], info.task, info.outcomes)
            compared[view] = compared[view] + part if view in compared else part


@contextmanager
def prediction_files(
    path: Path, header: Sequence[str], submission: SubmissionFile | None
) -> Iterator[Callable[[Sequence[Any], str], None]]:
    """The files of predictions and of what a server takes; yields what writes an example's row and its entry."""
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


def _readers(run: Run) -> dict[str, ExampleReader]:
    readers = {} if run.data.training is None else {"train": run.data.training}
    return readers | {use: batches.reader for use, batches in run.data.evaluation.items()}


def skipped(run: Run) -> list[str]:
    """What was wrong with each line or file that was left out, by any process."""
    mine: list[str] = []
    for reader in _readers(run).values():
        mine += [*getattr(reader.dataset, "skipped", []), *reader.skipped.values()]
    return list(dict.fromkeys(chain.from_iterable(run.world.gather(mine))))


def lacking(run: Run) -> dict[str, dict[str, int]]:
    """How many of the examples that were read lack each modality, by the use of their split."""
    mine = {use: dict(sorted(reader.lacking.items())) for use, reader in _readers(run).items()}
    places: dict[str, dict[str, set[int]]] = {}
    for share in run.world.gather(mine):
        for use, by_modality in share.items():
            for modality, lacking_it in by_modality.items():
                places.setdefault(use, {}).setdefault(modality, set()).update(lacking_it)
    counts = {}
    for use, by_modality in places.items():
        counts[use] = {modality: len(lacking_it) for modality, lacking_it in by_modality.items()}
    return counts


def evaluation_maskers(run: Run) -> dict[str, Any]:
    """How views hide a modality from the student and from each teacher, as a YAML has it."""
    masker_of, count = run.data.facts.masker_of, len(run.maskers.teachers)
    maskers = {"student": masker_of("test")[1]}
    for number in range(count):
        maskers["teacher" if count == 1 else f"teacher {number + 1}"] = masker_of("test", number)[1]
    return maskers


def masker_line(maskers: Mapping[str, Any]) -> str:
    """How views hide a modality, as a sentence.

    >>> masker_line({"student": "drop", "teacher": "drop"}), masker_line({"student": "drop", "teacher": "attention"})
    ('Views hide a modality by drop.', 'Views hide a modality from the student by drop, from the teacher by attention.')
    """
    of_side = {side: flow(masker) for side, masker in maskers.items()}
    if len(set(of_side.values())) == 1:
        return f"Views hide a modality by {of_side['student']}."
    return "Views hide a modality " + ", ".join(f"from the {side} by {masker}" for side, masker in of_side.items()) + "."


def environment(world: World) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in ("msd_framework", *PACKAGES)},
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "processes": world.size,
        "cpus": os.cpu_count(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def markdown(result: Mapping[str, Any]) -> str:
    frozen = f" ({result['frozen_parameters']:,} of them frozen)" if result["frozen_parameters"] else ""
    model = f"{result['parameters']:,} parameters{frozen}"
    lines = [f"# {escaped(result['name'])}", "", f"Seed {result['seed']}, {model}, best at update {result['best_update']}."]
    if "seconds" in result:
        lines.append(f"{result['updates']} updates in {result['seconds']} s. {result['stopped']}".rstrip())
    lines += ["", result["precision"]["line"]]
    if "skipped_updates" in result:
        lines.append(f"{result['skipped_updates']} updates were skipped, since their gradients were not finite in fp16.")
    lines += ["", escaped(masker_line(result["maskers"])), "", *_table(result).markdown()]
    if result["lacking"]:
        lines += ["", f"{escaped(lacking_line(result))} Views that show nothing of an example are not measured on it."]
    if result["skipped"]:
        lines += ["", f"{left_out_line(result)}:", ""]
        lines += [f"- {escaped(text)}" for text in result["skipped"][:20]]
    return "\n".join(lines) + "\n"


def lacking_line(result: Mapping[str, Any]) -> str:
    """How many examples lack what, as sentences."""
    sentences = []
    for use, counts in result["lacking"].items():
        for modality, count in counts.items():
            sentences.append(f"{count:,} {use} example{'s have' if count != 1 else ' has'} no {modality}.")
    return " ".join(sentences)


def left_out_line(result: Mapping[str, Any]) -> str:
    """How many examples were left out, without a full stop."""
    count = len(result["skipped"])
    return f"{count:,} example{' was' if count == 1 else 's were'} left out"


def show(result: Mapping[str, Any]) -> None:
    lines = [lacking_line(result)] if result["lacking"] else []
    lines += [f"{left_out_line(result)}; report.json names them."] if result["skipped"] else []
    Screen().show(_table(result), *lines)


def _table(result: Mapping[str, Any]) -> Table:
    """A row a metric, with what it was expected to be and, in a made world, what is possible."""
    beside = {"expected": result["expected"], "possible": result["bayes"]}
    if not result["bayes"]:
        beside.pop("possible")
    rows = []
    for name, value in result["metrics"].items():
        shown = "undefined" if math.isnan(value) else f"{value:.4f}"
        rows.append([name, shown, *(f"{values[name]:.4f}" if name in values else "" for values in beside.values())])
    return Table(["metric", "value", *beside], rows, f"{result['name']} (seed {result['seed']})")
