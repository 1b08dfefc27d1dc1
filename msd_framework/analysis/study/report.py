"""What a study has found: summary.json, summary.md, the same on the screen, and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from msd_framework.analysis.plots import draw_densities, draw_runs, read_log_odds
from msd_framework.analysis.statistics import Difference, Summary, holm, paired_difference, summarise
from msd_framework.analysis.study.by_view import SaliencyTable, ViewTable, saliency_table, view_tables
from msd_framework.analysis.study.config import StudyConfig, larger_is_better
from msd_framework.escaping import markdown as escaped
from msd_framework.files import write_json, write_text
from msd_framework.screen import Screen
from msd_framework.table import Table

COMPARED = (
    "Paired differences with the 95 % bootstrap interval of their mean over seeds, and the p-value of an exact sign-flip test, "
    "corrected for the number of comparisons in the same metric (Holm). The verdict is the interval's, which is not corrected."
)
"""How a table of differences is to be read."""

ABSENT = "-"
"""What stands where a run has no such number, as a student without a teacher has no fidelity."""


@dataclass(frozen=True)
class Row:
    """A method over its seeds.

    Args:
        name: the method, or ``teacher``.
        metrics: each compared metric that it has.
        parameters: of its model.
        seconds: what a run took on average.
    """

    name: str
    metrics: Mapping[str, Summary]
    parameters: int
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """A method against a baseline in one metric.

    Args:
        method: what is compared.
        baseline: what it is compared with.
        metric: in what.
        difference: over the seeds.
        p: of the difference, corrected for all comparisons in this metric.
    """

    method: str
    baseline: str
    metric: str
    difference: Difference
    p: float = float("nan")

    @property
    def title(self) -> str:
        return f"{self.method} - {self.baseline}"


def write_report(config: StudyConfig, runs: Sequence[Mapping[str, Any]], asked: Sequence[Path] = ()) -> dict[str, Any]:
    """Compares the runs, and writes and shows what comes out.

    Args:
        config: the study.
        runs: the report of each run, with the method as its `name`.
        asked: what `msd saliency` wrote of each seed's teacher.

    Returns:
        what `summary.json` holds.
    """
    rows, comparisons = list(table(config, runs)), list(compare(config, runs))
    by_view = list(view_tables(list(config.run_files), config.metrics[0], runs))
    saliency = saliency_table(asked)
    kept = ("name", "seed", "metrics", "parameters", "seconds")
    summary: dict[str, Any] = {
        "name": config.name,
        "seeds": config.seed_list,
        "runs": [{key: r[key] for key in kept} for r in runs],
        "table": [asdict(row) for row in rows],
        "differences": [
            {
                "method": c.method,
                "baseline": c.baseline,
                "metric": c.metric,
                **asdict(c.difference),
                "p_holm": c.p,
                "verdict": c.difference.verdict,
            }
            for c in comparisons
        ],
        "views": [asdict(found) for found in by_view],
        "saliency": asdict(saliency) if saliency else None,
        "note": config.note,
    }
    pictures = [*_draw_runs(config, runs), *_draw_densities(config)]
    write_json(config.folder / "summary.json", summary)
    write_text(config.folder / "summary.md", markdown(config, rows, comparisons, pictures, by_view, saliency))
    show(config, rows, comparisons, pictures)
    return summary


def table(config: StudyConfig, runs: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Means over seeds, a row for the teacher and each method."""
    for name in config.run_files:
        own = [r for r in runs if r["name"] == name]
        metrics = {
            m: summarise([r["metrics"][m] for r in own])
            for m in config.metrics
            if all(r["metrics"].get(m) is not None for r in own)
        }
        yield Row(name, metrics, own[0]["parameters"], sum(r["seconds"] for r in own) / len(own))


def compare(config: StudyConfig, runs: Sequence[Mapping[str, Any]]) -> Iterator[Comparison]:
    """Every method against every baseline that comes before it, in each metric that both have."""
    values = {(r["name"], r["seed"]): r["metrics"] for r in runs}
    for metric in config.metrics:
        found = {}
        for method, baseline in pairs(config.all_methods, config.baselines):
            theirs, its = ([values[name, seed].get(metric) for seed in config.seed_list] for name in (baseline, method))
            if None not in (*theirs, *its):
                found[method, baseline] = paired_difference(its, theirs, larger_is_better(metric))
        corrected = holm([d.p for d in found.values()])
        yield from (Comparison(*names, metric, d, p) for (names, d), p in zip(found.items(), corrected))


def pairs(methods: Sequence[str], baselines: Sequence[str]) -> list[tuple[str, str]]:
    """Who is compared with whom: two baselines once, the later one with the earlier one.

    >>> pairs(["ce", "kd", "msd"], ["ce", "kd"])
    [('kd', 'ce'), ('msd', 'ce'), ('msd', 'kd')]
    """
    earlier = {b: baselines[:i] for i, b in enumerate(baselines)}
    return [(m, b) for m in methods for b in earlier.get(m, baselines)]


def scale(metric: str) -> float:
    """What a metric is shown times: 100 where larger is better, as for shares and areas, 1 for distances."""
    return 100.0 if larger_is_better(metric) else 1.0


def shown(metric: str, summary: Summary | None) -> str:
    """A mean and its spread.

    >>> shown("test/accuracy", Summary(0.8342, 0.0117, 10)), shown("test/kl", Summary(0.5, float("nan"), 1))
    ('83.4 ± 1.2', '0.500')
    """
    if summary is None:
        return ABSENT
    digits = 1 if larger_is_better(metric) else 3
    spread = "" if math.isnan(summary.sd) else f" ± {scale(metric) * summary.sd:.{digits}f}"
    return f"{scale(metric) * summary.mean:.{digits}f}{spread}"


