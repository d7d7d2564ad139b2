"""The time between steps: "h", "D", "15min", "MS" and so on, as pandas writes them, without pandas.

Hours and what is shorter are nanoseconds. Days, weeks and months are counted on the clocks of a time zone: the time of
day stays, also where a day has 23 or 25 hours. With months (`MS`) the day of the month stays too, or is the last one
where the month is shorter, and the last day of a month is followed by last days. Times are int64 nanoseconds since 1970
UTC; `NO_TIME` (the smallest int64) is "none", and is also what lies beyond the year 2262.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.model.local_time import from_local, offsets, to_local

NO_TIME = int(np.iinfo(np.int64).min)
_SECOND = 1_000_000_000
_DAY_SECONDS = 86_400
_DAY = _DAY_SECONDS * _SECOND
_LATEST = 2**63 - 32 * _DAY  # a month short of what int64 holds, so that rounding to a month fits too
_YEARS_MAX = 100
_FIXED = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": _SECOND,
    "min": 60 * _SECOND,
    "h": 3600 * _SECOND,
    "D": _DAY,
    "W": 7 * _DAY,
}
_MONTHS = {"MS": 1, "QS": 3, "YS": 12}
_PATTERN = re.compile(r"([1-9][0-9]{0,5})?([A-Za-z]+)")

Times = NDArray[np.int64]


@dataclass(frozen=True)
class Frequency:
    """The interval: `nanoseconds`, or `months`; both 0 when there is none. Days and months are those of `time_zone`."""

    nanoseconds: int = 0
    months: int = 0
    time_zone: str = "UTC"

    @classmethod
    def parse(cls, text: str, time_zone: str = "UTC") -> Frequency:
        """Reads "", "D", "15min", "MS", …; raises ValueError."""
        if not text:
            return cls()
        match = _PATTERN.fullmatch(text)
        count, unit = (int(match[1] or 1), match[2]) if match else (0, "")
        if unit not in _FIXED and unit not in _MONTHS:
            raise ValueError(f"{text!r} is not a frequency; use a count and one of {', '.join([*_FIXED, *_MONTHS])}")
        interval = cls(count * _FIXED.get(unit, 0), count * _MONTHS.get(unit, 0), time_zone)
        if interval.nanoseconds > _YEARS_MAX * 365 * _DAY or interval.months > _YEARS_MAX * 12:
            raise ValueError(f"{text!r} is longer than {_YEARS_MAX} years")
        return interval

    def __bool__(self) -> bool:
        return bool(self.nanoseconds or self.months)

    @property
    def whole_days(self) -> bool:
        """Whether each step is a day, or several, or months."""
        return bool(self) and self.nanoseconds % _DAY == 0

    @property
    def even(self) -> bool:
        """Whether every step has the same length: not months, nor days on the clocks of a time zone."""
        return not self.months and (not self.whole_days or self.time_zone == "UTC")

    def add(self, times: Times, intervals: int = 1) -> Times:
        """The times that many intervals later, at least 0; NO_TIME stays, and is the answer without an interval."""
        later = np.full_like(times, NO_TIME)
        longest = intervals * (self.nanoseconds or self.months * 31 * _DAY)
        if not self or longest > _LATEST:
            return later
        known = (times > -_LATEST) & (times <= _LATEST - longest)
        moved = times[known]
        later[known] = moved + intervals * self.nanoseconds if self.even else self._add_on_clocks(moved, intervals)
        return later

    def intervals(self, start: Times, end: Times) -> NDArray[np.float64]:
        """How many intervals lie between the times, as a real number. Both must be times, and there an interval."""
        passed = self._passed(start, end)
        if self.even:
            return passed
        latest = _LATEST - (self.nanoseconds or self.months * 31 * _DAY)
        near = (passed >= 0.5) & (start > -latest) & (end < latest)
        whole = np.rint(passed[near])  # where `add` comes to, whatever the lengths of days and months are
        passed[near] = whole + self._passed(self._add_on_clocks(start[near], whole.astype(np.int64)), end[near])
        return passed

    def _passed(self, start: Times, end: Times) -> NDArray[np.float64]:
        """By what has passed of each month, and by days of 24 hours."""
        if self.months:
            return (_months(end, self.time_zone) - _months(start, self.time_zone)) / self.months
        difference = end - start  # exact, but for times centuries apart, where it wraps
        wrapped = (difference > 0) != (end > start)
        return np.where(wrapped, end.astype(np.float64) - start, difference) / self.nanoseconds

    def _add_on_clocks(self, times: Times, intervals: int | Times) -> Times:
        readings = _readings(times, self.time_zone)
        if self.nanoseconds:
            return from_local(readings + intervals * self.nanoseconds, self.time_zone)
        months, day, length = _calendar(readings // _DAY)
        start, end = (_starts(months + intervals * self.months + more) for more in (0, 1))
        moved = np.where(day == length - 1, end - 1, np.minimum(start + day, end - 1))
        return from_local(moved * _DAY + readings % _DAY, self.time_zone)


def _readings(times: Times, zone: str) -> Times:
    """What the clocks read; at the first instant of a day whose midnight they skip, that midnight."""
    readings = to_local(times, zone)
    midnights = readings - readings % _DAY
    return np.where(from_local(midnights, zone) == times, midnights, readings)


def _months(times: Times, zone: str) -> NDArray[np.float64]:
    """Months since 1970, with the fraction of the month that has passed. By seconds, since times at the ends of int64
    have no room for an offset."""
    seconds = times // _SECOND + offsets(times, zone) // _SECOND
    months, day, length = _calendar(seconds // _DAY_SECONDS)
    into_month = day * _DAY + seconds % _DAY_SECONDS * _SECOND + times % _SECOND
    fractions: NDArray[np.float64] = into_month / (length * _DAY)
    return months + fractions


def _calendar(days: Times) -> tuple[Times, Times, Times]:
    """Of days since 1970: months since then, days since the month began, and how many days the month has."""
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    return months, days - _starts(months), _starts(months + 1) - _starts(months)


def _starts(months: Times) -> Times:
    """The days since 1970 on which months since 1970 begin."""
    return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
