"""A history: past steps of one session that are taken as one, and what of them can be taken as a sequence.

Pure: NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.judgement.rules import Policy, digest
from tidegate.engine.queues.block import Scope
from tidegate.errors import Reason
from tidegate.model.frequency import NO_TIME, Frequency, Times
from tidegate.model.manifest import Manifest

Values = NDArray[np.float64]
Bools = NDArray[np.bool_]
SEQUENCE_STEPS_MIN = 8  # fewer are stepped: a sequence has a cost of its own


@dataclass(frozen=True)
class History:
    """What a client sent: T rows, the first of which has the number `first_step` (0: the next one). times int64 [T];
    values [T, width] in the scope's order and units, future [T, future covariates] in the package's, None without."""

    scope: Scope
    first_step: int
    times: Times
    values: Values
    future: Values | None = None
    reset: bool = False
    exact: bool = False

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True)
class Past:
    """Rows of a history as its session's version takes them: values [T, features], NaN where they are missing; step
    int64 [T] as they are sent (0: the next one), reset bool [T]."""

    step: NDArray[np.int64]
    time: Times
    values: Values
    reset: Bools

    def __len__(self) -> int:
        return len(self.step)

    def without(self, rows: int) -> Past:
        """Without the first so many."""
        return Past(self.step[rows:], self.time[rows:], self.values[rows:], self.reset[rows:])


def arranged(history: History, values: Values) -> Past:
    """`values` [T, features] are those of the history in the package's order and units."""
    steps, reset = np.zeros(len(history), np.int64), np.zeros(len(history), bool)
    if history.first_step:
        steps = history.first_step + np.arange(len(history))
    reset[0] = history.reset
    return Past(steps, history.times, values, reset)


def passed_over(past: Past, step: int, mark: np.uint64) -> int | Reason:
    """How many rows its session has already, of which `mark` is the digest of the last one, that of `step`; or why
    they are not its."""
    first = int(past.step[0])
    known = step - first + 1 if first and step else 0
    if known <= 0:
        return 0
    if known > len(past):
        return Reason.STEP_TOO_OLD
    row = slice(known - 1, known)
    same = digest(past.values[row], past.time[row], past.reset[row])[0] == mark
    return known if same else Reason.STEP_CONFLICT


def in_sequence(past: Past, manifest: Manifest, policy: Policy, stepped: int) -> Bools:
    """Which rows follow on the one before so that nothing of them hangs on a prediction, nor on a rule: bool [T].

    The first row, and the last `stepped`, are stepped whatever they are.
    """
    names = [feature.name for feature in manifest.features]
    seen = [names.index(name) for name in manifest.targets if manifest.features[names.index(name)].role == "target"]
    fine: Bools = np.logical_not(np.isnan(past.values[:, seen]).any(1))
    fine[0] = False
    fine[1:] &= _one_apart(past.time, policy)
    fine[max(0, len(past) - stepped) :] = False
    for start, stop in runs(fine):
        if stop - start < SEQUENCE_STEPS_MIN:
            fine[start:stop] = False
    return fine


def _one_apart(times: Times, policy: Policy) -> Bools:
    """Whether each row but the first lies one interval after the one before, or both have no time: bool [T - 1]."""
    timed = times != NO_TIME
    both, neither = timed[1:] & timed[:-1], ~timed[1:] & ~timed[:-1]
    later = both & (times[1:] > times[:-1])
    if policy.frequency and later.any():
        intervals = np.full(len(later), np.inf)
        intervals[later] = policy.frequency.intervals(times[:-1][later], times[1:][later])
        later &= (np.maximum(np.rint(intervals), 1.0) == 1.0) & (np.abs(intervals - 1.0) <= policy.time_tolerance)
    apart: Bools = later | neither
    return apart


def runs(marked: Bools) -> list[tuple[int, int]]:
    """Where the rows that are marked begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marked, [False]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def times_of(given: Times, last: int, frequency: Frequency) -> Times:
    """When rows of a sequence were that follow on a row of time `last`: an untimed one counts as one interval."""
    if not len(given) or given[0] != NO_TIME:
        return given
    if last == NO_TIME or not frequency:
        return np.full_like(given, last)
    times, time = given.copy(), np.array([last])
    for place in range(len(times)):
        time = frequency.add(time)
        times[place] = time[0]
    return times
