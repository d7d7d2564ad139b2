"""Warming: histories of one version, taken by copies of their sessions.

A copy is a row of a slab of its own, so that every step is a flight like any other: what a copy is in the end is,
column by column, what its session would be had it been stepped. Only a stretch of rows that hang on no prediction is
taken as a sequence: by the stepper, step by step, where it can; else by a kernel of its own, if the history need not be
exact. The columns that flights write are then brought up to date here, but for those that a flight overwrites: a
sequence is always followed by one, and by as many as can be gone back to.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.flights.flight import commit, make_flight
from tidegate.engine.histories.history import Past, in_sequence, times_of
from tidegate.engine.judgement.rules import ADVANCE
from tidegate.engine.memory.kept import Mark, keep
from tidegate.engine.memory.slab import Slab
from tidegate.engine.memory.slots import Refs, Slots, slots_of
from tidegate.engine.queues.lane import Lane, Queued
from tidegate.errors import Reason
from tidegate.model.frequency import Times

SEQUENCE_SECONDS = 1e-2  # of one call: live rows wait no longer for it; of a large model, weights are packed in each
SEQUENCE_STEPS_MIN, SEQUENCE_STEPS_MAX = 8, 1024  # of one call

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Warmed:
    """One history on its way: the rows that are to be taken, whether the first opens its session, whether they may skip
    no step, and how far it is. `failed` is the row that was not taken."""

    past: Past
    created: bool
    strict: bool
    at: int = 0
    outcome: Reason = Reason.OK
    failed: int = 0
    sequence: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def going(self) -> bool:
        """Whether there is more to take."""
        return self.outcome is Reason.OK and self.at < len(self.past)


class Warming:
    """Histories of one version, of sessions in `slots` of its slab. `steps` takes them; `slab` then holds the copies,
    in `places`."""

    def __init__(self, lane: Lane, histories: Sequence[Warmed], slots: Slots, exact: bool, now: float) -> None:
        self.histories, self._exact, self._now = histories, exact, now
        source = lane.slab
        self.slab, self._refs = _room(lane, len(histories), now)
        self.places = slots_of(self._refs)
        self.slab.copy(self.places, source, slots, [column.name for column in source.schema.columns])
        self._source = lane
        self._lane = copy.copy(lane)
        self._lane.slab = self.slab
        self._pace = lane.stepper.expected_seconds(1)  # seconds of one step of a sequence

    def end(self) -> None:
        """The copies are not needed any more."""
        if len(self.histories) == 1:
            self._source.spare = self.slab, self._refs

    def steps(self) -> Iterator[None]:
        """Does the work; yields after each launch."""
        manifest = self._lane.package.manifest
        exactly = self._source.stepper.by_address
        stepwise = not exactly and (self._exact or self._source.sequence is None)
        for history in self.histories:
            stepped = len(history.past) if stepwise else 1 + manifest.rewind_steps
            history.sequence = in_sequence(history.past, manifest, self._lane.policy, stepped)
        while going := [place for place, history in enumerate(self.histories) if history.going]:
            for place in going:
                yield from self._take_sequence(self.histories[place], int(self.places[place]))
            self._fly([place for place in going if self.histories[place].going])
            yield

    def _fly(self, going: list[int]) -> None:
        """The next row of each of these."""
        histories = [self.histories[place] for place in going]
        if not histories:
            return
        flight = make_flight(self._lane, _queued(histories, self._refs[going]), self._now)
        ruling = flight.verdicts.ruling.copy()
        flight.run()
        for history, ruled, outcome in zip(histories, ruling.tolist(), commit(flight, self._now).tolist(), strict=True):
            if outcome == Reason.OK and ruled == ADVANCE:
                history.at += 1
                continue
            diverged = outcome == Reason.SESSION_DIVERGED and ruled == ADVANCE
            history.outcome = Reason.HISTORY_DIVERGED if diverged else Reason(outcome)
            history.failed = history.at

    def _take_sequence(self, history: Warmed, slot: int) -> Iterator[None]:
        """All rows up to the next one that is to be stepped."""
        while history.going and history.sequence[history.at]:
            rest = history.sequence[history.at :]
            end = len(rest) if rest.all() else int(rest.argmin())
            steps = int(SEQUENCE_SECONDS / max(self._pace, 1e-9))
            stop = history.at + min(end, max(SEQUENCE_STEPS_MIN, min(steps, SEQUENCE_STEPS_MAX)))
            started = time.perf_counter()
            self._advance(history, slot, slice(history.at, stop))
            self._pace = (time.perf_counter() - started) / (stop - history.at) if stop > history.at else self._pace
            history.at = stop
            yield

    def _advance(self, history: Warmed, slot: int, rows: slice) -> None:
        """Takes some rows at once."""
        lane, host = self._lane, self.slab.host
        values, run = lane.imputation.carry(
            history.past.values[rows], host["last_input"][slot], host["missing_run"][slot]
        )
        times = times_of(history.past.time[rows], int(host["event_time"][slot]), lane.package.frequency)
        seen = int(host["steps_seen"][slot])
        identity = int(host["identity"][slot]) if "identity" in host else 0
        reply, failed = self._run(values, times, seen, identity, slot)
        if failed is not None:
            history.outcome, history.failed = Reason.HISTORY_DIVERGED, rows.start + failed
            return
        if self.slab.schema.kept_steps:
            self._keep(history, slot, rows)
        count = len(times)
        host["step"][slot] += count
        host["steps_seen"][slot] = seen + count
        host["event_time"][slot] = times[-1]
        host["last_input"][slot], host["missing_run"][slot] = values[-1], run
        host["reply"][slot] = reply

    def _run(
        self, values: NDArray[np.float64], times: Times, seen: int, identity: int, slot: int
    ) -> tuple[NDArray[np.float64], int | None]:
        """The last prediction, and which row is not finite, if one is not."""
        source, memory = self._source, self.slab.device
        if source.stepper.by_address:
            reply, taken = source.stepper.run(values, memory, slot)
            return reply, taken if taken < len(values) else None
        assert source.sequence is not None
        outputs, failed = source.sequence.run(values, times, seen, identity, memory, slot)
        return outputs[-1], failed

    def _keep(self, history: Warmed, slot: int, rows: slice) -> None:
        """The last of the rows are among the observations that the session keeps."""
        past, before = history.past, int(self.slab.host["step"][slot])
        place = np.array([slot])
        for row in range(max(rows.start, rows.stop - self.slab.schema.kept_steps), rows.stop):
            one = slice(row, row + 1)
            marks = np.where(past.step[one] > 0, int(Mark.NUMBERED), 0).astype(np.uint8)
            step = np.array([before + 1 + row - rows.start])
            keep(self.slab.host, place, step, past.time[one], marks, past.values[one])


def _room(lane: Lane, sessions: int, now: float) -> tuple[Slab, Refs]:
    """Rows for the copies of so many sessions, in a slab of their own. That of one is kept for the next one: making it
    costs as much as some hundred steps."""
    source = lane.slab
    if sessions == 1 and lane.spare is not None:
        (slab, refs), lane.spare = lane.spare, None
        slab.next_turn[slots_of(refs)] = 0
        return slab, refs
    slab = Slab(source.number, source.schema, sessions + 1, str(source.device["state"].device))
    return slab, slab.open([b""] * sessions, lane.number, 0, now)


def _queued(histories: Sequence[Warmed], refs: NDArray[np.int64]) -> Queued:
    """The next row of each, as if it had come alone."""
    count = len(histories)
    first = np.array([history.at == 0 for history in histories])

    def column(name: str) -> NDArray[Any]:
        return np.stack([getattr(history.past, name)[history.at] for history in histories])

    return Queued(
        ref=refs,
        request=np.zeros(count, np.int64),
        row=np.arange(count, dtype=np.int32),
        step=column("step"),
        time=column("time"),
        reset=column("reset"),
        created=first & np.array([history.created for history in histories]),
        refused=np.zeros(count, np.uint8),
        deadline=np.full(count, np.inf),
        arrived=np.zeros(count),
        values=column("values"),
        strict=np.array([history.strict for history in histories]),
    )
