"""The session rules for what comes late: an older step, the last step with another input, or a time that has passed.

Such an observation takes its place among those that its session keeps: the session is taken back to before it, and it
and the later ones are judged and stepped again. So there is no second table: `find` says where the place is, `rehearse`
judges all of it by `rules.judge` before anything is touched, and what cannot be is refused for the first reason found.
A number that the client gave stands; those that the server gave are given anew. By its time alone an observation goes
nowhere beyond a reset, where times begin anew. Pure: no torch, no grpc, no asyncio.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.judgement.rules import ADVANCE, Observed, Policy, Remembered, judge, times_after
from tidegate.engine.memory import kept
from tidegate.engine.memory.kept import Host, Mark, Observations
from tidegate.errors import Reason
from tidegate.model.frequency import NO_TIME

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
_LATE = (Reason.STEP_TOO_OLD, Reason.STEP_CONFLICT, Reason.TIME_NOT_INCREASING)


@dataclass
class Places:
    """Of n late rows: `back` [n], how many of their sessions' last observations are taken back (0: the row has no
    place, or needs none); `replaces` [n], whether it stands for the first of these; `known` [n], whether it was taken
    already.
    """

    back: Ints
    replaces: Bools
    known: Bools

    def take(self, rows: Bools) -> Places:
        """Some of them."""
        return Places(self.back[rows], self.replaces[rows], self.known[rows])


def is_late(ruling: NDArray[np.uint8], step: Ints) -> Ints:
    """The rows, as `judge` ruled on them, that may have a place further back."""
    late = np.isin(ruling, _LATE) & ((ruling != Reason.TIME_NOT_INCREASING) | (step == 0))
    return np.flatnonzero(late)


def find(host: Host, slots: Ints, row: Observed, lateness: int) -> Places:
    """Where rows of n different sessions belong that are late by at most so many steps."""
    count = host["retained"][slots]
    whole = count - host["retained_from"][slots]
    steps = kept.newest(host, slots, lateness)
    there = (steps > 0) & (np.arange(lateness) < whole[:, None])
    times = _after(host, slots, "event_time", lateness)
    by_step = row.step > 0
    own, others = np.where(by_step, row.step, row.time)[:, None], np.where(by_step[:, None], steps, times)
    later = np.logical_and.accumulate((others >= own) & there, axis=1)
    back = later.sum(1)
    first = np.arange(len(slots)), np.maximum(back - 1, 0)  # the oldest of those that are taken back
    replaces = (back > 0) & (others[first] == own[:, 0])
    length = host["step@"].shape[1]
    before = slots, (count - back) % length
    same_place = np.where(by_step, host["step@"][before], host["event_time@"][before]) == own[:, 0]
    known = replaces & (_after(host, slots, "digest", lateness)[first] == row.digest)
    known |= (back > 0) & ~replaces & same_place & (host["digest@"][before] == row.digest)
    taken = ~replaces & by_step & (host["step@"][before] >= row.step)  # and not kept any more
    number = np.where(by_step, row.step, np.where(replaces, steps[first], host["step@"][before] + 1))
    beyond = ~by_step & _beyond_reset(host, slots, back - replaces, lateness)
    nowhere = known | taken | beyond | (number < host["step"][slots] - lateness) | host["diverged"][slots]
    return Places(np.where(nowhere, 0, back), replaces, known)


def _after(host: Host, slots: Ints, column: str, steps: int) -> Ints:
    """What a column held after each of the last so many steps, the last one first: [n, steps]."""
    kept_steps = host[f"{column}@"].shape[1]
    places = (host["retained"][slots][:, None] - np.arange(1, steps)) % kept_steps
    after: Ints = np.concatenate((host[column][slots][:, None], host[f"{column}@"][slots[:, None], places]), axis=1)
    return after


def _beyond_reset(host: Host, slots: Ints, passed: Ints, lateness: int) -> Bools:
    """Whether the state began anew at one of the last `passed` [n] observations."""
    anew = kept.marks_of(host, slots, lateness) & (Mark.RESET | Mark.ZEROED) != 0
    beyond: Bools = (anew & (np.arange(lateness) < passed[:, None])).any(1)
    return beyond


def with_late(host: Host, slots: Ints, places: Places, row: Observed, values: NDArray[np.float64]) -> Observations:
    """What n sessions are to take again: the late rows [n], then what they kept from there on."""
    old = kept.last(host, slots, places.back)
    first = old.at(0, np.arange(len(slots)))
    given = old.marks[first].astype(np.int64)  # of the observation whose place the late one takes
    created = given & Mark.CREATED
    stands = places.replaces & (given & Mark.NUMBERED != 0)
    numbered = (row.step > 0) | stands
    marks = created | row.reset * Mark.RESET | numbered * Mark.NUMBERED
    step = np.where(row.step > 0, row.step, old.step[first])
    old.marks[first] &= np.uint8(255 - Mark.CREATED)
    rest = np.ones(len(old.step), bool)
    rest[first[places.replaces]] = False
    owner = np.repeat(np.arange(len(slots)), places.back)[rest]
    order = np.argsort(np.concatenate((np.arange(len(slots)), owner)), kind="stable")
    return Observations(
        step=np.concatenate((step, old.step[rest]))[order],
        time=np.concatenate((row.time, old.time[rest]))[order],
        marks=np.concatenate((marks.astype(np.uint8), old.marks[rest]))[order],
        values=np.concatenate((values, old.values[rest]))[order],
        length=places.back + 1 - places.replaces,
    )


def rehearse(before: Remembered, sequence: Observations, policy: Policy) -> tuple[NDArray[np.uint8], Ints, Ints]:
    """Judges the sequences of n sessions that are as `before` says, without a step.

    Returns for each the ruling on the first observation that could not be taken (ADVANCE: all can), how many steps it
    is, and how many observations were judged.
    """
    sessions = len(sequence.length)
    ruling, steps, judged = (
        np.full(sessions, ADVANCE, np.uint8),
        np.zeros(sessions, np.int64),
        np.zeros(sessions, np.int64),
    )
    sent, resets, zeroed = sequence.sent, sequence.marked(Mark.RESET), sequence.marked(Mark.ZEROED)
    other = np.zeros(sessions, np.uint64)  # a step that comes twice is wrong here, whatever its input
    for place in range(len(sequence)):
        going = np.flatnonzero((sequence.length > place) & (ruling == ADVANCE))
        rows = sequence.at(place, going)
        before.steps_seen[going[zeroed[rows]]] = 0
        before.time[going[zeroed[rows]]] = NO_TIME
        now = Remembered(
            before.step[going], before.steps_seen[going], before.time[going], other[going], before.diverged[going]
        )
        observed = Observed(
            sent[rows], sequence.time[rows], other[going] + np.uint64(1), resets[rows], np.zeros(len(rows), np.uint8)
        )
        verdicts = judge(observed, now, policy)
        ruling[going], judged[going] = verdicts.ruling, place + 1
        fresh = resets[rows]
        last = np.where(fresh, NO_TIME, now.time)
        before.time[going] = times_after(policy.frequency, observed.time, last, verdicts.missing)
        before.steps_seen[going] = np.where(fresh, 0, now.steps_seen) + verdicts.missing + 1
        before.step[going], before.diverged[going] = verdicts.step, False
        steps[going] += verdicts.missing + 1
    return ruling, steps, judged


def state_before(host: Host, slots: Ints, back: Ints) -> Remembered:
    """What the sessions remembered so many steps ago, as far as the rules ask."""
    at = slots, (host["retained"][slots] - back) % host["step@"].shape[1]
    names = ("step@", "steps_seen@", "event_time@", "digest@", "diverged@")
    return Remembered(*(host[name][at] for name in names))
