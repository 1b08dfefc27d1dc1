"""The report of a study: summary.json, summary.md, the same on the screen, and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from msd_framework.analysis.plots import draw_densities, draw_runs, read_log_odds
from msd_framework.analysis.statistics import holm, paired_difference
from msd_framework.analysis.study.by_view import POSSIBLE, possible_of, saliency_table, summary_of, view_tables
from msd_framework.analysis.study.config import StudyConfig, larger_is_better
from msd_framework.escaping import markdown as escaped
from msd_framework.files import split_file, write_json, write_text
from msd_framework.report import masker_line
from msd_framework.screen import Screen
from msd_framework.table import Table

# how a table of differences is to be read
COMPARED = (
    "Paired differences with the 95 % bootstrap interval of their mean over seeds, and the p-value of an exact sign-flip test, "
    "corrected for the number of comparisons in the same metric (Holm). The verdict is the interval's, which is not corrected."
)


def write_report(config: StudyConfig, runs: Sequence[Mapping[str, Any]], saliency_files: Sequence[Path]) -> dict[str, Any]:
    """Compares reports, whose `name` is the method, and writes and shows what `summary.json` holds."""
    kept_of_runs = []
    for run in runs:
        kept_of_runs.append({key: run[key] for key in ("name", "seed", "metrics", "parameters", "seconds")})
    summary = {
        "name": config.name,
        "seeds": config.seed_list,
        "runs": kept_of_runs,
        "table": list(table(config, runs)),
        "differences": list(differences(config, runs)),
        "views": list(view_tables(list(config.run_files), config.metrics[0], runs)),
        "saliency": saliency_table(saliency_files),
        "maskers": {run["name"]: run["maskers"] for run in runs if "maskers" in run},  # not in reports of earlier versions
        "possible": {metric: possible_of(metric, runs) for metric in config.metrics},
        "note": config.note,
    }
    pictures = _draw(config, runs)
    write_json(config.folder / "summary.json", summary)
    write_text(config.folder / "summary.md", markdown(config, summary, pictures))
    show(config, summary, pictures)
    return summary


def table(config: StudyConfig, runs: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Means over seeds, a row for the teacher and each method, with each compared metric that it has."""
    for name in config.run_files:
        own, metrics = [run for run in runs if run["name"] == name], {}
        for metric in config.metrics:
            summary = summary_of(name, metric, own)
            if summary:
                metrics[metric] = summary
        seconds = sum(run["seconds"] for run in own) / len(own)
        yield {"name": name, "metrics": metrics, "parameters": own[0]["parameters"], "seconds": seconds}


