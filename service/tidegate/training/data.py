"""From a recipe's data source to arrays: checked times, float64 values, and the three parts by date."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tidegate.errors import ConfigError
from tidegate.model.frequency import Frequency, Times
from tidegate.training.recipe import Recipe

VEGA = "vega:"
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """One contiguous stream: times [steps] (ns, UTC), values [steps, features] in raw units, and where parts begin."""

    times: Times
    values: Values
    validation: int  # rows before this are for training
    test: int  # and from here on for the test

    @property
    def training_part(self) -> Values:
        return self.values[: self.validation]

    @property
    def validation_part(self) -> Values:
        return self.values[self.validation : self.test]

    @property
    def test_part(self) -> Values:
        return self.values[self.test :]


def load_table(recipe: Recipe) -> Table:
    """Reads the source; raises ConfigError where a column, a time or a value is not what the recipe says."""
    data = recipe.data
    frame = _read(data.source, recipe.folder)
    names = [feature.name for feature in recipe.features]
    for column in (data.time, *names):
        if column not in frame:
            raise ConfigError(f"{data.source}: has no column {column!r}, but {', '.join(map(str, frame.columns))}")
    times = pd.to_datetime(frame[data.time], utc=True).dt.as_unit("ns").astype("int64").to_numpy()
    chosen = _between(times, data.start, data.end)
    times, values = times[chosen], frame[names].to_numpy(np.float64)[chosen]
    _check_times(data.source, times, data.frequency)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ConfigError(f"{data.source}: row {row + 1}: {names[column]} is missing or not finite")
    validation, test = (int(np.searchsorted(times, _nanoseconds(moment))) for moment in (data.validation, data.test))
    table = Table(times, values, validation, test)
    if min(len(table.training_part), len(table.validation_part)) < 2:
        raise ConfigError(f"{data.source}: training and validation need two rows each at least")
    return table


def _read(source: str, folder: Path) -> pd.DataFrame:
    if source.startswith(VEGA):
        name = source.removeprefix(VEGA).replace("-", "_")
        try:
            return getattr(importlib.import_module("vega_datasets").local_data, name)()
        except ModuleNotFoundError:
            raise ConfigError(f"{source}: needs the package vega_datasets; install tidegate[demo]") from None
        except AttributeError:
            raise ConfigError(f"{source}: vega_datasets holds no such data") from None
    try:
        return pd.read_csv(folder / source)
    except OSError as error:
        raise ConfigError(f"{folder / source}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{folder / source}: is not CSV ({error})") from None


def _between(times: Times, start: datetime | None, end: datetime | None) -> NDArray[np.bool_]:
    chosen = np.ones(len(times), np.bool_)
    if start:
        chosen &= times >= _nanoseconds(start)
    if end:
        chosen &= times < _nanoseconds(end)
    return chosen


def _check_times(source: str, times: Times, frequency: str) -> None:
    expected = Frequency.parse(frequency).add(times[:-1])
    wrong = np.flatnonzero(times[1:] != expected)
    if wrong.size:
        time = np.datetime64(int(times[wrong[0] + 1]), "ns")
        raise ConfigError(
            f"{source}: row {wrong[0] + 2} ({time}) is not one interval ({frequency}) after the row before"
        )


def _nanoseconds(moment: datetime) -> int:
    return int(pd.Timestamp(moment).as_unit("ns").value)
