"""The report of saliency: tables in files and on the screen, a picture, and a gallery of examples."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msd_framework.analysis.plots import draw_distributions
from msd_framework.analysis.saliency.config import SaliencyRun
from msd_framework.analysis.saliency.scored import Scored
from msd_framework.data.processors.images import read_image
from msd_framework.errors import DataError
from msd_framework.escaping import markdown as escaped
from msd_framework.files import split_file, write_json, write_text
from msd_framework.saliency.reading import together
from msd_framework.screen import Screen
from msd_framework.table import Table, write_csv

EXCERPT = 120  # characters of a text that are shown
THUMBNAIL = 160  # the longer side of a picture in the gallery, in pixels
MEASURES = ("n", "mean", "sd", "q25", "median", "q75", "most_salient")

OPPOSITE = (
    "`drop` and `gap` read a modality's score off the view without it, `keep` and `loss` off the view of it alone: "
    "with two modalities drop(image) = -keep(text), so that both rank them alike."
)

STYLE = (
    "body{font:14px sans-serif;margin:2em}div{display:flex;flex-wrap:wrap;gap:12px}figure{width:180px;margin:0;padding:8px;"
    "border:1px solid #ccc}img{image-rendering:pixelated;max-width:160px}figcaption{overflow-wrap:anywhere}small{color:#666}"
)

FILES = ("saliency.md", "saliency.json", "saliency.csv", "saliency.png", "scores.csv", "examples.html")


def write_report(job: SaliencyRun, scored: Scored, summary: Mapping[str, Any]) -> None:
    """Writes and shows the scores of a split, and their summary as JSON has it."""
    name, files = job.run.name, dict[str, Path]()
    for file in FILES:
        kind, suffix = file.split(".")
        files[file] = split_file(job.folder, kind, summary["split"], suffix)
    write_json(files["saliency.json"], summary)
    write_csv(files["saliency.csv"], ["score", "class", "modality", *MEASURES], table_rows(summary))
    write_csv(files["scores.csv"], *example_rows(scored))
    by_modality = {label: dict(zip(scored.modalities, values.T)) for label, values in scored.scores.items()}
    draw_distributions(by_modality, files["saliency.png"])
    write_text(files["saliency.md"], markdown(name, summary, files["saliency.png"].name))
    write_text(files["examples.html"], gallery(name, summary))
    show(name, summary, list(files.values()))


def table_rows(summary: Mapping[str, Any]) -> Iterator[list[Any]]:
    for label, score in summary["scores"].items():
        for name, by_modality in score["classes"].items():
            for modality, measured in by_modality.items():
                row = [label, name, modality]
                for key in MEASURES:
                    value = measured.get(key, "")
                    row.append(f"{value:.9g}" if isinstance(value, float) else value)
                yield row


def example_rows(scored: Scored) -> tuple[list[str], Iterator[list[Any]]]:
    """The names of the columns, and a row an example: its id, what the data set keeps with it, and all its scores."""
    examples = list(map(scored.example, range(len(scored.places))))
    kept = dict[str, None]()
    for example in examples:
        kept |= dict.fromkeys(example.facts)
    columns = {}
    for label, scores in scored.scores.items():
        for i, modality in enumerate(scored.modalities):
            columns[f"{label}/{modality}"] = scores[:, i]

    def rows() -> Iterator[list[Any]]:
        for row, example in enumerate(examples):
            facts = [example.facts.get(name, "") for name in kept]
            yield [example.id, *facts, *(f"{values[row]:.9g}" for values in columns.values())]

    return ["id", *kept, *columns], rows()


def markdown(name: str, summary: Mapping[str, Any], picture: str) -> str:
    modalities = summary["modalities"]
    lines = [
        f"# Saliency of {escaped(name)}, split {escaped(summary['split'])}",
        "",
        f"Teacher {escaped(summary['teacher'])}, {summary['examples']:,} labelled examples. {OPPOSITE}",
    ]
    truth = truth_table(summary)
    if truth is not None:
        lines += ["", "## What decides an example", "", str(truth.caption), "", *truth.markdown()]
    lines += ["", "## By class", "", "Means; in brackets the share of examples in which the modality is the most salient one.", ""]
    lines += Table(["score", "class", "n", *modalities], class_rows(summary)).markdown()
    for kind, examples in summary["picked"].items():
        lines += ["", f"## {title(kind, modalities)}", "", f"The first by `{summary['picked_by']}`.", ""]
        lines += Table(["id", "label", *modalities, "shown", "facts"], example_table(summary, examples)).markdown()
    lines += ["", f"![distribution of the scores]({picture})"]
    return "\n".join(lines) + "\n"


def truth_table(summary: Mapping[str, Any], title: str | None = None) -> Table | None:
    """How well each score tells what decides an example, the best score first; None where that is not known."""
    scores = summary["scores"]
    first = next(iter(scores.values()))
    texts = []
    if "truth" in first:
        texts.append("AUROC (times 100) with which a score tells the examples that each kind decides from all others.")
    if "oracle" in first:
        texts.append("rho: Spearman's rank correlation (times 100) with the exact `drop` score of a perfect reader.")
    if not texts:
        return None
    texts.append("In brackets, 95 % bootstrap intervals over examples.")
    rows = []
    for label in sorted(scores, key=lambda label: -scores[label]["truth"]["mean"]["value"] if "truth" in first else 0.0):
        truth, oracle = scores[label].get("truth", {}), scores[label].get("oracle", {})
        rows.append([label, *map(interval, truth.values()), *map(interval, oracle.values())])
    header = ["score", *first.get("truth", {}), *(f"rho {modality}" for modality in first.get("oracle", ()))]
    return Table(header, rows, title, " ".join(texts))


def class_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for label, score in summary["scores"].items():
        for name, by_modality in score["classes"].items():
            first = next(iter(by_modality.values()))
            rows.append([label, name, f"{first['n']:,}", *map(mean_and_share, by_modality.values())])
    return rows


def example_table(summary: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for example in examples:
        scores = example["scores"][summary["picked_by"]]
        facts = ", ".join(f"{k} {v}" for k, v in example["facts"].items())
        shown = "; ".join(map(excerpt, example["inputs"].values()))
        numbers = [f"{scores[m]:.3f}" for m in summary["modalities"]]
        rows.append([example["id"], label_of(example["label"]), *numbers, shown, facts])
    return rows


def gallery(name: str, summary: Mapping[str, Any]) -> str:
    """The picked examples as a page of their own, with small copies of the pictures in it."""
    parts = [f"<h1>Saliency of {html.escape(name)}, split {html.escape(summary['split'])}</h1><p>{html.escape(OPPOSITE)}</p>"]
    for kind, examples in summary["picked"].items():
        cards = "".join(_card(example, summary["picked_by"], summary["pictures"]) for example in examples)
        heading = html.escape(title(kind, summary["modalities"]))
        parts.append(f"<h2>{heading}</h2><p>The first by {html.escape(summary['picked_by'])}.</p><div>{cards}</div>")
    return f'<!doctype html><meta charset="utf-8"><title>{html.escape(name)}</title><style>{STYLE}</style>{"".join(parts)}\n'


def _card(example: Mapping[str, Any], picked_by: str, image_modalities: Sequence[str]) -> str:
    pictures, texts = "", []
    for modality, value in example["inputs"].items():
        data = thumbnail(Path(value)) if modality in image_modalities else ""
        if data:
            pictures += f'<img alt="{html.escape(modality)}" src="data:image/png;base64,{data}">'
        else:
            texts.append(excerpt(value))
    scores = ", ".join(f"{m} {value:.3f}" for m, value in example["scores"][picked_by].items())
    facts = "".join(f", {k} {v}" for k, v in example["facts"].items())
    known = html.escape(f"{example['id']}, label {label_of(example['label'])}{facts}")
    text = html.escape(" / ".join(texts))
    return f"<figure>{pictures}<figcaption>{text}<br><small>{known}<br>{html.escape(scores)}</small></figcaption></figure>"


def title(kind: str, modalities: Sequence[str]) -> str:
    return "Decided by all together" if kind == together(modalities) else f"Decided by {kind}"


def thumbnail(path: Path) -> str:
    """A small copy of a picture as a text that pages can hold; empty if it is none that can be read."""
    try:
        small = read_image(path)
    except DataError:
        return ""
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def show(name: str, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
    head = f"Saliency of {name}, split {summary['split']}: {summary['examples']:,} examples"
    table = truth_table(summary, head)
    if table is None:
        rows = [row for row in class_rows(summary) if row[1] == "all"]
        caption = "Means; in brackets, how often the modality is the most salient one."
        table = Table(["score", "class", "n", *summary["modalities"]], rows, head, caption)
    names = [file.name for file in files]
    Screen().show(table, OPPOSITE, f"All of it is in {files[0].parent}: {', '.join(names)}.")


def interval(measured: Mapping[str, float]) -> str:
    """A share of 1 and its interval, times 100.

    >>> interval({"value": 0.912, "low": 0.9, "high": 0.93}), interval({"value": 0.5, "low": float("nan"), "high": float("nan")})
    ('91.2 [90.0, 93.0]', '50.0')
    """
    value, low, high = (100 * measured[key] for key in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]" if low == low else f"{value:.1f}"


def mean_and_share(measured: Mapping[str, float]) -> str:
    """A modality's mean score and how often it is the largest, such as `0.250 (50 %)`."""
    return f"{measured['mean']:.3f} ({100 * measured['most_salient']:.0f} %)" if measured["n"] else "-"


def excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}..."


def label_of(target: Any) -> str:
    """A target in short: a class, or the classes that it names.

    >>> label_of(3), label_of([0.0, 1.0, 0.3])
    ('3', '1 2')
    """
    return " ".join(str(c) for c, y in enumerate(target) if y) if isinstance(target, list) else str(target)
