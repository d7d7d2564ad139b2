"""From the cells of a column to times: how they are written, the zone that they are in, hours that a year has twice.

Times of local clocks are told apart by their order: of the two rows that a stream has of the same time in autumn, the
first is the earlier one. A time that has no second row is refused, not guessed; and so are dates with slashes that may
have their day or their month first in every row. But a midnight that stands for its whole day (or week, or month) is
the day's first instant, also where clocks skip it or have it twice.
"""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.tseries.api import guess_datetime_format

from tidegate.errors import ConfigError
from tidegate.model.frequency import NO_TIME, Times
from tidegate.training.data_options import Data

OFFSET = r":\d{2}(?:\.\d+)?\s*(?:Z|[+-]\d{2}(?::?\d{2})?)$"  # what ends a time of day that names its zone
DOTTED = "%d."  # dates with dots have their day first, wherever they are written so
ADVICE = "write times with their offset (2024-03-01T00:00+01:00), or in UTC"
UNIX = "unix "  # and a unit: a number since 1970 began, UTC
UNIX_UNITS = {"s": 1e11, "ms": 1e14, "us": 1e17, "ns": math.inf}  # a number belongs to the first that it is below
COMPACT = {10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}  # dates that are numbers, by their digits
CENTURIES = ("19", "20")  # that such a date begins with; seconds of today begin with 1 and a smaller digit
UNIX_MIN = 1e8  # a smaller number is a year or a date; in seconds it would be before March 1973


def parse_times(frame: pd.DataFrame, data: Data, origin: str) -> Times:
    """int64 [rows] ns since 1970 UTC; NO_TIME without a column of times. Raises ConfigError."""
    if not data.time:
        return np.full(len(frame), NO_TIME)
    times = read_times(frame[data.time], data.time_format, origin)
    if times.dt.tz is None:
        times = _in_zone(times, frame[data.id] if data.id else None, data, origin)
    return nanoseconds(times)


def nanoseconds(times: pd.Series[Any]) -> Times:
    """int64 ns since 1970; UTC is the zone of those that name none."""
    utc = times.dt.tz_localize("UTC") if times.dt.tz is None else times.dt.tz_convert("UTC")
    counted: Times = utc.dt.as_unit("ns").astype("int64").to_numpy()
    return counted


def read_times(cells: pd.Series[Any], time_format: str, origin: str) -> pd.Series[Any]:
    """Times, in a zone if the cells name it, else in none; raises ConfigError that names the first row that is none."""
    try:
        times = _read(cells, time_format, origin).dt.as_unit("ns")
    except (ValueError, TypeError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise ConfigError(
            f"{origin}: {cells.name}: is not a column of times ({reason}); see data.time_format"
        ) from None
    if times.isna().any():
        row = _first(times.isna())
        cell, problem = cells.iloc[row], "is missing; every row needs a time"
        if not pd.isna(cell):
            problem = f"is {str(cell)!r}, which is not read as a time; see data.time_format"
        raise ConfigError(f"{origin}: row {row + 1}: {cells.name} {problem}")
    return times


def number_format(cells: pd.Series[Any]) -> str:
    """How times that are numbers are written, by the first: as one of COMPACT, or `unix s`, ms, us or ns by how large
    it is; "" where it is neither."""
    if pd.api.types.is_datetime64_any_dtype(cells):
        return ""
    first = pd.to_numeric(cells.dropna().head(1), errors="coerce").abs()
    if not (first >= UNIX_MIN).any():
        return ""
    number = first.iloc[0]
    digits = f"{number:.0f}"
    compact = COMPACT.get(len(digits), "")
    if (
        compact
        and digits.startswith(CENTURIES)
        and not pd.isna(pd.to_datetime(digits, format=compact, errors="coerce"))
    ):
        return compact
    return UNIX + next(unit for unit, end in UNIX_UNITS.items() if number < end)


def _read(cells: pd.Series[Any], time_format: str, origin: str) -> pd.Series[Any]:
    """By the way of writing that reads most cells; NaT where it reads none."""
    if pd.api.types.is_datetime64_any_dtype(cells):
        return pd.to_datetime(cells)
    written = time_format or number_format(cells)
    if written.startswith(UNIX):
        numbers = pd.to_numeric(cells, errors="coerce")
        return pd.to_datetime(numbers, unit=written.removeprefix(UNIX), utc=True, errors="coerce")
    if pd.api.types.is_numeric_dtype(cells):
        cells = cells.astype("Int64").astype(object).map(str, na_action="ignore")
    zoned = cells.astype(str).str.contains(OFFSET, regex=True).to_numpy(np.bool_)
    without = cells.notna().to_numpy() & ~zoned
    if zoned.any() and without.any():
        raise ConfigError(f"{origin}: row {_first(without) + 1}: {cells.name} names no zone, but others do; {ADVICE}")
    guessed = [] if written else _guessed(cells)
    ways = [written] if written else [*guessed, "ISO8601"]
    read = [pd.to_datetime(cells, format=way, utc=bool(zoned.any()), errors="coerce") for way in ways]
    if len(guessed) > 1 and not guessed[0].startswith(DOTTED) and _both_read(cells, read[0], read[1]):
        raise ConfigError(
            f"{origin}: {cells.name} may have its day or its month first, in every row; say which in data.time_format: "
            f"{' or '.join(guessed)}"
        )
    return min(read, key=lambda times: int(times.isna().sum()))


def _both_read(cells: pd.Series[Any], times: pd.Series[Any], others: pd.Series[Any]) -> bool:
    """Whether two ways of writing read all cells, but as different times."""
    known = cells.notna()
    return bool(times[known].notna().all() and others[known].notna().all()) and not times.equals(others)


def _guessed(cells: pd.Series[Any]) -> list[str]:
    """How the first cell seems to be written: with its day first and, where that fits too, with its month first."""
    first = next(iter(cells.dropna().head(1)), None)
    if not isinstance(first, str):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the day comes first: then it does in every row
        guesses = [guess_datetime_format(first, dayfirst=dayfirst) for dayfirst in (True, False)]
    return [way for way in dict.fromkeys(guesses) if way and not re.match(r"%Y\W%d", way)]  # nobody writes that


def _in_zone(times: pd.Series[Any], streams: pd.Series[Any] | None, data: Data, origin: str) -> pd.Series[Any]:
    """Local times with their zone; raises ConfigError for one that its clocks leave out, or have twice."""
    zone = data.time_zone
    plain = times.dt.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    if data.interval.whole_days and not plain.notna().all():
        first = times.dt.tz_localize(zone, ambiguous=np.ones(len(times), np.bool_), nonexistent="shift_forward")
        plain = plain.fillna(first.where(times == times.dt.normalize()))
    if plain.notna().all():
        return plain
    keys = pd.DataFrame({"time": times} if streams is None else {"time": times, "stream": streams})
    told = plain.fillna(times.dt.tz_localize(zone, ambiguous=~keys.duplicated().to_numpy(), nonexistent="NaT"))
    single = plain.isna() & ~keys.duplicated(keep=False)
    for wrong, problem in (
        (told.isna(), f"which the clocks of {zone} leave out"),
        (single, f"which {zone} has twice, and no second row of its stream tells which it is"),
    ):
        if wrong.any():
            row = _first(wrong)
            raise ConfigError(f"{origin}: row {row + 1}: {times.name} is {times.iloc[row]}, {problem}; {ADVICE}")
    return told


def _first(marked: pd.Series[Any] | NDArray[np.bool_]) -> int:
    return int(np.flatnonzero(marked)[0])
