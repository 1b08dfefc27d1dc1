"""The report of a study: summary.json, summary.md, the same on the screen, and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from msd_framework.analysis.plots import draw_densities, draw_runs, read_log_odds
from msd_framework.analysis.statistics import Difference, Summary, holm, paired_difference
from msd_framework.analysis.study.by_view import SaliencyTable, ViewTable, saliency_table, summary_of, view_tables
from msd_framework.analysis.study.config import StudyConfig, larger_is_better
from msd_framework.escaping import markdown as escaped
from msd_framework.files import split_file, write_json, write_text
from msd_framework.screen import Screen
from msd_framework.table import Table

# how a table of differences is to be read
COMPARED = (
    "Paired differences with the 95 % bootstrap interval of their mean over seeds, and the p-value of an exact sign-flip test, "
    "corrected for the number of comparisons in the same metric (Holm). The verdict is the interval's, which is not corrected."
)


@dataclass(frozen=True)
class Row:
    """A method, or the teacher, over its seeds."""

    name: str
    metrics: Mapping[str, Summary]  # each compared metric that it has
    parameters: int
    seconds: float  # of a run, the mean


@dataclass(frozen=True)
class Comparison:
    """A method against a baseline in one metric."""

    method: str
    baseline: str
    metric: str
    difference: Difference
    p: float = float("nan")  # of the difference, corrected for all comparisons in this metric

    def cells(self) -> list[str]:
        """Who with whom, in what, the mean difference and its interval, seeds that are no ties, the p-value and the verdict."""
        metric, d = self.metric, self.difference
        interval = f"{number(metric, d.mean, '+')} [{number(metric, d.low, '+')}, {number(metric, d.high, '+')}]"
        tally = f"{d.wins} win{'s' * (d.wins != 1)}, {d.losses} loss{'es' * (d.losses != 1)}"
        return [f"{self.method} - {self.baseline}", metric, interval, tally, f"{self.p:.3f}", d.verdict]


@dataclass(frozen=True)
class Results:
    """Everything that a study compares."""

    config: StudyConfig
    runs: Sequence[Mapping[str, Any]]  # the report of each run, with the method as its `name`
    rows: Sequence[Row]
    comparisons: Sequence[Comparison]
    by_view: Sequence[ViewTable]  # of the main metric and of each fidelity, where there are several views
    saliency: SaliencyTable | None


def write_report(config: StudyConfig, runs: Sequence[Mapping[str, Any]], saliency_files: Sequence[Path]) -> dict[str, Any]:
    """Compares the runs, and writes and shows the results; returns what `summary.json` holds.

    Args:
        runs: the report of each run, with the method as its `name`.
        saliency_files: what `msd saliency` wrote of each seed's teacher.
    """
    by_view = list(view_tables(list(config.run_files), config.metrics[0], runs))
    saliency = saliency_table(saliency_files)
    results = Results(config, runs, list(table(config, runs)), list(compare(config, runs)), by_view, saliency)
    summary = as_json(results)
    pictures = _draw(config, runs)
    write_json(config.folder / "summary.json", summary)
    write_text(config.folder / "summary.md", markdown(results, pictures))
    show(results, pictures)
    return summary


def as_json(results: Results) -> dict[str, Any]:
    runs, differences = [], []
    for run in results.runs:
        runs.append({key: run[key] for key in ("name", "seed", "metrics", "parameters", "seconds")})
    for c in results.comparisons:
        names = {"method": c.method, "baseline": c.baseline, "metric": c.metric}
        differences.append({**names, **asdict(c.difference), "p_holm": c.p, "verdict": c.difference.verdict})
    return {
        "name": results.config.name,
        "seeds": results.config.seed_list,
        "runs": runs,
        "table": list(map(asdict, results.rows)),
        "differences": differences,
        "views": list(map(asdict, results.by_view)),
        "saliency": asdict(results.saliency) if results.saliency else None,
        "note": results.config.note,
    }


def table(config: StudyConfig, runs: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    for name in config.run_files:
        own, metrics = [run for run in runs if run["name"] == name], {}
        for metric in config.metrics:
            summary = summary_of(name, metric, own)
            if summary:
                metrics[metric] = summary
        yield Row(name, metrics, own[0]["parameters"], sum(run["seconds"] for run in own) / len(own))


def compare(config: StudyConfig, runs: Sequence[Mapping[str, Any]]) -> Iterator[Comparison]:
    """Every method against every baseline that comes before it, in each metric that both have."""
    metrics = {(run["name"], run["seed"]): run["metrics"] for run in runs}
    for metric in config.metrics:
        differences = {}
        for method, baseline in pairs(config.all_methods, config.baselines):
            a = [metrics[method, seed].get(metric) for seed in config.seed_list]
            b = [metrics[baseline, seed].get(metric) for seed in config.seed_list]
            if None not in (*a, *b):
                differences[method, baseline] = paired_difference(a, b, larger_is_better(metric))
        corrected = holm([difference.p for difference in differences.values()])
        for ((method, baseline), difference), p in zip(differences.items(), corrected):
            yield Comparison(method, baseline, metric, difference, p)


def pairs(methods: Sequence[str], baselines: Sequence[str]) -> list[tuple[str, str]]:
    """Who is compared with whom: two baselines once, the later one with the earlier one.

    >>> pairs(["ce", "kd", "msd"], ["ce", "kd"])
    [('kd', 'ce'), ('msd', 'ce'), ('msd', 'kd')]
    """
    pairs = []
    for method in methods:
        earlier = baselines[: baselines.index(method)] if method in baselines else baselines
        pairs += [(method, baseline) for baseline in earlier]
    return pairs


def number(metric: str, value: float, sign: str = "") -> str:
    """A value of a metric: times 100 where larger is better, as for shares and areas; as it is for distances."""
    return f"{100 * value:{sign}.1f}" if larger_is_better(metric) else f"{value:{sign}.3f}"


def shown(metric: str, summary: Summary | None) -> str:
    """A mean and its spread.

    >>> shown("test/accuracy", Summary(0.8342, 0.0117, 10)), shown("test/kl", Summary(0.5, float("nan"), 1))
    ('83.4 ± 1.2', '0.500')
    """
    if summary is None:  # as a student without a teacher has no fidelity
        return "-"
    mean = number(metric, summary.mean)
    return mean if math.isnan(summary.sd) else f"{mean} ± {number(metric, summary.sd)}"


def sentence(comparison: Comparison) -> str:
    """A comparison in words.

    >>> difference = Difference(0.0492, 0.0421, 0.0563, wins=10, losses=0, num_pairs=10)
    >>> sentence(Comparison("msd", "kd", "test/accuracy", difference))
    'msd - kd: +4.9 [+4.2, +5.6] test/accuracy, 10 wins, 0 losses: better'
    """
    title, metric, interval, tally, _, verdict = comparison.cells()
    return f"{title}: {interval} {metric}, {tally}: {verdict}"


def caption(config: StudyConfig) -> str:
    """How the numbers are to be read."""
    seeds = len(config.seed_list)
    distances = [m for m in config.metrics if not larger_is_better(m)]
    units = f"Times 100, except {', '.join(distances)}, where smaller is better" if distances else "Times 100"
    return f"{units}; " + (f"mean ± standard deviation over {seeds} seeds." if seeds > 1 else "one seed.")


def markdown(results: Results, pictures: Sequence[str]) -> str:
    config = results.config
    lines = [f"# {escaped(config.name)}", "", caption(config), ""]
    lines += Table(["", *config.metrics, "parameters", "seconds"], cells(results)).markdown()
    for one in results.by_view:
        rows = []
        for method, summaries in one.rows.items():
            rows.append([method, *map(partial(shown, one.metric), summaries)])
        lines += ["", f"## {escaped(one.title)}: {one.metric}", "", *Table(["", *one.views], rows).markdown()]
    if results.saliency:
        lines += ["", "## What each modality is to the teacher", "", *modality_table(results.saliency).markdown()]
    if results.comparisons:
        header = ["", "metric", "difference", "wins, losses", "p (Holm)", ""]
        table = Table(header, [comparison.cells() for comparison in results.comparisons])
        lines += ["", "## Differences", "", COMPARED, "", *table.markdown()]
    if config.note:
        lines += ["", config.note]
    for name in pictures:
        lines += ["", f"![{name.removesuffix('.png')}]({name})"]
    return "\n".join(lines) + "\n"


def cells(results: Results) -> list[list[str]]:
    """The means over seeds in words."""
    rows = []
    for row in results.rows:
        means = [shown(metric, row.metrics.get(metric)) for metric in results.config.metrics]
        rows.append([row.name, *means, f"{row.parameters:,}", f"{row.seconds:.1f}"])
    return rows


def modality_table(saliency: SaliencyTable) -> Table:
    """How often each modality is the most salient one, and how well a score tells what decides an example."""
    rows = []
    for name, most in saliency.most_salient.items():
        summaries = [*most.values(), *saliency.truth.get(name, {}).values()]
        rows.append([name, *map(partial(shown, "auroc"), summaries)])
    columns = [f"{modality} first" for modality in saliency.modalities]
    columns += [f"AUROC, {kind}" for kind in next(iter(saliency.truth.values()), ())]
    return Table(["score", *columns], rows)


def show(results: Results, pictures: Sequence[str]) -> None:
    """The summary on the screen, with the comparisons of the main metric."""
    config = results.config
    # A line end and no blanks, so that many metrics stand side by side.
    columns = ["", *(name.replace("/", "\n") for name in config.metrics), "para\nmeters", "seconds"]
    narrow = []
    for name, *rest in cells(results):
        narrow.append([name, *(cell.replace(" ", "") for cell in rest)])
    texts = [sentence(c) for c in results.comparisons if c.metric == config.metrics[0]]
    texts += [config.note] if config.note else []
    texts.append(f"All of it is in {config.folder}: {', '.join(['summary.md', 'summary.json', *pictures])}.")
    Screen().show(Table(columns, narrow, config.name, caption(config)), *texts)


def _draw(config: StudyConfig, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Draws every run's main metric and, if they are wanted, densities; returns the pictures' names."""
    metric, values = config.metrics[0], dict[str, list[float]]()
    scale = 100 if larger_is_better(metric) else 1
    for name in config.run_files:
        for run in runs:
            if run["name"] == name and run["metrics"].get(metric) is not None:
                values.setdefault(name, []).append(scale * run["metrics"][metric])
    draw_runs(values, f"{metric}, times {scale}", config.folder / "runs.png")
    if not config.densities:
        return ["runs.png"]
    panels = {}
    for name in config.densities:
        folder = config.folder / name / f"seed_{config.seed_list[0]}"
        split = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["data"]["test"]
        panels[name] = read_log_odds(split_file(folder, "predictions", split, "csv"))
    draw_densities(panels, config.folder / "densities.png")
    return ["runs.png", "densities.png"]
