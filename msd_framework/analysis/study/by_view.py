"""A study by view: how right every method is on each view, and how near to its teacher; and the teachers' saliency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msd_framework.analysis.statistics import Summary, summarise
from msd_framework.reading import read_json
from msd_framework.views import FULL


@dataclass(frozen=True)
class ViewTable:
    """One metric by method and view."""

    title: str
    metric: str  # its name on the full view, as reports have it
    views: tuple[str, ...]  # the full one first
    rows: Mapping[str, tuple[Summary | None, ...]]  # a summary a view, by method; None where it has no such number


def view_tables(names: Sequence[str], metric: str, runs: Sequence[Mapping[str, Any]]) -> Iterator[ViewTable]:
    """The tables of a study that was evaluated on several views, for its methods and its main metric, such as `test/auroc`."""
    use, _, own = metric.partition("/")
    titles = {own: "With a modality missing", "agreement": "As the teacher says", "kl": "Divergence from the teacher"}
    for name, title in titles.items():
        views = views_of(use, name, runs)
        if len(views) < 2:
            continue
        rows = {}
        for method in names:
            summaries = tuple(summary_of(method, name_on(view, use, name), runs) for view in views)
            if any(summaries):
                rows[method] = summaries
        yield ViewTable(title, name_on(FULL, use, name), views, rows)


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


def summary_of(method: str, metric: str, runs: Sequence[Mapping[str, Any]]) -> Summary | None:
    """A metric of a method over its seeds; None where a run has no such number."""
    values = [run["metrics"].get(metric) for run in runs if run["name"] == method]
    return summarise(values) if values and None not in values else None


@dataclass(frozen=True)
class SaliencyTable:
    """What each modality is to the teachers of a study."""

    modalities: tuple[str, ...]
    # over seeds, by score: how often each modality is the most salient one, and the area under the ROC curve with which the
    # score tells what decides an example, by kind; empty where that is not known
    most_salient: Mapping[str, Mapping[str, Summary]]
    truth: Mapping[str, Mapping[str, Summary]]


def saliency_table(files: Sequence[Path]) -> SaliencyTable | None:
    """The means of what `msd saliency` wrote for each seed's teacher; None where it wrote nothing."""
    saliencies = list(map(read_json, files))
    if not saliencies:
        return None
    first = saliencies[0]
    modalities = tuple(first["modalities"])
    most_salient, truth = {}, {}
    for label, scores in first["scores"].items():
        of_label, most, areas = [saliency["scores"][label] for saliency in saliencies], {}, {}
        for modality in modalities:
            most[modality] = summarise([s["classes"]["all"][modality]["most_salient"] for s in of_label])
        for kind in scores.get("truth", ()):
            areas[kind] = summarise([s["truth"][kind]["value"] for s in of_label])
        most_salient[label] = most
        if areas:
            truth[label] = areas
    return SaliencyTable(modalities, most_salient, truth)
