"""Baselines use only what was known at the origin, fill what is missing, and are exact where they should be."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.model.frequency import Frequency
from tidegate.training.evaluation import baselines

NAN = float("nan")


def column(*values: float) -> baselines.Array:
    return np.array(values)[:, None]


def test_persistence_holds_the_last_observed() -> None:
    """A missing value at the origin is the one before it; before the first there is none."""
    values = column(NAN, 1.0, NAN, 5.0)
    found = baselines.persistence(values, np.array([0, 1, 2, 3]), 2)[:, :, 0]
    assert np.isnan(found[0]).all()
    assert found[1:].tolist() == [[1.0, 1.0], [1.0, 1.0], [5.0, 5.0]]


def test_seasonal_naive_takes_the_latest_season() -> None:
    """Step h is the value of the latest whole number of seasons before it that is not behind the origin."""
    values = column(10, 11, 12, 20, 21, 22, 30)
    found = baselines.seasonal_naive(values, np.array([5, 6]), 4, 3)[:, :, 0]
    assert found.tolist() == [[20, 21, 22, 20], [21, 22, 30, 21]]


def test_seasonal_naive_without_a_season_before() -> None:
    """Where no season has passed there is no forecast."""
    found = baselines.seasonal_naive(column(1, 2, 3, 4), np.array([0, 2]), 1, 3)[:, 0, 0]
    assert np.isnan(found[0])
    assert found[1] == 1.0


def test_a_missing_value_is_filled_from_its_season() -> None:
    """What is missing is what it was a season ago, also twice in a row; before that, the last value."""
    values = column(1, 2, 3, NAN, 5, 6, NAN, NAN, 9)
    assert baselines.filled(values, 3)[:, 0].tolist() == [1, 2, 3, 1, 5, 6, 1, 5, 9]
    assert baselines.filled(values)[:, 0].tolist() == [1, 2, 3, 3, 5, 6, 6, 6, 9]


@pytest.mark.parametrize("across", [False, True])
def test_ridge_learns_a_recurrence(across: bool) -> None:
    """A wave obeys a linear recurrence of two lags, so that ridge forecasts it far ahead."""
    steps = np.arange(400.0)
    values = np.stack([5 + np.sin(steps / 7), np.cos(steps / 11)], axis=1)
    ridge = baselines.fit_ridge([values[:300]], 2, 8, across, penalty=1e-9)
    assert ridge is not None
    found = ridge.forecast(values, np.array([320, 350]), 40, 300)
    expected = np.stack([values[321:361], values[351:391]])
    assert found == pytest.approx(expected, abs=1e-3)


def test_ridge_sees_nothing_behind_the_origin() -> None:
    """Values after the origin, and after the training part in the fit, change no forecast."""
    random = np.random.default_rng(0)
    values = random.normal(size=(120, 2)).cumsum(axis=0)
    other = values.copy()
    other[100:] += 1_000.0
    ridge = baselines.fit_ridge([values[:80]], 2, 5)
    assert ridge is not None
    origins = np.array([90, 99])
    assert np.array_equal(ridge.forecast(values, origins, 3, 80), ridge.forecast(other, origins, 3, 80))


def test_ridge_of_a_stream_without_a_training_part() -> None:
    """It is standardised by the training parts of all streams: it reverts to their mean as they do, and not to 0."""
    random = np.random.default_rng(0)
    series = np.zeros((3, 300))
    for step in range(1, 300):
        series[:, step] = 0.5 * series[:, step - 1] + random.normal(size=3)
    values = 100 + series[:, :, None]
    ridge = baselines.fit_ridge([values[0], values[1], values[2][:0]], 1, 4)
    assert ridge is not None
    origins = np.arange(50, 299)
    found = [ridge.forecast(values[2], origins, 1, fit)[:, 0] for fit in (0, 300)]
    assert found[0] == pytest.approx(found[1], abs=0.2)


def test_ridge_without_data() -> None:
    """There is no ridge where no training part is longer than its lags."""
    assert baselines.fit_ridge([np.ones((5, 1))], 1, 5) is None
    assert baselines.fit_ridge([np.full((50, 1), np.nan)], 1, 5) is None


@pytest.mark.parametrize(
    ("frequency", "season"), [("h", 24), ("15min", 96), ("D", 7), ("W", 52), ("MS", 12), ("QS", 4), ("YS", None)]
)
def test_seasons(frequency: str, season: int | None) -> None:
    """A day of anything below a day, a week of days, a year of weeks and months."""
    assert baselines.season_of(Frequency.parse(frequency)) == season


def test_no_frequency_no_season() -> None:
    """Steps without a length have no season."""
    assert baselines.season_of(Frequency.parse("")) is None
