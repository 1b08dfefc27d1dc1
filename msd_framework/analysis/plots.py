"""Pictures of a study: every run's score, and the densities of what models put out on each view."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msd_framework.errors import DataError
from msd_framework.structures import FULL

COLOURS = ("#1f4e79", "#e07b39", "#3a9d5d", "#8e5ea2", "#b0413e", "#6b6b6b")
SMALLEST = 1e-6
"""The nearest that a probability in a prediction file is to 0 or 1."""


def read_log_odds(path: Path) -> dict[str, NDArray[np.float64]]:
    r"""The log-odds of class 1 on each view, from a run's predictions.

    .. math:: \log \frac{p_1}{1 - p_1} = z_1 - z_0

    Args:
        path: a file `predictions_<split>.csv` with a column of probabilities for each class of each view.

    Returns:
        float [N] by view.

    Raises:
        DataError: if there are not two classes.
    """
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    first = header.index("label") + 1
    views = list(dict.fromkeys(name.rpartition("/")[0] for name in header[first:]))
    if len(header) - first != 2 * len(views):
        raise DataError(f"{path}: has {len(header) - first} columns for {len(views)} views; densities are drawn for two classes.")
    p = np.array([row[first:] for row in rows], float)[:, 1::2].clip(SMALLEST, 1 - SMALLEST)  # [N, V]
    return {view or FULL: column for view, column in zip(views, np.log(p / (1 - p)).T)}


def gaussian_density(values: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""A smooth density of values.

    .. math:: \hat f(x) = \frac{1}{N h} \sum_i \phi\left(\frac{x - x_i}{h}\right), \qquad h = \hat\sigma N^{-1/5}

    with :math:`\phi` the normal density (Scott, Multivariate Density Estimation, 1992, section 6.5).

    Args:
        values: float [N], not all the same.
        at: float [K], where the density is wanted.

    Returns:
        float [K].

    >>> gaussian_density(np.array([-1.0, 1.0]), np.array([0.0])).round(4)
    array([0.233])
    """
    h = values.std(ddof=1) * len(values) ** -0.2
    z = (at[:, None] - values) / h  # [K, N]
    density: NDArray[np.float64] = np.exp(-0.5 * z**2).mean(1) / (h * np.sqrt(2 * np.pi))
    return density


def draw_densities(panels: Mapping[str, Mapping[str, NDArray[np.float64]]], path: Path) -> None:
    """A panel for each model, and in it a density for each view: figure 1 of Jin et al. (2021, arXiv:2101.01881).

    Args:
        panels: log-odds of class 1, float [N] by view, by the model's name.
        path: the PNG.
    """
    figure, axes = _figure(len(panels), width=3.6, height=3.0)
    everything = np.concatenate([values for views in panels.values() for values in views.values()])
    low, high = np.quantile(everything, [0.005, 0.995])
    at = np.linspace(float(low) - 1, float(high) + 1, 400)
    for axis, (name, views) in zip(axes, panels.items()):
        for colour, (view, values) in zip(COLOURS, views.items()):
            density = gaussian_density(values, at)
            axis.plot(at, density, color=colour, linewidth=1.8, label=view)
            axis.fill_between(at, density, color=colour, alpha=0.15)
        axis.set(title=name, xlabel="log-odds of class 1")
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("density")
    axes[0].legend(title="view", frameon=False)
    _save(figure, path)


def draw_runs(values: Mapping[str, Sequence[float]], metric: str, path: Path) -> None:
    """A dot for each run and a bar at each mean.

    Args:
        values: a value for each seed, by the method's name.
        metric: what they are.
        path: the PNG.
    """
    figure, (axis,) = _figure(1, width=6.4, height=1.0 + 0.4 * len(values))
    for place, (colour, found) in enumerate(zip(COLOURS * len(values), values.values())):
        axis.plot(found, [place] * len(found), "o", color=colour, alpha=0.55, markersize=6)
        axis.plot([np.mean(found)] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2.5)
    axis.set_yticks(range(len(values)), list(values))
    axis.invert_yaxis()
    axis.set_xlabel(metric)
    axis.grid(axis="x", alpha=0.3)
    _save(figure, path)


def _figure(num_panels: int, width: float, height: float) -> tuple[Any, Sequence[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * num_panels, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, num_panels, squeeze=False, sharex=True, sharey=True)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    """Writes a picture whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    figure.savefig(draft, dpi=150, format="png")
    draft.replace(path)