def sentence(comparison: Comparison) -> str:
    """A comparison in words.

    >>> difference = Difference(0.0492, 0.0421, 0.0563, wins=10, losses=0, num_pairs=10)
    >>> sentence(Comparison("msd", "kd", "test/accuracy", difference))
    'msd - kd: +4.9 [+4.2, +5.6] test/accuracy, 10 wins, 0 losses: better'
    """
    d = comparison.difference
    return f"{comparison.title}: {interval(comparison)} {comparison.metric}, {tally(comparison)}: {d.verdict}"


def tally(comparison: Comparison) -> str:
    """On how many seeds a method is better and worse; the others are ties."""
    wins, losses = comparison.difference.wins, comparison.difference.losses
    return f"{wins} win{'s' * (wins != 1)}, {losses} loss{'es' * (losses != 1)}"


def interval(comparison: Comparison) -> str:
    """A mean difference and its interval."""
    d, digits = comparison.difference, 1 if larger_is_better(comparison.metric) else 3
    mean, low, high = (f"{scale(comparison.metric) * x:+.{digits}f}" for x in (d.mean, d.low, d.high))
    return f"{mean} [{low}, {high}]"


def caption(config: StudyConfig) -> str:
    """How the numbers are to be read."""
    seeds = len(config.seed_list)
    distances = [m for m in config.metrics if not larger_is_better(m)]
    units = f"Times 100, except {', '.join(distances)}, where smaller is better" if distances else "Times 100"
    return f"{units}; " + (f"mean ± standard deviation over {seeds} seeds." if seeds > 1 else "one seed.")


def markdown(
    config: StudyConfig,
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    pictures: Sequence[str],
    by_view: Sequence[ViewTable] = (),
    saliency: SaliencyTable | None = None,
) -> str:
    """The summary as a page."""
    lines = [f"# {escaped(config.name)}", "", caption(config), ""]
    lines += Table(["", *config.metrics, "parameters", "seconds"], cells(config, rows)).markdown()
    for found in by_view:
        lines += ["", f"## {escaped(found.title)}: {found.metric}", "", *view_table(found).markdown()]
    lines += ["", "## What each modality is to the teacher", "", *saliency_columns(saliency).markdown()] if saliency else []
    lines += ["", "## Differences", "", COMPARED, "", *comparison_table(comparisons).markdown()] if comparisons else []
    lines += ["", config.note] if config.note else []
    lines += [text for name in pictures for text in ("", f"![{name.removesuffix('.png')}]({name})")]
    return "\n".join(lines) + "\n"


def cells(config: StudyConfig, rows: Sequence[Row]) -> list[list[str]]:
    """The means over seeds in words."""
    return [
        [row.name, *(shown(m, row.metrics.get(m)) for m in config.metrics), f"{row.parameters:,}", f"{row.seconds:.1f}"]
        for row in rows
    ]


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """The differences."""
    columns = ["", "metric", "difference", "wins, losses", "p (Holm)", ""]
    return Table(columns, [[c.title, c.metric, interval(c), tally(c), f"{c.p:.3f}", c.difference.verdict] for c in comparisons])


def view_table(found: ViewTable) -> Table:
    """One metric by view."""
    rows = [[method, *(shown(found.metric, cell) for cell in summaries)] for method, summaries in found.rows.items()]
    return Table(["", *found.views], rows)


def saliency_columns(found: SaliencyTable) -> Table:
    """How often each modality is the most salient one, and how well a score tells the truth."""
    kinds = [f"AUROC, {kind}" for kind in next(iter(found.truth.values()), ())]
    rows = []
    for name, most in found.most_salient.items():
        summaries = [*most.values(), *found.truth.get(name, {}).values()]
        rows.append([name, *(shown("auroc", summary) for summary in summaries)])
    return Table(["score", *(f"{m} first" for m in found.modalities), *kinds], rows)


def show(config: StudyConfig, rows: Sequence[Row], comparisons: Sequence[Comparison], pictures: Sequence[str]) -> None:
    """The summary on the screen, with the comparisons of the main metric."""
    # A line end and no blanks, so that many metrics stand side by side.
    columns = ["", *(name.replace("/", "\n") for name in config.metrics), "para\nmeters", "seconds"]
    narrow = [[name, *(cell.replace(" ", "") for cell in rest)] for name, *rest in cells(config, rows)]
    texts = [sentence(c) for c in comparisons if c.metric == config.metrics[0]]
    texts += [config.note] if config.note else []
    texts.append(f"All of it is in {config.folder}: {', '.join(['summary.md', 'summary.json', *pictures])}.")
    Screen().show(Table(columns, narrow, config.name, caption(config)), *texts)


def _draw_runs(config: StudyConfig, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    metric = config.metrics[0]
    values = {
        n: [scale(metric) * r["metrics"][metric] for r in runs if r["name"] == n and r["metrics"].get(metric) is not None]
        for n in config.run_files
    }
    draw_runs(
        {name: found for name, found in values.items() if found}, f"{metric}, times {scale(metric):g}", config.folder / "runs.png"
    )
    return ["runs.png"]


def _draw_densities(config: StudyConfig) -> list[str]:
    if not config.densities:
        return []
    panels = {}
    for name in config.densities:
        folder = config.folder / name / f"seed_{config.seed_list[0]}"
        split = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["data"]["test"]
        panels[name] = read_log_odds(folder / f"predictions_{split.replace('/', '_')}.csv")
    draw_densities(panels, config.folder / "densities.png")
    return ["densities.png"]
