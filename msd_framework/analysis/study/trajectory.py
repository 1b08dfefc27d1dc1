"""The weights of views over a run, from its logs."""

from __future__ import annotations

from pathlib import Path

from msd_framework.reading import json_object, read_text

PREFIX = "train/weight/"


def weight_trajectories(folder: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Each view's weight at each log in a run's folder: (update, weight), the mean over the updates since the log before."""
    trajectories: dict[str, list[tuple[int, float]]] = {}
    file = Path(folder) / "metrics.jsonl"
    for number, line in enumerate(read_text(file).splitlines(), 1):
        row = json_object(line.encode(), f"{file}:{number}")
        for name, weight in row.items():
            if name.startswith(PREFIX):
                trajectories.setdefault(name.removeprefix(PREFIX), []).append((row["update"], weight))
    return trajectories
