"""The session rules: what one observation does to its session. The only place where that is decided.

Whole columns at once: the first of the rules in `judge` that holds for a row decides it. Order matters: a retry of the
last step is answered even in quarantine (its reply is known), and an old step is refused even with a reset (a client
that sends a stretch again must not wipe what came after). Pure: no torch, no grpc, no asyncio.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import Reason
from tidegate.model.frequency import NO_TIME, Frequency

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_INTERVALS_MAX = 2.0**62  # more than any gap, and int64 holds it
ADVANCE, REVISE, KNOWN, DUPLICATE = 0, 253, 254, 255  # what `Verdicts.ruling` holds beside the numbers of reasons
ANSWERED = REVISE  # from here on all is well; see `engine/judgement/lateness.py` for REVISE and KNOWN


@dataclass(frozen=True)
class Policy:
    """What the model's package says about gaps. `gap_steps_max` 0 refuses them."""

    frequency: Frequency = field(default_factory=Frequency)
    gap_steps_max: int = 0
    time_tolerance: float = 0.5


@dataclass
class Observed:
    """Columns of the observations: one row a session. `refused` is a Reason known before (0: none)."""

    step: Ints
    time: Ints
    digest: NDArray[np.uint64]
    reset: Bools
    refused: NDArray[np.uint8]
    strict: Bools | None = None  # rows that may skip no step by their number; None: none of them


@dataclass
class Remembered:
    """Columns of their sessions."""

    step: Ints
    steps_seen: Ints
    time: Ints
    digest: NDArray[np.uint64]
    diverged: Bools


@dataclass
class Verdicts:
    """`ruling` [n]: ADVANCE, DUPLICATE or a Reason's number (later, REVISE or KNOWN: the observation comes late and
    takes its place, or had it already); `missing` [n]: steps to impute first; `step` [n]: the number that the
    observation gets if it advances; `expected` [n]: the number that its session expects now."""

    ruling: NDArray[np.uint8]
    missing: Ints
    step: Ints
    expected: Ints


def judge(observed: Observed, session: Remembered, policy: Policy) -> Verdicts:
    """Applies the rules to n rows of n different sessions."""
    expected = session.step + 1
    step = np.where(observed.step == 0, expected, observed.step)
    same_step = (step == session.step) & (session.step > 0)
    timed = (observed.time != NO_TIME) & (session.time != NO_TIME)
    remarkable = (step != expected) | (observed.refused != 0) | session.diverged | timed
    if not remarkable.any():  # the next step of a healthy session: no rule below can hold
        nothing = np.zeros(len(step), np.int64)
        return Verdicts(nothing.astype(np.uint8), nothing, step, expected)
    intervals, off_grid = _intervals(observed.time, session.time, timed, policy)
    missing = np.maximum(step - expected, intervals - 1)
    gap_max = np.where(session.steps_seen > 0, policy.gap_steps_max, 0)  # zero state has nothing to bridge with
    skipping = (step > expected) & (False if observed.strict is None else observed.strict)

    rules: tuple[tuple[NDArray[np.bool_], NDArray[np.uint8] | int], ...] = (
        (observed.refused != 0, observed.refused),
        (same_step & (observed.digest == session.digest), DUPLICATE),
        (same_step, Reason.STEP_CONFLICT),
        (step < expected, Reason.STEP_TOO_OLD),
        (observed.reset, ADVANCE),
        (skipping, Reason.STEP_GAP),
        (session.diverged, Reason.SESSION_DIVERGED),
        (timed & (observed.time <= session.time), Reason.TIME_NOT_INCREASING),
        (timed & off_grid, Reason.TIME_OFF_GRID),
        (missing > gap_max, Reason.STEP_GAP),
    )
    conditions, rulings = zip(*rules, strict=True)
    ruling = np.select(conditions, rulings, ADVANCE).astype(np.uint8)
    bridged = np.where((ruling == ADVANCE) & ~observed.reset, missing, 0)
    return Verdicts(ruling, bridged, step, expected)


def _intervals(time: Ints, last: Ints, timed: Bools, policy: Policy) -> tuple[Ints, Bools]:
    """Whole intervals between the times (1 where there are no times, or no frequency), and which are off the grid."""
    if not policy.frequency or not timed.any():
        return np.ones(len(time), np.int64), np.zeros(len(time), bool)
    later = np.where(timed, time, 0)
    earlier = np.where(timed, last, 0)
    exact = np.where(timed, policy.frequency.intervals(earlier, later), 1.0)
    whole = np.maximum(np.rint(exact), 1.0)
    return np.minimum(whole, _INTERVALS_MAX).astype(np.int64), np.abs(exact - whole) > policy.time_tolerance


def times_after(frequency: Frequency, given: Ints, before: Ints, missing: Ints) -> Ints:
    """The observations' times; an untimed step, and each step bridged before it, counts as one interval."""
    untimed = given == NO_TIME
    if not untimed.any():
        return given
    assumed = before.copy()
    if frequency:
        for steps in np.unique(missing).tolist():
            assumed[missing == steps] = frequency.add(before[missing == steps], steps + 1)
    return np.where(untimed, assumed, given)


def digest(values: NDArray[np.float64], times: Ints, resets: Bools) -> NDArray[np.uint64]:
    """An 8-byte hash of each observation [n]: its values [n, features], time and reset.

    Each value is mixed (the finalizer of MurmurHash3) with a key of its column, and the sum is mixed with the rest.
    All NaNs count as the same, and -0.0 as 0.0.
    """
    clean = np.where(np.isnan(values), np.nan, values + 0.0)
    words = np.ascontiguousarray(clean).view(np.uint64)
    keys = np.arange(1, words.shape[1] + 1, dtype=np.uint64) * _GOLDEN
    total = _mix(words ^ keys).sum(axis=1, dtype=np.uint64)
    return _mix(total ^ (_mix(times.astype(np.uint64)) + resets))


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    return (state ^ (state >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53) + np.uint64(1)
