"""The demo's data: daily weather of Seattle, as `vega_datasets` carries it (NOAA's records)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

FEATURES = ("precipitation", "temp_max", "temp_min", "wind")
NOISE = 0.05  # of each value; the neighbours differ by so much


@dataclass(frozen=True, slots=True)
class Year:
    """One year: `days` datetime64[D] [days], `values` float64 [days, features] in the order of `features`."""

    features: tuple[str, ...]
    days: NDArray[np.datetime64]
    values: NDArray[np.float64]

    def ordered(self, features: tuple[str, ...]) -> Year:
        """The same with its columns in a model's order."""
        if sorted(features) != sorted(self.features):
            problem = f"the demo's model must take {', '.join(self.features)}, not {', '.join(features)}"
            raise click.ClickException(problem)
        return Year(features, self.days, self.values[:, [self.features.index(name) for name in features]])


def data_path() -> Path:
    """The file inside the package, found without importing it (and pandas with it)."""
    spec = find_spec("vega_datasets")
    if spec is None or not spec.submodule_search_locations:
        raise click.ClickException("the demo's data is missing: pip install 'tidegate[demo]'")
    return Path(spec.submodule_search_locations[0]) / "_data" / "seattle-weather.csv"


def read_year(year: int) -> Year:
    """One year's days in their order."""
    with data_path().open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["date"].startswith(str(year))]
    days = np.array([row["date"].replace("/", "-") for row in rows], "datetime64[D]")
    values = np.array([[float(row[name]) for name in FEATURES] for row in rows])
    return Year(FEATURES, days, values)


def jittered(values: NDArray[np.float64], sessions: int) -> NDArray[np.float64]:
    """float64 [days, sessions, features]: the year again for each session, each value off by some per cent."""
    noise = np.random.default_rng(0).normal(1.0, NOISE, (len(values), sessions, values.shape[1]))
    return values[:, np.newaxis, :] * noise
