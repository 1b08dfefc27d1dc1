"""Tables of several studies from their `summary.json`, as a page shows them: methods by data sets, and differences."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msd_framework.analysis.study.report import in_words, shown
from msd_framework.errors import ConfigError, Problem, did_you_mean
from msd_framework.escaping import markdown as escaped
from msd_framework.files import write_json, write_text
from msd_framework.screen import Screen
from msd_framework.table import Table

KINDS = ("means", "differences")
START = "<!-- msd tables "
BLOCK = re.compile(r"(<!-- msd tables (?P<kind>\S+) (?P<files>[^>]+) -->\n).*?(<!-- end of the table -->)", re.DOTALL)
"""A marked part of a page: ``<!-- msd tables means FILE ... -->``; ``FILE#metric`` names a metric of a study."""


def tables(
    studies: list[str] | None = None,
    pages: list[str] | None = None,
    kind: str | None = None,
    out: str | None = None,
) -> Table | None:
    """Shows one table of several studies, or rebuilds those in pages.

    Args:
        studies: the `summary.json` of each study, or its folder; ``FILE#metric`` takes another metric than the study's first.
        pages: Markdown files whose marked tables are rebuilt from the files that they name, relative to the working directory.
        kind: `means` (a row a method, the usual one) or `differences` (a row a comparison with a baseline).
        out: a file of Markdown to write the table to, and beside it one of JSON.
    """
    if bool(studies) == bool(pages):
        raise ConfigError(Problem("studies", "give either studies=[FILE, ...] or pages=[PAGE, ...]."))
    if pages and (kind is not None or out is not None):
        key = "kind" if kind is not None else "out"
        raise ConfigError(Problem(key, "is for studies=[FILE, ...]; the marks in a page say what its tables are. Leave it out."))
    if out is not None and Path(out).suffix == ".json":
        raise ConfigError(Problem("out", f"is for Markdown, and the JSON would be written over it: {out}. Take the ending .md."))
    for page in pages or ():
        path = Path(page)
        write_text(path, rebuilt_page(_read_text(path, "pages"), page))
    if not studies:
        return None
    table = table_of(kind or KINDS[0], studies)
    if out is not None:
        write_text(Path(out), "\n".join(table.markdown()) + "\n")
        write_json(Path(out).with_suffix(".json"), [dict(zip(table.columns, row)) for row in table.rows])
    Screen().show(table)
    return table


def rebuilt_page(text: str, page: str) -> str:
    """A page with each marked table as its files have it."""
    blocks, num_starts = len(BLOCK.findall(text)), text.count(START)
    if not blocks:
        raise ConfigError(Problem("pages", f"{page} has no table between <!-- msd tables means FILE --> and its end."))
    if blocks < num_starts:  # its text up to another table's end would be taken for a table
        whole = f"{page} begins {num_starts} tables, of which {blocks} name their files and end"
        raise ConfigError(Problem("pages", f"{whole}. Put <!-- end of the table --> after each."))

    def filled(block: re.Match[str]) -> str:
        lines = table_of(block["kind"], block["files"].split()).markdown()
        return block[1] + "\n".join(lines) + "\n" + block[4]

    return BLOCK.sub(filled, text)


def table_of(kind: str, studies: Sequence[str]) -> Table:
    """A column for each study, in one of its metrics."""
    if kind not in KINDS:
        raise ConfigError(Problem("kind", f"{kind!r} is none of {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}"))
    columns, by_study = [""], []
    for study in studies:
        title, cells = _column(kind, study)
        columns.append(title)
        by_study.append(cells)
    names = list(dict.fromkeys(name for cells in by_study for name in cells))
    return Table(columns, [[name, *(cells.get(name, "-") for cells in by_study)] for name in names])


def _means(summary: Mapping[str, Any], metric: str) -> dict[str, str]:
    return {row["name"]: shown(metric, row["metrics"].get(metric)) for row in summary["table"]}


def _differences(summary: Mapping[str, Any], metric: str) -> dict[str, str]:
    cells = {}
    for difference in summary["differences"]:
        if difference["metric"] == metric:
            title, _, interval, _, _, _ = in_words(difference)
            cells[title] = f"{interval}, {difference['wins']} of {len(summary['seeds'])}"
    return cells


def _column(kind: str, study: str) -> tuple[str, dict[str, str]]:
    """A study's column: its title, and a cell for each row, in the metric that is named or else the study's main one."""
    name, _, metric = study.partition("#")
    path = Path(name) / "summary.json" if Path(name).is_dir() else Path(name)
    try:
        summary: dict[str, Any] = json.loads(_read_text(path, "studies"))
        known = list(dict.fromkeys(metric for row in summary["table"] for metric in row["metrics"]))
        if not known:
            raise ValueError("its table has no metric")
        metric = metric or known[0]
        if metric not in known:
            text = f"{escaped(summary['name'])} has no metric {metric!r}, only {', '.join(known)}.{did_you_mean(metric, known)}"
            raise ConfigError(Problem("studies", text))
        cells = _means(summary, metric) if kind == "means" else _differences(summary, metric)
        return f"{summary['name']}, {metric.removeprefix('test/')}", cells
    except ConfigError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(Problem("studies", f"{path} is no summary.json of a study ({type(error).__name__}: {error}).")) from error


def _read_text(path: Path, key: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(Problem(key, f"{path} cannot be read ({error}).")) from error
