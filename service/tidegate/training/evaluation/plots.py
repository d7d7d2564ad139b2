"""The pictures of a report, as PNG files, drawn by matplotlib without a screen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tidegate.training.evaluation import metrics
from tidegate.training.evaluation.backtest import Track
from tidegate.training.evaluation.run import Material
from tidegate.training.evaluation.scores import MODEL

Array = NDArray[np.float64]
TARGETS_MAX = 8  # that are drawn; a report of hundreds would be no picture
STEPS_SHOWN = 200
POINTS_MAX = 5_000  # of residuals drawn one by one
BINS = 60  # of residuals; the outer two hold what lies beyond these quantiles too
BINNED = (0.002, 0.998)
DOTS_PER_INCH = 80
COLOURS = {MODEL: "#0b6e99", "persistence": "#b0a990", "seasonal naive": "#c48f2c", "ridge on lags": "#7b9e4b"}
OBSERVED, FORECAST = "#333333", "#c1443c"


def draw(material: Material, folder: Path) -> list[str]:
    """Writes the pictures and returns their file names in the order of the report."""
    pictures = {"observed.png": observed_and_predicted(material), "residuals.png": residuals(material)}
    if material.paths is not None:
        pictures["horizon.png"] = error_by_horizon(material)
    for name, figure in pictures.items():
        figure.savefig(folder / name, dpi=DOTS_PER_INCH)
    return list(pictures)


def observed_and_predicted(material: Material) -> Figure:
    """The end of the first stream's scored part: what came, what was predicted a step before, and one forecast."""
    track = material.tracks[0]
    last = track.stream.end
    rows = np.arange(max(track.stream.start, last - STEPS_SHOWN), last)
    figure, axes = _grid(material, 2.2)
    for place, axis in enumerate(axes):
        column = material.rivals.targets[place]
        where = _places(track, rows)
        axis.plot(where, track.stream.values[rows, column], color=OBSERVED, linewidth=1, label="observed")
        axis.plot(where, track.predicted[rows, place], color=COLOURS[MODEL], linewidth=1, label="one step ahead")
        _forecast(axis, track, place, int(rows[0]) if len(rows) else 0)
        axis.set_ylabel(_label(material, place))
    _legend(figure, axes[0])
    axes[0].set_title(f"{material.package.manifest.name}, {track.stream.id}", fontsize=10)
    return figure


def error_by_horizon(material: Material) -> Figure:
    """MAE of each target at each step ahead, the model's and the baselines'."""
    assert material.paths is not None
    figure, axes = _grid(material, 2.2)
    for place, axis in enumerate(axes):
        for who, errors in material.paths.errors.items():
            by_step = metrics.mae(errors[:, :, place])
            steps = np.arange(1, len(by_step) + 1)
            axis.plot(steps, by_step, color=COLOURS[who], linewidth=2 if who == MODEL else 1, label=who)
        axis.set_ylabel(_label(material, place))
        axis.set_ylim(bottom=0)
    _legend(figure, axes[0])
    axes[0].set_title("mean absolute error by steps ahead", fontsize=10)
    return figure


def residuals(material: Material) -> Figure:
    """Predicted minus observed, one step ahead: in the order of the cases, and how often."""
    errors = material.one_step.errors[MODEL][:, 0]
    figure, axes = _grid(material, 1.8, columns=2)
    for place in range(len(axes) // 2):
        known = errors[np.isfinite(errors[:, place]), place]
        order, often = axes[2 * place], axes[2 * place + 1]
        shown = known[:: max(1, len(known) // POINTS_MAX)]
        order.plot(shown, ".", markersize=2, color=COLOURS[MODEL])
        order.axhline(0, color=OBSERVED, linewidth=0.5)
        order.set_ylabel(_label(material, place))
        if len(known):
            low, high = np.quantile(known, BINNED)
            often.hist(np.clip(known, low, high), bins=BINS, range=(low, high), color=COLOURS[MODEL])
    axes[0].set_title("one-step residuals", fontsize=10)
    axes[1].set_title("how often; all beyond in the outer bars", fontsize=10)
    return figure


def _grid(material: Material, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    rows = min(len(material.package.manifest.targets), TARGETS_MAX)
    figure = Figure(figsize=(9, 0.6 + height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex="col" if columns == 1 else False)
    return figure, list(axes.flat)


def _legend(figure: Figure, axis: Axes) -> None:
    """One for all axes, below them: within, it would cover lines."""
    lines, labels = axis.get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", fontsize=8, ncols=4)


def _forecast(axis: Axes, track: Track, place: int, first: int) -> None:
    """The first forecast that begins in the picture."""
    inside = np.flatnonzero(track.origins >= first)
    if inside.size:
        origin = int(track.origins[inside[0]])
        steps = min(track.forecasts.shape[1], track.stream.end - 1 - origin)
        where = _places(track, origin + 1 + np.arange(steps))
        path = track.forecasts[inside[0], :steps, place]
        axis.plot(
            where, path, color=FORECAST, linewidth=1, linestyle="--", label=f"{steps} steps ahead, from one origin"
        )


def _places(track: Track, rows: NDArray[np.int64]) -> NDArray[np.generic]:
    """Where rows stand on the axis of time."""
    times = track.stream.times
    return rows if times is None else times[rows].view("datetime64[ns]")


def _label(material: Material, place: int) -> str:
    manifest = material.package.manifest
    name = manifest.targets[place]
    unit = next(feature.unit for feature in manifest.features if feature.name == name)
    return f"{name} ({unit})" if unit else name
