"""The session rules as anyone would write them for one session at a time: the judge of the engine's columns.

Plain Python and the float64 reference; nothing of the engine is used. Slow and obvious. Times are ns, None: no time;
values are floats, None: missing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tidegate.model import reference
from tidegate.model.package import Package

HOUR = 3_600_000_000_000
INTERVALS = {"": 0, "8ns": 8, "h": HOUR}
HUGE = 1e300  # overflows float32: a step that takes it (but for a feature that is scaled by log1p) is not finite

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Rules:
    """What the model says about gaps. `between` counts the intervals between two times; None: there is no grid."""

    gap_max: int = 0
    tolerance: float = 0.5
    between: Callable[[int, int], Fraction] | None = None


def every(nanoseconds: int) -> Callable[[int, int], Fraction] | None:
    """Counts intervals of a fixed length."""
    return (lambda start, end: Fraction(end - start, nanoseconds)) if nanoseconds else None


@dataclass
class Known:
    """What a session remembers, as far as the rules ask."""

    step: int = 0
    steps_seen: int = 0
    time: int | None = None
    diverged: bool = False


def decide(step: int, time: int | None, same: bool, reset: bool, session: Known, rules: Rules) -> tuple[str, int]:
    """What becomes of an observation (`same`: it is the last one again), and how many steps are bridged before it."""
    number = step or session.step + 1
    if session.step and number == session.step:
        return ("DUPLICATE" if same else "STEP_CONFLICT"), 0
    if number <= session.step:
        return "STEP_TOO_OLD", 0
    if reset:
        return "ADVANCE", 0
    if session.diverged:
        return "SESSION_DIVERGED", 0
    missing = number - session.step - 1
    if time is not None and session.time is not None:
        if time <= session.time:
            return "TIME_NOT_INCREASING", 0
        if rules.between is not None:
            intervals = rules.between(session.time, time)
            whole = max(1, round(intervals))
            if abs(intervals - whole) > Fraction(rules.tolerance):
                return "TIME_OFF_GRID", 0
            missing = max(missing, whole - 1)
    if missing > (rules.gap_max if session.steps_seen else 0):
        return "STEP_GAP", 0
    return "ADVANCE", missing


@dataclass(frozen=True)
class Row:
    """One observation as a client sends it."""

    session: str
    values: Values
    step: int = 0
    time: int | None = None
    reset: bool = False

    def same_input(self, other: Row | None) -> bool:
        return other is not None and (self.values, self.time, self.reset) == (other.values, other.time, other.reset)


@dataclass(frozen=True)
class Expected:
    """The reply to a row. `scaled` is the prediction in training units; None where the row failed."""

    reason: str
    scaled: NDArray[np.float64] | None = None
    step: int = 0
    expected: int = 0
    steps_seen: int = 0
    flags: frozenset[str] = frozenset()
    imputed: tuple[int, ...] = ()
    gap: int = 0
    valid_time: int | None = None


@dataclass
class PlainSession(Known):
    """One session. `inputs` are the model's inputs since its state was zero, `history` the rows behind them."""

    active_at: float = 0.0
    inputs: list[tuple[float, ...]] = field(default_factory=list)
    missing_run: list[int] = field(default_factory=list)
    last: Row | None = None
    reply: Expected | None = None
    history: list[Row] = field(default_factory=list)
    bits: list[bytes] = field(default_factory=list)  # what the server under test answered to `history`; b"": not known
    taken: list[Taken] = field(default_factory=list)  # the last observations, where the model allows for late ones

    def to_zero(self) -> None:
        """What a reset does: the numbering, the last row and its reply stay."""
        self.inputs, self.missing_run, self.history, self.bits = [], [], [], []
        self.steps_seen, self.time, self.diverged = 0, None, False


@dataclass(eq=False)
class Taken:
    """An observation that was taken: the session before it, its number, the time after it (None: none), whether it
    opened the session, and whether a command had set the state to zero before it."""

    before: PlainSession
    row: Row
    created: bool
    zeroed: bool
    number: int
    time: int | None


