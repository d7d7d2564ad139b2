"""The frequency of streams of times: the usual distance of their rows, if a grid of it has a place for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tidegate.model.frequency import Frequency, Times
from tidegate.training.data import grid_places, is_too_fine

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
UNITS = {"W": 7 * DAY, "D": DAY, "h": 3600 * SECOND, "min": 60 * SECOND, "s": SECOND, "ms": 10**6, "us": 10**3, "ns": 1}
CALENDAR = {"MS": (28, 31), "QS": (90, 92), "YS": (365, 366)}  # days
# Distances are rounded to these, so that a usual one stands out.
RESOLUTIONS = (DAY, 3600 * SECOND, 60 * SECOND, SECOND, 10**6, 10**3, 1)
COUNT_MAX = 999_999  # of units in a frequency
ROWS_A_STEP_MIN = 0.1  # a grid that is emptier is none of the data's


@dataclass(frozen=True)
class Steps:
    """`frequency` is "" and `nanoseconds` 0 where no grid fits; `missing` steps of the grid have no row, and `repeats`
    rows have the time of another of their stream."""

    frequency: str
    nanoseconds: int
    missing: int
    repeats: int


def find_steps(streams: Sequence[Times]) -> Steps:
    """Of the times of each stream, int64 ns since 1970, in any order."""
    different = [np.unique(times) for times in streams if len(times)]
    repeats = sum(map(len, streams)) - sum(map(len, different))
    fits = [fit for usual in _usual(different) for name in _names(usual) if (fit := _fit(name, usual, different))]
    if not fits:
        return Steps("", 0, 0, repeats)
    _, name, usual, missing = min(fits, key=lambda fit: fit[0])
    return Steps(name, usual, missing, repeats)


def _usual(streams: list[Times]) -> list[int]:
    """The most frequent distance of rows, for each resolution."""
    distances = np.concatenate([np.zeros(0, np.int64), *map(np.diff, streams)])
    found = []
    for resolution in RESOLUTIONS:
        rounded = np.rint(distances / resolution).astype(np.int64) * resolution
        values, counts = np.unique(rounded[rounded > 0], return_counts=True)
        found += [int(values[np.argmax(counts)])] if len(values) else []
    return list(dict.fromkeys(found))


def _names(nanoseconds: int) -> list[str]:
    """The frequencies that are about so long."""
    names = [name for name, (least, most) in CALENDAR.items() if least * DAY <= nanoseconds <= most * DAY]
    for unit, length in UNITS.items():
        count, rest = divmod(nanoseconds, length)
        if count and not rest:
            return [*names, f"{count if count > 1 else ''}{unit}"] if count <= COUNT_MAX else names
    return names


def _fit(name: str, usual: int, streams: list[Times]) -> tuple[float, str, int, int] | None:
    """How far the times are off the grid on the mean, name and length of its step, and how many steps are missing."""
    try:
        frequency = Frequency.parse(name)
    except ValueError:  # longer than a frequency may be
        return None
    off, steps, rows = 0.0, 0, sum(map(len, streams))
    for times in streams:
        places, distance = grid_places(frequency, times)
        if (np.diff(places) == 0).any() or is_too_fine(places):
            return None
        off, steps = off + float(distance.sum()), steps + int(places[-1]) + 1
    return (off / rows, name, usual, steps - rows) if rows >= ROWS_A_STEP_MIN * steps else None
