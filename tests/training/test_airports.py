"""Hourly records of airports become days."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tidegate.errors import ConfigError
from tidegate.training.airports import daily

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "nyc-airports-weather-2013.csv"


def hourly() -> pd.DataFrame:
    """Two hours of the first, none of the second and one of the third of January, with a fault of the wind."""
    return pd.DataFrame(
        {
            "origin": "JFK",
            "year": 2013,
            "month": 1,
            "day": [1, 1, 3],
            "temp": [30.0, 40.0, 50.0],
            "humid": [60.0, 80.0, np.nan],
            "wind_speed": [10.0, 1048.4, 6.0],
            "precip": [0.25, 0.5, 0.0],
        }
    )


def test_a_day_is_its_highs_means_and_sums() -> None:
    """High and low of the temperature, means of wind (without faults) and humidity, the sum of precipitation; a day
    without records is there, and empty."""
    days = daily(hourly())
    assert days["date"].dt.day.tolist() == [1, 2, 3]
    assert set(days["station"]) == {"JFK"}
    first = days.iloc[0]
    assert first[["high", "low", "wind", "precipitation", "humidity"]].tolist() == [40.0, 30.0, 10.0, 0.75, 70.0]
    assert days.iloc[1, 2:].isna().all()
    assert np.isnan(days["humidity"].iloc[2])


def test_records_without_a_column_are_refused(tmp_path: Path) -> None:
    """The error names the column; the command says it in one line and exits with 2."""
    lacking = hourly().drop(columns="humid")
    with pytest.raises(ConfigError, match="no column humid"):
        daily(lacking)
    lacking.to_csv(tmp_path / "hours.csv")
    command = [
        sys.executable,
        "-m",
        "tidegate.training.airports",
        str(tmp_path / "hours.csv"),
        str(tmp_path / "days.csv"),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "no column humid" in ran.stderr
    assert not (tmp_path / "days.csv").exists()


@pytest.mark.skipif(not DATA.is_file(), reason="the hourly records of 2013 are not beside the checkout")
def test_a_year_of_three_stations() -> None:
    """2013 has 364 days of each station in the records, none of them missing; all figures are possible ones."""
    days = daily(pd.read_csv(DATA))
    assert days.groupby("station").size().to_dict() == {"EWR": 364, "JFK": 364, "LGA": 364}
    assert (days["high"] >= days["low"]).all()
    assert days["humidity"].between(0, 100).all()
    assert days["wind"].between(0, 60).all()
