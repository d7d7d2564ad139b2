"""Days and months of a zone: the calendar of each row is that of its own date, in training as where it is served."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tidegate.model.calendar import Calendar
from tidegate.training import make_recipe
from tidegate.training.data import Stream, load
from tidegate.training.draft import checked, draft_manifest

FIELDS = {"D": "day_of_week", "W": "day_of_year", "MS": "month_of_year"}


def trained(dates: pd.DatetimeIndex, zone: str, frequency: str) -> tuple[Stream, NDArray[np.intp]]:
    """The stream of such dates, and of each row the place in the cycle that the cell sees."""
    calendar = [f"{FIELDS[frequency]}:one_hot"]
    data = {"time": "date", "frequency": frequency, "time_zone": zone, "time_tolerance": 0.0}
    options = {"name": "x", "data": data, "features": [{"name": "a"}], "inputs": {"calendar": calendar}}
    frame = pd.DataFrame({"date": dates.strftime("%Y-%m-%d"), "a": np.arange(float(len(dates)))})
    recipe = make_recipe(options)
    dataset = load(recipe, frame)
    (stream,) = dataset.streams
    calendar_of = Calendar(checked(draft_manifest(recipe, dataset)))
    return stream, calendar_of.columns(stream.times, np.arange(1, len(stream.times) + 1)).argmax(1)


def first_instants(dates: pd.DatetimeIndex, zone: str) -> NDArray[np.int64]:
    earlier = np.ones(len(dates), np.bool_)
    local = dates.tz_localize(zone, ambiguous=earlier, nonexistent="shift_forward")
    return np.asarray(local.tz_convert("UTC").as_unit("ns").asi8)


@pytest.mark.parametrize("start", ["2017-01-01", "2017-07-01"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "America/Havana"])
def test_days(zone: str, start: str) -> None:
    """A day is its first instant, also where clocks skip midnight or have it twice, and is followed by the next day of
    the week all year; of a missing day too."""
    dates = pd.date_range(start, periods=500, freq="D")
    kept = dates.delete([100, 101, 121, 122, 128, 300, 302, 303, 309])  # what follows days of 25 hours among them
    stream, found = trained(kept, zone, "D")
    np.testing.assert_array_equal(found, (np.asarray(dates.day_of_week) + 1) % 7)
    np.testing.assert_array_equal(stream.times[np.isin(dates, kept)], first_instants(kept, zone))


@pytest.mark.parametrize("frequency", ["D", "W"])
def test_days_of_a_zone_are_on_their_grid(frequency: str) -> None:
    """Midnights are whole days apart, also where one has 23 or 25 hours: the least tolerance takes them."""
    dates = pd.date_range("2024-01-01", periods=100, freq=pd.offsets.Day(7 if frequency == "W" else 5))
    stream, _ = trained(dates, "Europe/Berlin", frequency)
    assert np.isfinite(stream.values[:, 0]).sum() == len(dates)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Tokyo", "America/New_York", "America/Asuncion"])
@pytest.mark.parametrize("start", ["2010-01-31", "2010-08-01"])
def test_months(zone: str, start: str) -> None:
    """The month that is predicted is the one after the row's, whether rows are dated by a month's first or last day."""
    dates = pd.date_range(start, periods=100, freq="ME" if start.endswith("31") else "MS")
    kept = dates.delete([20, 50, 51])
    stream, found = trained(kept, zone, "MS")
    np.testing.assert_array_equal(found, np.asarray(dates.month) % 12)
    np.testing.assert_array_equal(stream.times[np.isin(dates, kept)], first_instants(kept, zone))


@pytest.mark.parametrize("day", [1, 10, 15, 28])
def test_months_are_dated_by_any_day(day: int) -> None:
    """The least tolerance takes any day of the month."""
    dates = pd.date_range("2020-01-01", periods=60, freq="MS") + pd.Timedelta(days=day - 1)
    stream, found = trained(dates, "Europe/Berlin", "MS")
    np.testing.assert_array_equal(found, np.asarray(dates.month) % 12)
    assert np.isfinite(stream.values).all()


def test_clocks_that_are_far_off() -> None:
    """Rows that are so far off the grid that a session would take the next one for the same step are moved to it."""
    times = pd.to_datetime(["2024-01-01 00:00", "2024-01-01 01:12", "2024-01-01 01:33", "2024-01-01 03:00"])
    data = {"time": "at", "frequency": "h", "time_tolerance": 0.5, "validation": 2, "test": None}
    recipe = make_recipe({"name": "x", "data": data, "features": [{"name": "a"}]})
    (stream,) = load(recipe, pd.DataFrame({"at": times, "a": np.arange(4.0)})).streams
    expected = pd.to_datetime(["2024-01-01 00:00", "2024-01-01 01:12", "2024-01-01 02:12", "2024-01-01 03:00"])
    np.testing.assert_array_equal(stream.times, expected.as_unit("ns").asi8)
