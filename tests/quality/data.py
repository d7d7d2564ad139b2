"""The data sets of the benchmarks, read in place, and their fixed parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
FOLDER = Path(__file__).parents[2].parent / "shared" / "data"
ETTH1 = FOLDER / "ETTh1.csv"
AIRPORTS = FOLDER / "nyc-airports-weather-2013.csv"
ETTH1_TRAINING, ETTH1_TEST, ETTH1_END = 8_640, 11_520, 14_400  # 12, 4 and 4 months of 30 days
AIRPORT_FEATURES = ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")
AIRPORT_PARTS = (0.6, 0.8)
WIND_MAX = 200.0  # mph; above it the instrument was wrong


@dataclass(frozen=True, eq=False)
class Series:
    """One stream: values [rows, features]; training ends at `training`, the test begins at `test`."""

    id: str
    times: NDArray[np.int64]
    values: Array
    training: int
    test: int


@dataclass(frozen=True, eq=False)
class Standard:
    """Mean and standard deviation of the training parts, by feature."""

    center: Array
    scale: Array

    def __call__(self, values: Array) -> Array:
        scaled: Array = (values - self.center) / self.scale
        return scaled


def standard(series: list[Series]) -> Standard:
    """Of all training parts together, without what is missing."""
    training = np.concatenate([one.values[: one.training] for one in series])
    return Standard(np.nanmean(training, axis=0), np.nanstd(training, axis=0))


def etth1() -> Series:
    """Seven features of a transformer, hourly, 20 months."""
    frame = pd.read_csv(ETTH1).iloc[:ETTH1_END]
    times = nanoseconds(frame["date"])
    return Series("etth1", times, frame.iloc[:, 1:].to_numpy(np.float64), ETTH1_TRAINING, ETTH1_TEST)


def airports() -> list[Series]:
    """Three stations, hourly, the rows as they stand (a few hours lack); precipitation as log(1 + 20 x)."""
    frame = pd.read_csv(AIRPORTS)
    frame.loc[frame["wind_speed"] > WIND_MAX, "wind_speed"] = np.nan
    frame["precip"] = np.log1p(20 * frame["precip"])
    return [station(str(name), rows) for name, rows in frame.groupby("origin")]


def station(name: str, rows: pd.DataFrame) -> Series:
    """One of them."""
    values = rows[list(AIRPORT_FEATURES)].to_numpy(np.float64)
    training, test = (int(share * len(values)) for share in AIRPORT_PARTS)
    return Series(name, nanoseconds(rows["time_hour"]), values, training, test)


def nanoseconds(column: pd.Series) -> NDArray[np.int64]:
    """Times as ns since 1970 UTC."""
    times: NDArray[np.int64] = pd.to_datetime(column, utc=True).dt.as_unit("ns").astype("int64").to_numpy()
    return times
