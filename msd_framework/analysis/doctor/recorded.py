"""What the run of a checkpoint wrote down of its validation split: scores, and every prediction."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msd_framework.checks.resume import begun_with
from msd_framework.components.options import mismatch
from msd_framework.components.registry import split
from msd_framework.config.cards import processors_folder
from msd_framework.config.schema import RunConfig
from msd_framework.engine.checkpoint import CheckpointFolder, find_checkpoint, read_json
from msd_framework.engine.precision import FP32
from msd_framework.engine.prediction_table import MOST_COLUMNS
from msd_framework.errors import CheckpointError, ConfigError
from msd_framework.escaping import cell
from msd_framework.files import split_file
from msd_framework.registry import DATASETS, METRICS
from msd_framework.structures import DatasetInfo

# what is read of a report, which may have been edited
REPORT: dict[str, Any] = {"metrics": dict[str, float | None], "examples": dict[str, int], "precision": dict[str, Any]}


@dataclass(frozen=True)
class Recorded:
    """What the run of a checkpoint wrote down of its validation split."""

    scores: Mapping[str, float] = field(default_factory=dict)  # of the full view, by the metric's name
    metrics: Mapping[str, Any] = field(default_factory=dict)  # the metrics' parts of its YAML, by name
    dataset: str = ""
    split: str = ""  # as the data set calls it
    rows: int | None = None  # None if nobody wrote down how many examples it had
    precision: str = FP32.name  # what they were predicted in
    predictions: Path | None = None  # the file with every prediction
    why_not: str = ""  # why nothing can be compared


def read_recorded(path: str, config: RunConfig) -> Recorded:
    """What a teacher's run wrote down; the user's own run says what that run may name."""
    try:
        folder, checkpoint = processors_folder(path).parent, find_checkpoint(path)
        best = CheckpointFolder(folder / "checkpoints").path("best")
    except CheckpointError:
        return Recorded(why_not="its run's folder is not there, only a checkpoint")
    if best is None or best.resolve() != checkpoint:
        return Recorded(why_not="it is not the best checkpoint of its run, of which the run has written down its scores")
    try:
        begun = begun_with(folder, config)
        metrics = {split(spec, "evaluation.metrics", METRICS)[0]: spec for spec in begun.evaluation.metrics}
        dataset = split(begun.data.dataset, "data.dataset", DATASETS)[0]
    except ConfigError:
        return Recorded(why_not="its run's folder has no config.yaml that can be read")
    report, name = _report(folder / "report.json"), str(begun.data.validation)
    written = report.get("metrics", {})
    if not any(key.startswith("validation/") for key in written):
        # a run that was stopped early has no report, but its checkpoint has a score
        monitored = begun.evaluation.monitor or next(iter(metrics), "")
        written = {f"validation/{monitored}": read_json(checkpoint / "state.json").get("best")}
    scores = {}
    for key, value in written.items():
        if key.startswith("validation/") and isinstance(value, (int, float)):
            scores[key.removeprefix("validation/")] = float(value)
    predictions = split_file(folder, "predictions", name, "csv")
    return Recorded(
        scores=scores,
        metrics=metrics,
        dataset=dataset,
        split=name,
        rows=report.get("examples", {}).get("validation"),
        precision=report.get("precision", {}).get("name", FP32.name),
        predictions=predictions if predictions.is_file() else None,
        why_not="" if begun.data.validation else "its run had no validation split",
    )


def read_predictions(path: Path, ids: Sequence[str], info: DatasetInfo) -> list[dict[int, float]]:
    """The recorded probabilities of examples, by class, of many the largest alone; empty for one that is not there."""
    names = list(map(cell, info.class_names)) or list(map(str, range(info.num_classes)))
    answers: dict[str, dict[int, float]] = {cell(i): {} for i in ids}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["id"] in answers:
                answers[row["id"]] = _probabilities(row, names)
    return [answers[cell(i)] for i in ids]


def _probabilities(row: Mapping[str, str], names: Sequence[str]) -> dict[int, float]:
    if len(names) <= MOST_COLUMNS:
        return {c: float(row[name]) for c, name in enumerate(names)} if row.keys() >= set(names) else {}
    chosen = row.get("prediction")
    return {names.index(chosen): float(row["probability"])} if chosen in names else {}


def _report(path: Path) -> dict[str, Any]:
    """The parts of a report that have the form that a run writes."""
    try:
        report = read_json(path)
    except CheckpointError:
        return {}
    return {key: report[key] for key, form in REPORT.items() if not mismatch(report.get(key), form)}
