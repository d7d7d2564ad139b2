"""Calendar inputs from times, by tables: the same bits for a row whatever it is computed with. Pure: NumPy alone.

A field is that of the step that is predicted: one interval after the observation, on the clock of the package's time
zone, which counts days and months; where a stamp marks an interval's end, that of the interval's start. A session
without times is dated by its steps: step n is n intervals after 1970 began. A model without a frequency takes the
observation's own time, and all zeros where there is none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.model.frequency import NO_TIME, Frequency
from tidegate.model.local_time import to_local
from tidegate.model.manifest import CALENDAR_SIZES, CalendarInput, Manifest

Ints = NDArray[np.int64]
_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND
_MINUTES = 1_440  # places of the hour of the day, for its sine and cosine
_ROWS_FEW, _ROWS_KNOWN_MAX = 8, 1_024  # more at a time are computed together


class Calendar:
    """The calendar inputs of one manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self._entries = [(entry.field, _table(entry)) for entry in manifest.calendar]
        self._frequency = Frequency.parse(manifest.frequency, manifest.time_zone)
        self._undated = Frequency.parse(manifest.frequency)  # of steps without times, in UTC
        self._ahead = manifest.stamp == "start"
        self._zone = manifest.time_zone
        self.width = manifest.calendar_width
        self._known: dict[tuple[int, int], NDArray[np.float32]] = {}  # rows of late, by time and step

    def columns(self, times: Ints, steps: Ints) -> NDArray[np.float32]:
        """float32 [rows, width] for observations at `times` (ns since 1970 UTC, or NO_TIME), the `steps`-th (from 1)
        since their sessions' state was zero."""
        if not self._entries:
            return np.zeros((len(times), 0), np.float32)
        if 0 < len(times) <= _ROWS_FEW:
            return np.stack([self._row(*row) for row in zip(times.tolist(), steps.tolist(), strict=True)])
        if len(times) and times[0] != NO_TIME and (times == times[0]).all():
            return self._row(int(times[0]), 0)[None].repeat(len(times), axis=0)
        return self._computed(times, steps)

    def _row(self, time: int, step: int) -> NDArray[np.float32]:
        """One row; times come again and again, of sessions that are fed side by side."""
        key = (time, step if time == NO_TIME else 0)
        row = self._known.get(key)
        if row is None:
            row = self._computed(np.array([time]), np.array([step]))[0]
            if len(self._known) >= _ROWS_KNOWN_MAX:
                self._known.clear()
            self._known[key] = row
        return row

    def _computed(self, times: Ints, steps: Ints) -> NDArray[np.float32]:
        if self._frequency and (times == NO_TIME).any():
            times = np.where(times == NO_TIME, self._dated(steps), times)
        predicted = self._frequency.add(times) if self._frequency and self._ahead else times
        known = predicted != NO_TIME
        local = to_local(np.where(known, predicted, 0), self._zone)
        parts = [table[_places(field, local, len(table))] for field, table in self._entries]
        columns: NDArray[np.float32] = np.concatenate(parts, axis=1)
        columns[~known] = 0.0
        return columns

    def _dated(self, steps: Ints) -> Ints:
        """The times of steps that have none: so many intervals after 1970 began."""
        times = np.empty(len(steps), np.int64)
        for step in np.unique(steps).tolist():
            times[steps == step] = self._undated.add(np.zeros(1, np.int64), step)
        return times


def _places(field: str, times: Ints, size: int) -> Ints:
    """Which row of the field's table each time reads."""
    if field == "hour_of_day":
        return times % _DAY * size // _DAY
    days = times // _DAY
    if field == "day_of_week":
        return (days + 3) % 7  # Monday is 0; 1970 began on a Thursday
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    if field == "month_of_year":
        return months.astype(np.int64) % 12
    start = months if field == "day_of_month" else dates.astype("datetime64[Y]")
    places: Ints = (dates - start.astype("datetime64[D]")).astype(np.int64)
    return places


def _table(entry: CalendarInput) -> NDArray[np.float32]:
    """float32 [places of the cycle, columns]."""
    size = CALENDAR_SIZES[entry.field]
    if entry.encoding == "one_hot":
        return np.eye(size, dtype=np.float32)
    size = _MINUTES if entry.field == "hour_of_day" else size
    phases = 2 * np.pi * np.arange(size) / size
    return np.stack([np.sin(phases), np.cos(phases)], axis=1).astype(np.float32)
