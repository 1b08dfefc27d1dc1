"""Keeps what pages need of a study: ``python tools/keep_summary.py runs/emoji/summary.json projects/emoji/results/summary.json``.

Of each run the metrics that the study compares are kept, and not the others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def kept(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary whose runs have the compared metrics alone."""
    compared = {metric for row in summary["table"] for metric in row["metrics"]}
    runs = []
    for run in summary["runs"]:
        metrics = {name: value for name, value in run["metrics"].items() if name in compared}
        runs.append({**run, "metrics": metrics})
    return {**summary, "runs": runs}


def main(source: str, target: str) -> None:
    summary = kept(json.loads(Path(source).read_text(encoding="utf-8")))
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
