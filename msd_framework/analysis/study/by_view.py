"""A study by view: how right every method is on each view, and how near to its teacher; and the teachers' saliency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from msd_framework.analysis.statistics import summarise
from msd_framework.reading import read_json
from msd_framework.views import FULL

POSSIBLE = "possible"  # the row of what a reader who mistakes nothing has, in a made world


def view_tables(names: Sequence[str], metric: str, runs: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """By view, a study's main metric, such as `test/auroc`, and its fidelity, where runs report several views.

    `metric` is its name on the full view; a row is a summary a view, None where the method has no such number.
    """
    use, _, own = metric.partition("/")
    titles = {own: "With a modality missing", "agreement": "As the teacher says", "kl": "Divergence from the teacher"}
    for name, title in titles.items():
        views = views_of(use, name, runs)
        if len(views) < 2:
            continue
        rows = {}
        for method in names:
            summaries = [summary_of(method, name_on(view, use, name), runs) for view in views]
            if any(summaries):
                rows[method] = summaries
        possible = [possible_of(name_on(view, use, name), runs) for view in views]
        if any(possible):
            rows[POSSIBLE] = possible
        yield {"title": title, "metric": name_on(FULL, use, name), "views": views, "rows": rows}


def views_of(use: str, name: str, runs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The views on which runs report a metric, the full one first.

    >>> views_of("test", "auroc", [{"metrics": {"test/auroc": 0.9, "test/image/auroc": 0.8, "test/kl": 0.1}}])
    ('full', 'image')
    """
    views = dict[str, None]()
    for run in runs:
        for key in run["metrics"]:
            if key.startswith(f"{use}/") and key.endswith(f"/{name}"):
                _, *view, _ = key.split("/")
                views[view[0] if view else FULL] = None
    return tuple(sorted(views, key=lambda view: view != FULL))


def name_on(view: str, use: str, name: str) -> str:
    """What reports call a metric on a view: `test/auroc`, or `test/image/auroc`."""
    return f"{use}/{name}" if view == FULL else f"{use}/{view}/{name}"


def summary_of(method: str, metric: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Mean and spread of a metric of a method over its seeds; None where a run has no such number."""
    values = [run["metrics"].get(metric) for run in runs if run["name"] == method]
    return asdict(summarise(values)) if values and None not in values else None


def possible_of(metric: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The same of the exact posteriors of each seed's world, by the first run that has them; None where none has."""
    by_seed: dict[int, float] = {}
    for run in runs:
        if metric in run.get("bayes", {}):  # not in reports of earlier versions
            by_seed.setdefault(run["seed"], run["bayes"][metric])
    return asdict(summarise(list(by_seed.values()))) if by_seed else None


def saliency_table(files: Sequence[Path]) -> dict[str, Any] | None:
    """The means of what `msd saliency` wrote for each seed's teacher; None where it wrote nothing.

    `truth` is the area under the ROC curve with which a score tells what decides an example; empty where that is not known.
    """
    saliencies = list(map(read_json, files))
    if not saliencies:
        return None
    most_salient, truth = {}, {}
    for label, scores in saliencies[0]["scores"].items():
        of_label, most, areas = [saliency["scores"][label] for saliency in saliencies], {}, {}
        for modality in saliencies[0]["modalities"]:
            most[modality] = asdict(summarise([s["classes"]["all"][modality]["most_salient"] for s in of_label]))
        for kind in scores.get("truth", ()):
            areas[kind] = asdict(summarise([s["truth"][kind]["value"] for s in of_label]))
        most_salient[label] = most
        if areas:
            truth[label] = areas
    return {"modalities": saliencies[0]["modalities"], "most_salient": most_salient, "truth": truth}
