"""What is evaluated: streams of observations on the model's grid of time, and which of their steps are scored.

A row of a stream is one interval after the row before; a step that the source lacks is a row of NaN, so that missing
steps and missing values are the same thing here, and the server is sent them as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import ConfigError
from tidegate.model.frequency import NO_TIME, Frequency, Times

Array = NDArray[np.float64]
STEPS_MAX = 5_000_000  # of one stream on its grid: above it, the frequency is too fine for the gaps
SCORED_SHARE = 0.2  # of a stream that nobody has parted


@dataclass(frozen=True, eq=False)
class Stream:
    """One session's observations: values [steps, features] in the package's order, NaN where missing.

    `times` int64 [steps] in ns since 1970 UTC, or None. Rows before `fit` are the training part: baselines are fitted
    and errors scaled on it. Steps from `start` to `end` (exclusive) are scored; those before warm the session up, and
    what is behind is not sent.
    """

    id: str
    times: Times | None
    values: Array
    fit: int
    start: int
    end: int


@dataclass(frozen=True)
class Window:
    """Where the scored steps begin and end, and where the training part ends, in ns since 1970 UTC.

    None: the scored part is the last fifth; it ends where the stream does; the training part ends where it begins.
    """

    start: int | None = None
    end: int | None = None
    fit: int | None = None


def make_stream(
    name: str, times: Times | None, values: Array, frequency: Frequency, window: Window | None = None
) -> Stream:
    """Brings rows to the grid and cuts the parts; raises ConfigError.

    `times` must increase. Without times or without a frequency the rows are the grid.
    """
    window = window or Window()
    if times is not None and (times == NO_TIME).any():
        raise ConfigError(f"{name}: a row has no time")
    if times is not None and frequency:
        times, values = on_grid(name, times, values, frequency)
    if times is None and window != Window():
        raise ConfigError(f"{name}: start and end need times; name their column")
    steps = len(values)
    end = _row(times, window.end, steps)
    start = _row(times, window.start, round(end * (1 - SCORED_SHARE)))
    fit = min(_row(times, window.fit, start), start)
    return Stream(name, times, values, fit, min(start, end), end)


def on_grid(name: str, times: Times, values: Array, frequency: Frequency) -> tuple[Times, Array]:
    """Rows one interval apart, beginning with the first; those that are missing are NaN. Raises ConfigError where two
    rows fall on one step, or a row is not after the one before."""
    if len(times) < 2:
        return times, values
    places = np.rint(frequency.intervals(np.broadcast_to(times[0], times.shape), times)).astype(np.int64)
    wrong = np.flatnonzero(np.diff(places) < 1)
    if wrong.size:
        row = int(wrong[0]) + 1
        first, second = (np.datetime64(int(times[at]), "s") for at in (row - 1, row))
        raise ConfigError(
            f"{name}: row {row + 1} ({second}) is not an interval after the row before ({first}); "
            f"sort the rows, and name the column that tells the streams apart"
        )
    steps = int(places[-1]) + 1
    if steps > STEPS_MAX:
        raise ConfigError(f"{name}: its times span {steps} intervals, more than {STEPS_MAX}; cut it into streams")
    if steps == len(times):
        return times, values
    grid = np.full((steps, values.shape[1]), np.nan)
    grid[places] = values
    all_times = _times(int(times[0]), steps, frequency)
    all_times[places] = times
    return all_times, grid


def scored(streams: Sequence[Stream]) -> int:
    """How many steps are scored in all; raises ConfigError when there is none."""
    steps = sum(stream.end - stream.start for stream in streams)
    if not steps:
        raise ConfigError("no step lies in the part to be scored; look at start and end")
    return steps


def _times(first: int, steps: int, frequency: Frequency) -> Times:
    if frequency.nanoseconds:
        times: Times = first + np.arange(steps, dtype=np.int64) * frequency.nanoseconds
        return times
    start = np.array([first], np.int64)
    return np.concatenate([frequency.add(start, step) for step in range(steps)])


def _row(times: Times | None, moment: int | None, otherwise: int) -> int:
    """The first row that is not before the moment."""
    if moment is None or times is None:
        return otherwise
    return int(np.searchsorted(times, moment))
