"""Clock readings of a time zone, as int64 nanoseconds as if they were UTC. Pure: NumPy alone."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND
_OFFSET_SECONDS = 900  # time zones change their offset at quarters of an hour at most


def to_local(times: Ints, zone: str) -> Ints:
    """What the zone's clocks read at `times`, ns since 1970 UTC."""
    return times if zone == "UTC" else times + offsets(times, zone)


def from_local(readings: Ints, zone: str) -> Ints:
    """When the zone's clocks read so: of two such times the earlier one, and where the clocks leave it out, as late as
    the clock before would have read it (as datetime does it with fold 0), so that a day's start stays in its day."""
    if zone == "UTC":
        return readings
    before, after = offsets(readings - _DAY, zone), offsets(readings + _DAY, zone)
    earlier, later = readings - before, readings - after
    changed = (offsets(earlier, zone) != before) & (offsets(later, zone) == after)
    return np.where(changed, later, earlier)


def offsets(times: Ints, zone: str) -> Ints:
    """How far the zone's clocks are ahead of UTC at `times`, ns."""
    if zone == "UTC":
        return np.zeros_like(times)
    periods, rows = np.unique(times // (_OFFSET_SECONDS * _SECOND), return_inverse=True)
    found = np.array([_offset_seconds(zone, period) for period in periods.tolist()], np.int64)
    return found[rows] * _SECOND


@lru_cache(maxsize=65_536)
def _offset_seconds(zone: str, period: int) -> int:
    try:
        moment = datetime.fromtimestamp(period * _OFFSET_SECONDS, UTC).astimezone(ZoneInfo(zone))
    except (OverflowError, ValueError):  # beyond the year 9999 there is no clock
        return 0
    offset = moment.utcoffset()
    return int(offset.total_seconds()) if offset is not None else 0
