"""The observations that sessions keep: a ring of the last ones, as they were sent, so that they can be taken again.

Values are in the package's order and units, NaN where they were missing; future covariates are among them. Number n of
a session's observations (from 0) lies at n mod the ring's length; a step of 0 says that nothing is kept there.
Pure: NumPy alone, on the host columns of a slab.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Host = Mapping[str, NDArray[Any]]


class Mark(IntFlag):
    """What is to be known of an observation beside its values, time and number."""

    RESET = 1  # it came with a reset
    CREATED = 2  # it opened its session
    NUMBERED = 4  # its number is the client's, not the server's
    ZEROED = 8  # a command had set the state to zero before it


@dataclass
class Observations:
    """Rows of several sessions, those of one after each other, oldest first: step and time int64 [rows], marks uint8
    [rows], values float64 [rows, features]; `length` int64 [sessions] says how many are whose."""

    step: Ints
    time: Ints
    marks: NDArray[np.uint8]
    values: NDArray[np.float64]
    length: Ints

    def __len__(self) -> int:
        """The most rows of any session."""
        return int(self.length.max(initial=0))

    def at(self, place: int, sessions: Ints) -> Ints:
        """Where the sessions' rows number `place` (from 0) are; they must have so many."""
        return (self.length.cumsum() - self.length)[sessions] + place

    def marked(self, mark: Mark) -> NDArray[np.bool_]:
        """Rows that have a mark, [rows]."""
        marked: NDArray[np.bool_] = self.marks & mark != 0
        return marked

    def of(self, sessions: NDArray[np.bool_]) -> Observations:
        """Those of some sessions."""
        rows = np.repeat(sessions, self.length)
        return Observations(
            self.step[rows], self.time[rows], self.marks[rows], self.values[rows], self.length[sessions]
        )

    def without(self, count: Ints) -> Observations:
        """Without the oldest `count` [sessions] of each."""
        place = np.arange(len(self.step)) - np.repeat(self.length.cumsum() - self.length, self.length)
        rows = place >= np.repeat(count, self.length)
        return Observations(self.step[rows], self.time[rows], self.marks[rows], self.values[rows], self.length - count)

    @property
    def sent(self) -> Ints:
        """The steps as clients sent them, 0 where the server numbered, [rows]."""
        return np.where(self.marked(Mark.NUMBERED), self.step, 0)


def keep(
    host: Host, slots: Ints, step: Ints, time: Ints, marks: NDArray[np.uint8], values: NDArray[np.float64]
) -> None:
    """Keeps one more observation of each session."""
    number = host["kept"][slots]
    places = number % host["kept_step"].shape[1]
    host["kept_step"][slots, places] = step
    host["kept_time"][slots, places] = time
    host["kept_marks"][slots, places] = marks
    host["kept_values"][slots, places] = values
    host["kept"][slots] = number + 1


def forget(host: Host, slots: Ints, count: Ints) -> None:
    """Drops the newest `count` [n] of each."""
    length, number = host["kept_step"].shape[1], host["kept"][slots]
    for back in range(min(int(count.max(initial=0)), length)):
        rows = np.flatnonzero(count > back)
        host["kept_step"][slots[rows], (number[rows] - 1 - back) % length] = 0
    host["kept"][slots] = np.maximum(number - count, 0)


def newest(host: Host, slots: Ints, count: int) -> Ints:
    """Steps of the newest ones, newest first: [n, count], 0 where there are no more. `count`: at most the ring's."""
    steps: Ints = host["kept_step"][slots[:, None], _places(host, slots, np.arange(count))]
    return np.where((steps == 0).cumsum(1) > 0, 0, steps)


def newest_time(host: Host, slots: Ints) -> Ints:
    """When their last observations were, as they were sent: [n]."""
    times: Ints = host["kept_time"][slots, _places(host, slots, np.arange(1))[:, 0]]
    return times


def marks_of(host: Host, slots: Ints, count: int) -> NDArray[np.uint8]:
    """Their marks, likewise."""
    marks: NDArray[np.uint8] = host["kept_marks"][slots[:, None], _places(host, slots, np.arange(count))]
    return marks


def last(host: Host, slots: Ints, count: Ints) -> Observations:
    """The newest `count` [n] of each session, which must be there."""
    owner = np.repeat(np.arange(len(slots)), count)
    back = np.repeat(count.cumsum(), count) - 1 - np.arange(len(owner))
    rows = slots[owner]
    places = (host["kept"][rows] - 1 - back) % host["kept_step"].shape[1]
    step, time, marks, values = (host[f"kept_{name}"][rows, places] for name in ("step", "time", "marks", "values"))
    return Observations(step, time, marks, values, count)


def held(host: Host, slots: Ints) -> Ints:
    """How many observations are there of each session, [n]."""
    count: Ints = (newest(host, slots, host["kept_step"].shape[1]) > 0).sum(1)
    return count


def _places(host: Host, slots: Ints, back: Ints) -> Ints:
    places: Ints = (host["kept"][slots][:, None] - 1 - back) % host["kept_step"].shape[1]
    return places