class PlainModel:
    """All sessions of one model, by name."""

    def __init__(self, package: Package) -> None:
        manifest = package.manifest
        self.package = package
        self.interval = INTERVALS[manifest.frequency]
        gap_max = manifest.gaps.gap_steps_max if manifest.gaps.policy == "impute" else 0
        self.rules = Rules(gap_max, manifest.gaps.time_tolerance, every(self.interval))
        self.lateness, self.retained = manifest.lateness_steps, manifest.rewind_steps
        self.missing_steps_max = manifest.gaps.missing_steps_max
        self.targets = [package.feature_names.index(target) for target in manifest.targets]
        self.means = tuple(
            math.copysign(math.exp(abs(f.scaling.center)) - 1, f.scaling.center)
            if f.scaling.transform == "log1p"
            else f.scaling.center
            for f in manifest.features
        )
        self.sessions: dict[str, PlainSession] = {}
        self._predict = lru_cache(maxsize=20_000)(self._reference)

    def open(self, names: Sequence[str], now: float, room: int) -> list[str]:
        """Opens the names that are new, in order, while there is room; returns those."""
        opened: list[str] = []
        for name in names:
            if name not in self.sessions and len(opened) < room:
                self.sessions[name] = PlainSession(active_at=now)
                opened.append(name)
        return opened

    def fork(self, name: str, new_name: str, now: float) -> None:
        self.sessions[new_name] = copy.deepcopy(self.sessions[name])
        self.sessions[new_name].active_at = now

    def sweep(self, now: float, idle_max: float) -> int:
        """Drops those idle for too long."""
        idle = [name for name, session in self.sessions.items() if now - session.active_at > idle_max]
        for name in idle:
            del self.sessions[name]
        return len(idle)

    def step(self, row: Row, created: bool, now: float) -> Expected:
        """One observation of a session that lives."""
        session = self.sessions[row.session]
        expected = session.step + 1
        infinite = any(x is not None and math.isinf(x) for x in row.values)
        if infinite or len(row.values) != len(self.package.feature_names):
            return Expected("BAD_OBSERVATION", expected=expected)
        same = row.same_input(session.last)
        ruling, missing = decide(row.step, row.time, same, row.reset, session, self.rules)
        if ruling == "DUPLICATE":
            assert session.reply is not None
            return self._again(session.reply, row, session)
        if self.lateness and _is_late(ruling, row):
            return self._late(session, row, ruling, now)
        if ruling != "ADVANCE":
            return Expected(ruling, expected=expected)
        if HUGE in row.values:
            session.diverged = True
            return Expected("SESSION_DIVERGED", expected=expected)
        self._advance(session, row, created, missing)
        session.active_at = now
        assert session.reply is not None
        return session.reply

    def _late(self, session: PlainSession, row: Row, ruling: str, now: float) -> Expected:
        """An observation that may have a place among the last ones: they are all taken again, from before it."""
        refused = Expected(ruling, expected=session.step + 1)
        later = _from(session.taken[-self.lateness :], row)
        if not later:
            return refused
        first = later[0]
        replaces = (first.number == row.step) if row.step else (first.time == row.time)
        earlier = first.before
        if row.same_input(first.row if replaces else None) or (
            not replaces
            and (earlier.step == row.step if row.step else earlier.time == row.time)
            and row.same_input(earlier.last)
        ):
            assert session.reply is not None
            return replace(self._again(session.reply, row, session), flags=_late_flags(session.reply) | {"DUPLICATE"})
        passed = later[1:] if replaces else later
        if not row.step and any(event.row.reset or event.zeroed for event in passed):
            return refused
        number = row.step or (first.number if replaces else earlier.step + 1)
        if (not replaces and row.step and earlier.step >= row.step) or number < session.step - self.lateness:
            return refused
        if session.diverged:
            return refused
        if replaces and first.row.step and not row.step:
            row = replace(row, step=first.number)
        sequence = [(row, first.created, False)]
        sequence += [(event.row, event.created and event is not first, event.zeroed) for event in passed]
        return self._retake(session, first, sequence, now)

    def _retake(
        self, session: PlainSession, first: Taken, sequence: list[tuple[Row, bool, bool]], now: float
    ) -> Expected:
        """All of the sequence, from before `first`; or the reason of what cannot be taken."""
        trial, finite = copy.deepcopy(first.before), [HUGE not in row.values for row, _, _ in sequence]
        trial.taken = session.taken[: session.taken.index(first)]
        for place, (row, created, zeroed) in enumerate(sequence):
            if zeroed:
                trial.to_zero()
            ruling, missing = decide(row.step, row.time, False, row.reset, trial, self.rules)
            if ruling != "ADVANCE":
                by_time = place and not sequence[0][0].step
                return Expected("TIME_NOT_INCREASING" if by_time else ruling, expected=session.step + 1)
            self._advance(trial, row, created, missing)
        if not all(finite):
            session.diverged, session.taken = True, []  # not what led to where it is
            return Expected("SESSION_DIVERGED", expected=session.step + 1)
        trial.bits += [b""] * (len(trial.history) - 1 - len(trial.bits))
        if session.steps_seen == 0:
            trial.to_zero()
        trial.active_at = now
        session.__dict__.update(trial.__dict__)
        assert session.reply is not None
        return replace(session.reply, steps_seen=session.steps_seen, flags=_late_flags(session.reply))

    def _advance(self, session: PlainSession, row: Row, created: bool, missing: int) -> None:
        before = replace(session, taken=[])
        if self.lateness:
            before = copy.deepcopy(before)
        zeroed = session.steps_seen == 0 and session.step > 0 and not row.reset
        if row.reset:
            session.to_zero()
        for _ in range(missing):
            session.inputs.append(self._fed_back(session))
            session.missing_run = [run + 1 for run in session.missing_run]
        complete, imputed = self._complete(session, row)
        session.inputs.append(complete)
        session.steps_seen += missing + 1
        session.step = row.step or session.step + 1
        if row.time is not None:
            session.time = row.time
        elif session.time is not None:
            session.time += (missing + 1) * self.interval
        flags = {
            "CREATED": created,
            "IMPUTED": bool(imputed),
            "STALE": max(session.missing_run) > self.missing_steps_max,
            "GAP": missing > 0,
            "RESET": row.reset,
        }
        session.last = row
        session.history.append(replace(row, step=session.step))
        session.reply = Expected(
            reason="OK",
            scaled=self._predict(tuple(session.inputs))[0],
            step=session.step,
            steps_seen=session.steps_seen,
            flags=frozenset(name for name, holds in flags.items() if holds),
            imputed=imputed,
            gap=missing,
            valid_time=row.time + self.interval if row.time is not None and self.interval else None,
        )
        if self.lateness:
            session.taken.append(Taken(before, row, created, zeroed, session.step, session.time))
            session.taken = session.taken[-self.retained :]

    def _again(self, reply: Expected, row: Row, session: PlainSession) -> Expected:
        flags = reply.flags | {"DUPLICATE"}
        return Expected(
            "OK", reply.scaled, reply.step, 0, session.steps_seen, flags, reply.imputed, reply.gap, reply.valid_time
        )

    def _fed_back(self, session: PlainSession) -> tuple[float, ...]:
        """The input of a step that is bridged: the targets as predicted, the others as they were."""
        stand_in = list(session.inputs[-1])
        for place, value in zip(self.targets, self._predict(tuple(session.inputs))[1].tolist(), strict=True):
            stand_in[place] = value
        return tuple(stand_in)

    def _complete(self, session: PlainSession, row: Row) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """The row's values with stand-ins for those that are missing, and which those are."""
        stand_ins = self._fed_back(session) if session.inputs else self.means
        runs = session.missing_run or [0] * len(stand_ins)
        session.missing_run = [run + 1 if x is None else 0 for run, x in zip(runs, row.values, strict=True)]
        complete = tuple(s if x is None else x for s, x in zip(stand_ins, row.values, strict=True))
        return complete, tuple(place for place, x in enumerate(row.values) if x is None)

    def _reference(self, inputs: tuple[tuple[float, ...], ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The last prediction, in training units and raw."""
        predictions = reference.predict(self.package, np.array(inputs))
        return predictions.scaled[-1], predictions.raw[-1]


def _is_late(ruling: str, row: Row) -> bool:
    """Whether there may be a place for it further back."""
    return ruling in ("STEP_TOO_OLD", "STEP_CONFLICT") or (ruling == "TIME_NOT_INCREASING" and not row.step)


def _late_flags(reply: Expected) -> frozenset[str]:
    """Flags of an answer that is about the last step, not the one that was sent."""
    return reply.flags - {"CREATED"} | {"REVISED"}


def _from(taken: list[Taken], row: Row) -> list[Taken]:
    """The last observations that are not before the row: by number, or without one by time."""
    later: list[Taken] = []
    for event in reversed(taken):
        after = event.number >= row.step if row.step else event.time is not None and event.time >= (row.time or 0)
        if not after:
            break
        later.insert(0, event)
    return later