def differences(config: StudyConfig, runs: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every method against every baseline that comes before it, in each metric that both have."""
    metrics = {(run["name"], run["seed"]): run["metrics"] for run in runs}
    for metric in config.metrics:
        found = {}
        for method, baseline in pairs(config.all_methods, config.baselines):
            a = [metrics[method, seed].get(metric) for seed in config.seed_list]
            b = [metrics[baseline, seed].get(metric) for seed in config.seed_list]
            if None not in (*a, *b):
                found[method, baseline] = paired_difference(a, b, larger_is_better(metric))
        corrected = holm([difference.p for difference in found.values()])
        for ((method, baseline), difference), p in zip(found.items(), corrected):
            names = {"method": method, "baseline": baseline, "metric": metric}
            yield {**names, **asdict(difference), "p_holm": p, "verdict": difference.verdict}


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


def shown(metric: str, summary: Mapping[str, float] | None) -> str:
    """A mean and its spread.

    >>> shown("test/accuracy", {"mean": 0.8342, "sd": 0.0117}), shown("test/kl", {"mean": 0.5, "sd": float("nan")})
    ('83.4 ± 1.2', '0.500')
    """
    if summary is None:  # as a student without a teacher has no fidelity
        return "-"
    mean = number(metric, summary["mean"])
    return mean if math.isnan(summary["sd"]) else f"{mean} ± {number(metric, summary['sd'])}"


def in_words(d: Mapping[str, Any]) -> list[str]:
    """A comparison: who, in what, the mean difference and its interval, seeds that are no ties, p and the verdict.

    >>> names = {"method": "msd", "baseline": "kd", "metric": "test/accuracy", "verdict": "better"}
    >>> in_words(names | {"mean": 0.049, "low": 0.042, "high": 0.056, "wins": 9, "losses": 1, "p_holm": 0.002})
    ['msd - kd', 'test/accuracy', '+4.9 [+4.2, +5.6]', '9 wins, 1 loss', '0.002', 'better']
    """
    metric, wins, losses = d["metric"], d["wins"], d["losses"]
    interval = f"{number(metric, d['mean'], '+')} [{number(metric, d['low'], '+')}, {number(metric, d['high'], '+')}]"
    tally = f"{wins} win{'s' * (wins != 1)}, {losses} loss{'es' * (losses != 1)}"
    return [f"{d['method']} - {d['baseline']}", metric, interval, tally, f"{d['p_holm']:.3f}", d["verdict"]]


def caption(config: StudyConfig) -> str:
    """How the numbers are to be read."""
    seeds = len(config.seed_list)
    distances = [m for m in config.metrics if not larger_is_better(m)]
    units = f"Times 100, except {', '.join(distances)}, where smaller is better" if distances else "Times 100"
    return f"{units}; " + (f"mean ± standard deviation over {seeds} seeds." if seeds > 1 else "one seed.")


def markdown(config: StudyConfig, summary: Mapping[str, Any], pictures: Sequence[str]) -> str:
    lines = [f"# {escaped(config.name)}", "", caption(config), ""]
    lines += Table(["", *config.metrics, "parameters", "seconds"], cells(config, summary)).markdown()
    for one in summary["views"]:
        rows = []
        for method, summaries in one["rows"].items():
            rows.append([method, *map(partial(shown, one["metric"]), summaries)])
        lines += ["", f"## {escaped(one['title'])}: {one['metric']}", "", *Table(["", *one["views"]], rows).markdown()]
    if summary["saliency"]:
        lines += ["", "## What each modality is to the teacher", "", *modality_table(summary["saliency"]).markdown()]
    if summary["differences"]:
        header = ["", "metric", "difference", "wins, losses", "p (Holm)", ""]
        lines += ["", "## Differences", "", COMPARED, "", *Table(header, [*map(in_words, summary["differences"])]).markdown()]
    if summary["maskers"]:
        by_line: dict[str, list[str]] = {}
        for name, maskers in summary["maskers"].items():
            by_line.setdefault(masker_line(maskers), []).append(name)
        for line, names in by_line.items():
            lines += ["", escaped(line if len(by_line) == 1 else f"{', '.join(names)}: {line}")]
    if config.note:
        lines += ["", config.note]
    for name in pictures:
        lines += ["", f"![{name.removesuffix('.png')}]({name})"]
    return "\n".join(lines) + "\n"


def cells(config: StudyConfig, summary: Mapping[str, Any]) -> list[list[str]]:
    """The means over seeds in words."""
    rows = []
    for row in summary["table"]:
        means = [shown(metric, row["metrics"].get(metric)) for metric in config.metrics]
        rows.append([row["name"], *means, f"{row['parameters']:,}", f"{row['seconds']:.1f}"])
    if any(summary["possible"].values()):
        rows.append([POSSIBLE, *(shown(metric, summary["possible"][metric]) for metric in config.metrics), "-", "-"])
    return rows


def modality_table(saliency: Mapping[str, Any]) -> Table:
    """How often each modality is the most salient one, and how well a score tells what decides an example."""
    rows = []
    for name, most in saliency["most_salient"].items():
        summaries = [*most.values(), *saliency["truth"].get(name, {}).values()]
        rows.append([name, *map(partial(shown, "auroc"), summaries)])
    columns = [f"{modality} first" for modality in saliency["modalities"]]
    columns += [f"AUROC, {kind}" for kind in next(iter(saliency["truth"].values()), ())]
    return Table(["score", *columns], rows)


def show(config: StudyConfig, summary: Mapping[str, Any], pictures: Sequence[str]) -> None:
    """The summary on the screen, with the comparisons of the main metric."""
    # A line end and no blanks, so that many metrics stand side by side.
    columns = ["", *(name.replace("/", "\n") for name in config.metrics), "para\nmeters", "seconds"]
    narrow = []
    for name, *rest in cells(config, summary):
        narrow.append([name, *(cell.replace(" ", "") for cell in rest)])
    texts = []
    for difference in summary["differences"]:
        title, metric, interval, tally, _, verdict = in_words(difference)
        if metric == config.metrics[0]:
            texts.append(f"{title}: {interval} {metric}, {tally}: {verdict}")
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
