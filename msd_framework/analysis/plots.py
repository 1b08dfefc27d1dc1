"""Pictures of a study: every run's score, and the densities of models' outputs on each view."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd_framework.errors import DataError
from msd_framework.files import draft
from msd_framework.views import FULL

COLOURS = ("#1f4e79", "#e07b39", "#3a9d5d", "#8e5ea2", "#b0413e", "#6b6b6b", "#c9a227", "#17a2b8")
SMALLEST = 1e-6  # the nearest that a probability in a prediction file is to 0 or 1


def read_log_odds(path: Path) -> dict[str, NDArray[np.float64]]:
    r"""The log-odds of class 1 on each view, from a run's predictions.

    .. math:: \log \frac{p_1}{1 - p_1} = z_1 - z_0

    Returns float [N] by view, of the examples of which the view shows something.
    """
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    columns = header[header.index("label") + 1 :]
    views = list(dict.fromkeys(name.rpartition("/")[0] for name in columns))
    if len(columns) != 3 * len(views):  # the predicted class, and a probability a class
        raise DataError(f"{path}: has {len(columns)} columns for {len(views)} views; densities are drawn for two classes.")
    log_odds = {}
    for i, view in enumerate(views):
        column = len(header) - len(columns) + 3 * i + 2  # of the second class
        p = np.array([row[column] for row in rows if row[column]], float)  # empty where a view shows nothing of an example
        p = p.clip(SMALLEST, 1 - SMALLEST)
        log_odds[view or FULL] = np.log(p / (1 - p))
    return log_odds


def draw_densities(panels: Mapping[str, Mapping[str, NDArray[np.float64]]], path: Path) -> None:
    """A panel for each model, and in it a density of each view's log-odds: figure 1 of Jin et al. (2021, arXiv:2101.01881)."""
    from scipy.stats import gaussian_kde  # takes a second

    figure, axes = _figure(len(panels), width=3.6, height=3.0)
    everything = np.concatenate(list(chain.from_iterable(views.values() for views in panels.values())))
    low, high = np.quantile(everything, [0.005, 0.995])
    at = np.linspace(float(low) - 1, float(high) + 1, 400)
    for axis, (name, views) in zip(axes, panels.items()):
        for colour, (view, values) in zip(cycle(COLOURS), views.items()):
            # outputs that are all the same have no width to smooth with
            density = gaussian_kde(values, "scott")(at) if np.ptp(values) else np.zeros_like(at)
            axis.plot(at, density, color=colour, linewidth=1.8, label=view)
            axis.fill_between(at, density, color=colour, alpha=0.15)
        axis.set(title=name, xlabel="log-odds of class 1")
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("density")
    axes[0].legend(title="view", frameon=False)
    _save(figure, path)


def draw_runs(values: Mapping[str, Sequence[float]], metric: str, path: Path) -> None:
    """A dot for each run, the metric's value by method, and a bar at each mean."""
    figure, (axis,) = _figure(1, width=6.4, height=1.0 + 0.4 * len(values))
    for place, (colour, scores) in enumerate(zip(COLOURS * len(values), values.values())):
        axis.plot(scores, [place] * len(scores), "o", color=colour, alpha=0.55, markersize=6)
        axis.plot([np.mean(scores)] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2.5)
    axis.set_yticks(range(len(values)), list(values))
    axis.invert_yaxis()
    axis.set_xlabel(metric)
    axis.grid(axis="x", alpha=0.3)
    _save(figure, path)


def draw_lines(
    x: tuple[str, Sequence[float]],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    path: Path,
    errors: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """A panel for each measure, and in it a line for each column of a table.

    Args:
        x: what the columns are drawn over, its name and its values.
        panels: columns by name, by the measure that they have in common.
        errors: what is drawn above and below a column's values, by the column's name.
    """
    figure, axes = _figure(len(panels), width=4.2, height=3.2, share_y=False)
    colours = dict(zip(chain.from_iterable(panels.values()), COLOURS * len(panels)))
    for axis, (measure, columns) in zip(axes, panels.items()):
        for name, values in columns.items():
            spread = (errors or {}).get(name)
            axis.errorbar(x[1], values, spread, color=colours[name], marker="o", markersize=4, capsize=3, label=name)
        axis.set(xlabel=x[0], ylabel=measure)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    _save(figure, path)


def draw_distributions(panels: Mapping[str, Mapping[str, NDArray[np.float64]]], path: Path) -> None:
    """A panel for each score, by its name, and in it a histogram for each modality, float [N]."""
    num_columns = 4
    num_rows = -(-len(panels) // num_columns)
    figure, all_axes = _figure(num_columns, 3.2, 2.4 * num_rows, share_x=False, num_rows=num_rows)
    for axis, (name, modalities) in zip(all_axes, panels.items()):
        everything = np.concatenate(list(modalities.values()))
        low, high = np.quantile(everything, [0.005, 0.995])
        bins = np.linspace(float(low) - 1e-6, float(high) + 1e-6, 41)
        for colour, (modality, values) in zip(cycle(COLOURS), modalities.items()):
            axis.hist(values.clip(bins[0], bins[-1]), bins, histtype="stepfilled", color=colour, alpha=0.5, label=modality)
        axis.set(title=name, yscale="log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    for axis in all_axes[len(panels) :]:
        axis.set_visible(False)
    all_axes[0].legend(frameon=False)
    all_axes[0].set_ylabel("examples")
    _save(figure, path)


def _figure(
    num_panels: int, width: float, height: float, share_y: bool = True, share_x: bool = True, num_rows: int = 1
) -> tuple[Any, Sequence[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * num_panels, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, num_panels, squeeze=False, sharex=share_x, sharey=share_y).flatten().tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    with draft(path) as file:
        figure.savefig(file.buffer, dpi=150, format="png")
