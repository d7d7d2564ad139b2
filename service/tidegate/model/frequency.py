"""The time between steps: "h", "D", "15min", "MS" and so on, as pandas writes them, without pandas.

Fixed lengths are nanoseconds; months (`MS`: month start) are counted on the calendar in UTC. Times are int64
nanoseconds since 1970 UTC; `NO_TIME` (the smallest int64) is "none", and is also what lies beyond the year 2262.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_TIME = int(np.iinfo(np.int64).min)
_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND
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
    """The interval: `nanoseconds`, or `months` on the calendar; both 0 when there is none."""

    nanoseconds: int = 0
    months: int = 0

    @classmethod
    def parse(cls, text: str) -> Frequency:
        """Reads "", "D", "15min", "MS", …; raises ValueError."""
        if not text:
            return cls()
        match = _PATTERN.fullmatch(text)
        count, unit = (int(match[1] or 1), match[2]) if match else (0, "")
        if unit not in _FIXED and unit not in _MONTHS:
            raise ValueError(f"{text!r} is not a frequency; use a count and one of {', '.join([*_FIXED, *_MONTHS])}")
        interval = cls(nanoseconds=count * _FIXED.get(unit, 0), months=count * _MONTHS.get(unit, 0))
        if interval.nanoseconds > _YEARS_MAX * 365 * _DAY or interval.months > _YEARS_MAX * 12:
            raise ValueError(f"{text!r} is longer than {_YEARS_MAX} years")
        return interval

    def __bool__(self) -> bool:
        return bool(self.nanoseconds or self.months)

    def add(self, times: Times, intervals: int = 1) -> Times:
        """The times that many intervals later, at least 0; NO_TIME stays, and is the answer without an interval."""
        later = np.full_like(times, NO_TIME)
        longest = intervals * (self.nanoseconds or self.months * 31 * _DAY)
        if not self or longest > _LATEST:
            return later
        known = (times > -_LATEST) & (times <= _LATEST - longest)
        moved = times[known]
        later[known] = self._add_months(moved, intervals) if self.months else moved + intervals * self.nanoseconds
        return later

    def intervals(self, start: Times, end: Times) -> NDArray[np.float64]:
        """How many intervals lie between the times, as a real number. Both must be times, and there an interval."""
        if self.months:
            return (_months(end) - _months(start)) / self.months
        difference = end - start  # exact, but for times centuries apart, where it wraps
        wrapped = (difference > 0) != (end > start)
        return np.where(wrapped, end.astype(np.float64) - start, difference) / self.nanoseconds

    def _add_months(self, times: Times, intervals: int) -> Times:
        months, into_month = _split_months(times)
        days = (months + intervals * self.months).astype("datetime64[M]").astype("datetime64[D]")
        return days.astype(np.int64) * _DAY + into_month


def _split_months(times: Times) -> tuple[Times, Times]:
    """Months since 1970, and the nanoseconds since the month began. By days, since datetime64[ns] wraps at its ends."""
    days = (times // _DAY).astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    into_month = (days - months.astype("datetime64[D]")).astype(np.int64) * _DAY + times % _DAY
    return months.astype(np.int64), into_month


def _months(times: Times) -> NDArray[np.float64]:
    """Months since 1970, with the fraction of the month that has passed."""
    months, into_month = _split_months(times)
    starts = np.stack([months, months + 1]).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    fractions: NDArray[np.float64] = into_month / ((starts[1] - starts[0]) * _DAY)
    return months + fractions
