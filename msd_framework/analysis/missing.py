"""How well trained models do where a share of the examples lacks a modality."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from msd_framework.analysis.plots import draw_lines
from msd_framework.build.data import Data
from msd_framework.build.facts import RunFacts
from msd_framework.build.run import build
from msd_framework.checks.run import checked
from msd_framework.config.load import load
from msd_framework.config.values import flow
from msd_framework.engine.distributed import World
from msd_framework.engine.evaluation import Predictions
from msd_framework.errors import ConfigError, DataError, Problem
from msd_framework.files import write_json, write_text
from msd_framework.metrics.base import Metric
from msd_framework.registry import METRICS
from msd_framework.screen import Screen
from msd_framework.table import Table
from msd_framework.views import FULL, without

ANY = "any one"  # each example that lacks something lacks one modality, whichever
NUM_DRAWS = 10  # of which examples lack a modality; the mean over draws is shown


@dataclass(frozen=True)
class Measured:
    """A finished run's predictions of a split, in full and without each modality."""

    name: str
    ids: Sequence[str]  # of the examples with a label
    predictions: Predictions  # of the views full and, for each modality, the one without it
    views: Mapping[str, str]  # the view without each modality
    metric: str
    function: Metric

    def at(self, missing: str, share: float) -> float:
        """The metric where a share of the examples lacks a modality, or any one; the mean over draws, which ids alone decide."""
        values = []
        for number in range(NUM_DRAWS):
            draws = torch.tensor([draw(name, number) for name in self.ids], dtype=torch.float64)  # [N, 2]
            lacking, which = draws[:, 0] < share, (draws[:, 1] * len(self.views)).long()
            logits = self.predictions.logits[FULL].clone()
            for place, (modality, view) in enumerate(self.views.items()):
                rows = lacking & (which == place if missing == ANY else torch.full_like(lacking, missing == modality))
                # an example that has nothing else keeps what it has
                rows = rows & self.predictions.shown.get(view, torch.ones_like(rows))
                logits[rows] = self.predictions.logits[view][rows]
            values.append(float(self.function(logits, self.predictions.targets)))
        return fmean(values)


def draw(name: str, number: int) -> tuple[float, float]:
    """Two numbers from 0 to 1 for an example, by its id and the number of the draw alone."""
    content = hashlib.sha256(f"{number} {name}".encode()).digest()
    return int.from_bytes(content[:8], "big") / 2**64, int.from_bytes(content[8:16], "big") / 2**64


def measured(folder: str, use: str, metric: str | None) -> Measured:
    """Predicts a split by the best checkpoint of a finished run, which stays as it is."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise ConfigError(Problem("runs", f"there is no finished run in {folder}, which has no config.yaml. Train it first."))
    # no teacher is asked; how logits are read is in the checkpoint
    alone = [f"run_type={use}", f"env.save_dir={folder}", "teacher=null", "objective=supervised", "expected={}"]
    source = load(path, [*alone, "evaluation.views=[full]", "evaluation.monitor=null", "callbacks=[]"])
    modalities = RunFacts(checked(source)).student.modalities
    if len(modalities) < 2:
        raise ConfigError(Problem("runs", f"{folder}: its model takes {modalities[0]} alone, of which nothing can be missing."))
    views = {m: without(m, modalities) for m in modalities}
    source = load(path, [*alone, f"evaluation.views={flow([FULL, *views.values()])}", "evaluation.monitor=null", "callbacks=[]"])
    run = build(RunFacts(checked(source)), World.alone(source.values.get("env", {}).get("device", "auto")))
    name = metric or next(iter(run.metrics))
    function = run.metrics.get(name) or _other_metric(name, run.data)
    run.load_trained()
    split = {"val": "validation"}.get(use, use)
    predictions = run.predict(run.data.evaluation[split]).together()
    predictions = predictions.at(predictions.labelled)
    if not len(predictions.places):
        raise DataError(f"{folder}: no example of its split for {split} has a label, as in a blind test; take another one.")
    ids = [run.data.splits[split][place].id for place in predictions.places.tolist()]
    return Measured(Path(folder).name, ids, predictions, views, name, function)


def _other_metric(name: str, data: Data) -> Metric:
    """A metric that a run does not have, of its targets."""

    def fits(metric: str) -> bool:
        cls = METRICS.get(metric, "metric")
        return data.info.task in getattr(cls, "tasks", (data.info.task,)) and not cls.check(data.info)

    if not fits(name):
        text = f"{name} does not fit the data set's {data.info.task} targets."
        raise ConfigError(Problem("metric", f"{text} Those that do: {', '.join(filter(fits, METRICS.names()))}."))
    return METRICS.build(name, "metric", data.known)


def missing(
    runs: list[str], split: str = "test", metric: str | None = None, points: int = 11, folder: str = "runs/missing"
) -> None:
    """Measures finished runs where from none to all of the examples lack a modality; writes a table and a picture.

    Args:
        runs: folders of finished runs, such as `[runs/kd, runs/msd]`; they are named by their last part.
        split: the split by its use, `validation` or `test`.
        metric: what is measured, such as `auroc`; the first metric of the first run if null.
        points: shares of examples from 0 to 1 that are measured, at least 2.
        folder: where `missing.json`, `missing.md` and `missing.png` are written.
    """
    if split not in ("validation", "test"):
        raise ConfigError(Problem("split", f"wanted validation or test, got {split!r}."))
    if points < 2 or not runs:
        raise ConfigError(Problem("points", f"wanted at least 2, got {points}.") if runs else Problem("runs", "names no run."))
    if len({Path(run).name for run in runs}) < len(runs):
        raise ConfigError(Problem("runs", "two of the folders have the same last part, by which runs are named. Rename one."))
    shares = [i / (points - 1) for i in range(points)]
    curves: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        one = measured(run, {"validation": "val"}.get(split, split), metric)
        metric = one.metric
        for lacking in [*one.views, ANY]:
            curves.setdefault(lacking, {})[one.name] = [one.at(lacking, share) for share in shares]
    assert metric is not None
    write_report(Path(folder), split, metric, shares, curves)


def write_report(
    folder: Path, split: str, metric: str, shares: Sequence[float], curves: Mapping[str, Mapping[str, Sequence[float]]]
) -> None:
    """A table and a picture of curves, by what is missing and by run."""
    result: dict[str, Any] = {"split": split, "metric": metric, "shares": shares, "missing": curves}
    rows = []
    for lacking, by_run in curves.items():
        for name, values in by_run.items():
            rows.append([lacking, name, *(f"{value:.4f}" for value in values)])
    title = f"{metric} on {split} by the share of examples that lack a modality"
    table = Table(["missing", "run", *(f"{share:g}" for share in shares)], rows, title)
    write_json(folder / "missing.json", result)
    write_text(folder / "missing.md", "\n".join([f"# {title}", "", *table.markdown(), "", "![missing](missing.png)"]) + "\n")
    panels = {f"{metric}, {lacking} missing": by_run for lacking, by_run in curves.items()}
    draw_lines(("share of examples", shares), panels, folder / "missing.png")
    Screen().show(table, f"All of it is in {folder}: missing.md, missing.json, missing.png.")
