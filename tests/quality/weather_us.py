"""`weather-us` on the last fifth of 2013, beside persistence and the mean of the season, through a real server:
python -m tests.quality weather_us

The mean of the season is, for each station and feature, a constant and one sine and cosine of the day of the year,
fitted by least squares to the first four fifths. What it says of the last fifth, autumn and early winter, is in part an
extrapolation, as it is for the model.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tests.quality.bounds import Bound, report, served
from tests.quality.data import AIRPORTS
from tidegate.client import Client
from tidegate.training.airports import daily

MODEL = "weather-us"
TEST_SHARE = 0.8
FEATURES = ("high", "low", "wind", "precipitation", "humidity")
UNITS = ("F", "F", "mph", "in", "%")
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Days:
    """dates [days]; values [days, stations, features]; the test begins at row `test`."""

    stations: tuple[str, ...]
    dates: NDArray[np.datetime64]
    values: Array
    test: int


def days_of_2013() -> Days:
    """The stations' days side by side."""
    frame = daily(pd.read_csv(AIRPORTS))
    wide = frame.pivot_table(index="date", columns="station", values=list(FEATURES), dropna=False)
    values = np.stack([wide[name].to_numpy(np.float64) for name in FEATURES], axis=2)
    dates = wide.index.to_numpy("datetime64[D]")
    return Days(tuple(wide["high"].columns), dates, values, round(TEST_SHARE * len(dates)))


def predicted(client: Client, days: Days) -> Array:
    """[days - 1, stations, features]: what was said of each day but the first on the day before, from zero state on the
    first of January."""
    found = []
    with client.batches(MODEL) as batches:
        order = [batches.about.names.index(name) for name in FEATURES]
        for date, values in zip(days.dates[:-1], days.values[:-1], strict=True):
            row = np.empty_like(values)
            row[:, order] = values
            answer = batches.step(days.stations, row, times=np.repeat(date, len(values)))
            found.append(answer.values[:, [answer.targets.index(name) for name in FEATURES]])
    return np.stack(found).astype(np.float64)


def seasonal(days: Days) -> Array:
    """[days, stations, features]: the mean of the season."""
    phase = 2 * np.pi * (days.dates - days.dates[0]).astype(np.float64) / 365.25
    design = np.stack([np.ones(len(phase)), np.sin(phase), np.cos(phase)], axis=1)
    flat = days.values.reshape(len(phase), -1)
    fitted = [np.linalg.lstsq(design[known], column[known], rcond=None)[0] for column, known in _training(days, flat)]
    said: Array = (design @ np.stack(fitted, axis=1)).reshape(days.values.shape)
    return said


def _training(days: Days, flat: Array) -> list[tuple[Array, NDArray[np.bool_]]]:
    early = np.arange(len(flat)) < days.test
    return [(column, early & np.isfinite(column)) for column in flat.T]


def errors(said: Array, days: Days) -> Array:
    """Mean absolute error of each feature over the test; said [days - 1, …] of all days but the first."""
    rows = slice(days.test - 1, None)
    mean: Array = np.nanmean(np.abs(said[rows] - days.values[1:][rows]), axis=(0, 1))
    return mean


def measure() -> list[Bound]:
    """Each feature must be better than persistence.

    For rain, look at the last line too: most days have none."""
    days = days_of_2013()
    with served() as client:
        model = errors(predicted(client, days), days)
    persistence, season = errors(days.values[:-1], days), errors(seasonal(days)[1:], days)
    bounds = []
    for place, (name, unit) in enumerate(zip(FEATURES, UNITS, strict=True)):
        bounds.append(Bound(f"{name}, {unit}: model", model[place], at_most=persistence[place]))
        bounds.append(Bound(f"{name}, {unit}: persistence", persistence[place]))
        bounds.append(Bound(f"{name}, {unit}: mean of the season", season[place]))
    none = errors(np.zeros_like(days.values[1:]), days)[FEATURES.index("precipitation")]
    bounds.append(Bound("precipitation, in: none, every day", none))
    return bounds


if __name__ == "__main__":
    sys.exit(report(measure()))
