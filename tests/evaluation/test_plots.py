"""Pictures: all residuals are in the histogram, and no legend lies on a line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle

from tests.packages import unwritten
from tidegate.training.evaluation import plots
from tidegate.training.evaluation.backtest import Plan, Track, origins_of
from tidegate.training.evaluation.rivals import fit_rivals
from tidegate.training.evaluation.run import Material
from tidegate.training.evaluation.scores import MODEL, one_step_cases, path_cases
from tidegate.training.evaluation.streams import Stream

STEPS, START = 200, 100


@pytest.fixture
def material() -> Material:
    """Of two targets: noise, predictions that are noise, and forecasts of five steps."""
    random, package, plan = np.random.default_rng(0), unwritten(), Plan(horizon=5)
    stream = Stream("one", None, random.normal(size=(STEPS, 3)), START, START, STEPS)
    origins = origins_of(stream, plan)
    forecasts = random.normal(size=(len(origins), plan.horizon, 2))
    tracks = [Track(stream, random.normal(size=(STEPS, 2)), origins, forecasts)]
    rivals = fit_rivals([stream], np.array([0, 1]), package.frequency)
    return Material(package, tracks, rivals, one_step_cases(tracks, rivals), path_cases(tracks, rivals))


def test_every_residual_is_counted(material: Material) -> None:
    """One that is far away stands in the outer bar, and leaves the others their width."""
    errors = material.one_step.errors[MODEL].copy()
    errors[7, 0, 0], errors[8, 0, 0], errors[9, 0, 0] = 1e6, 1e5, np.nan
    cases = replace(material.one_step, errors=material.one_step.errors | {MODEL: errors})
    figure = plots.residuals(replace(material, one_step=cases))
    bars = [bar for bar in figure.axes[1].patches if isinstance(bar, Rectangle)]
    assert sum(bar.get_height() for bar in bars) == np.isfinite(errors[:, 0, 0]).sum()
    assert bars[-1].get_height() >= 1


def test_legends_cover_nothing(material: Material) -> None:
    """They lie outside the axes."""
    for figure in (plots.observed_and_predicted(material), plots.error_by_horizon(material)):
        FigureCanvasAgg(figure)
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert len(legend.get_texts()) >= 3
        assert not any(axis.get_window_extent().overlaps(legend.get_window_extent()) for axis in figure.axes)
        assert all(axis.get_legend() is None for axis in figure.axes)
