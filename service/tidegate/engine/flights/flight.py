"""A flight: one batch of one lane on its way, from the judgement of its rows to what their sessions remember.

`make_flight` judges and fills in, `Flight.run` steps (the only part that may take long; it touches nothing but the
slab's device columns, what is retained, and sessions that are revised), `commit` writes the host columns, `replies`
reads the answers from them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.flights.bridge import Gap, step_over
from tidegate.engine.judgement.imputation import Imputed, Memory
from tidegate.engine.judgement.rules import (
    ADVANCE,
    ANSWERED,
    DUPLICATE,
    KNOWN,
    REVISE,
    Observed,
    Remembered,
    Verdicts,
    digest,
    judge,
    times_after,
)
from tidegate.engine.memory.kept import Mark, keep, newest_time
from tidegate.engine.memory.slots import SPARE_SLOT, Refs, Slots, slots_of
from tidegate.engine.queues.lane import Lane, Queued
from tidegate.engine.replies import Replies, RowFlag
from tidegate.engine.step.stepper import StepBatch, StepResult
from tidegate.errors import Reason
from tidegate.model.frequency import NO_TIME

log = logging.getLogger(__name__)
Outcomes = NDArray[np.uint8]


class Revision(Protocol):
    """What is done for rows that come late, after the others are stepped; see `engine/flights/revision.py`."""

    expected_seconds: float

    def run(self) -> None:
        """Steps their sessions again, and says in the verdicts how it went."""
        ...


@dataclass
class Flight:
    """Rows are one a session. The batch, and what belongs to it, are of those that advance: `advancing` [n] places."""

    lane: Lane
    rows: Queued
    slots: Slots
    verdicts: Verdicts
    digest: NDArray[np.uint64]
    advancing: NDArray[np.int64]
    imputed: Imputed
    batch: StepBatch
    gap: Gap | None  # None when no row bridges a gap
    result: StepResult | None = None
    revision: Revision | None = None

    @property
    def refs(self) -> Refs:
        """References to the rows' sessions."""
        return self.rows.ref

    @property
    def duplicate(self) -> NDArray[np.bool_]:
        """Rows that are answered from their session's last reply, for they were taken before."""
        duplicate: NDArray[np.bool_] = (self.verdicts.ruling == DUPLICATE) | (self.verdicts.ruling == KNOWN)
        return duplicate

    @property
    def revised(self) -> NDArray[np.bool_]:
        """Rows that are no session's last step: their answer is what it predicts now."""
        revised: NDArray[np.bool_] = (self.verdicts.ruling == REVISE) | (self.verdicts.ruling == KNOWN)
        return revised

    @property
    def gaps(self) -> NDArray[np.int64]:
        """Steps that each advancing row bridges."""
        return self.verdicts.missing[self.advancing]

    @property
    def expected_seconds(self) -> float:
        """What the step will probably take."""
        again = self.revision.expected_seconds if self.revision is not None else 0.0
        if not len(self.batch):
            return again
        return self.lane.stepper.expected_seconds(len(self.batch)) * (1 + int(self.gaps.max())) + again

    def run(self) -> None:
        """The step. Changes the slab and nothing else of the engine."""
        if len(self.batch):
            self._step()
        if self.revision is not None:
            self.revision.run()

    def conclude(self, now: float) -> Replies:
        """Writes what the sessions remember; returns the answers."""
        return conclude(self, now)

    def _step(self) -> None:
        lane, memory = self.lane, self.lane.slab.device
        try:
            if lane.slab.schema.past:
                lane.slab.retain(self.batch.slots)
            if self.gap is None:
                self.result = lane.stepper.launch(self.batch, memory).collect()
            else:
                feedback, frequency = lane.imputation.feedback, lane.package.frequency
                self.result = step_over(lane.stepper, self.batch, self.gap, memory, feedback, frequency)
        except Exception:  # an allocation that fails, a device that is lost: these rows fail, the server goes on
            log.exception("the step of %d rows of %s failed", len(self.batch), lane.model)


def make_flight(lane: Lane, rows: Queued, now: float) -> Flight:
    """Judges the rows against their sessions and gathers what the step needs."""
    host = lane.slab.host
    alive = lane.slab.slots.alive(rows.ref)
    slots = np.where(alive, slots_of(rows.ref), SPARE_SLOT)
    refused = rows.refused
    refused[rows.deadline < now] = Reason.DEADLINE_EXCEEDED
    refused[rows.deadline == -np.inf] = Reason.CANCELLED
    refused[~alive & (refused != Reason.SESSION_MOVED)] = Reason.SESSION_NOT_FOUND
    marks = digest(rows.values, rows.time, rows.reset)
    verdicts = judge(
        Observed(rows.step, rows.time, marks, rows.reset, refused, rows.strict),
        Remembered(
            host["step"][slots],
            host["steps_seen"][slots],
            host["event_time"][slots],
            host["digest"][slots],
            host["diverged"][slots],
        ),
        lane.policy,
    )
    advancing = np.flatnonzero(verdicts.ruling == ADVANCE)
    going, fresh, missing = slots[advancing], rows.reset[advancing], verdicts.missing[advancing]
    seen = np.where(fresh, 0, host["steps_seen"][going])
    last = Memory(
        reply=host["reply"][going],
        last_input=host["last_input"][going],
        missing_run=host["missing_run"][going],
        blank=seen == 0,
        gap=missing,
    )
    imputed = lane.imputation.impute(rows.values[advancing], last)
    before = np.where(fresh, NO_TIME, host["event_time"][going])
    time = times_after(lane.package.frequency, rows.time[advancing], before, missing)
    identity = host["identity"][going] if "identity" in host else np.zeros(len(going), np.int32)
    targets = lane.imputation.feedback.targets
    ages = imputed.missing_run[:, targets] if lane.package.manifest.ages else None
    batch = StepBatch(going, imputed.values, fresh, seen, time, identity, ages)
    gap = None
    if missing.any():
        run = last.missing_run[:, targets]
        gap = Gap(missing, last.last_input, before, last.reply, imputed.predicted, run)
    return Flight(lane, rows, slots, verdicts, marks, advancing, imputed, batch, gap)


def conclude(flight: Flight, now: float) -> Replies:
    """`commit`, and the answers."""
    return replies(flight, commit(flight, now))


def commit(flight: Flight, now: float) -> Outcomes:
    """Writes the columns of rows whose step was taken; quarantines the others. Returns the rows' outcomes."""
    ruling = flight.verdicts.ruling
    outcome = np.where(ruling >= ANSWERED, Reason.OK, ruling).astype(np.uint8)
    result, host, slots = flight.result, flight.lane.slab.host, flight.batch.slots
    if not len(slots):
        return outcome
    if result is None:  # some states may have moved and others not: none of them can be trusted
        host["diverged"][slots] = flight.lane.slab.unsaved[slots] = True
        outcome[flight.advancing] = Reason.INTERNAL
        return outcome
    host["diverged"][slots] = ~result.finite
    flight.lane.slab.unsaved[slots] = True
    outcome[flight.advancing] = np.where(result.finite, Reason.OK, Reason.SESSION_DIVERGED)
    taken = slice(None) if result.finite.all() else np.flatnonzero(result.finite)
    slots, rows, gaps = slots[taken], flight.advancing[taken], flight.gaps[taken]
    imputed, batch = flight.imputed, flight.batch
    if flight.lane.slab.schema.past:
        flight.lane.slab.retained(slots)
    if flight.lane.slab.schema.kept_steps:
        marks = _marks(flight, rows, batch.seen[taken] == 0, host["step"][slots] > 0)
        keep(host, slots, flight.verdicts.step[rows], flight.rows.time[rows], marks, flight.rows.values[rows])
    host["step"][slots] = flight.verdicts.step[rows]
    host["steps_seen"][slots] = batch.seen[taken] + gaps + 1
    host["event_time"][slots] = batch.time[taken]
    host["digest"][slots] = flight.digest[rows]
    host["active_at"][slots] = now
    host["last_input"][slots] = imputed.values[taken]
    host["missing_run"][slots] = imputed.missing_run[taken]
    host["reply"][slots] = result.values[taken]
    host["reply_flags"][slots] = _flags(flight, rows, taken, gaps)
    host["reply_imputed"][slots] = np.packbits(imputed.missing[taken], axis=1, bitorder="little")
    host["reply_gap"][slots] = gaps
    return outcome


def replies(flight: Flight, outcome: Outcomes) -> Replies:
    """What the sessions remember now is the answer, for new steps and duplicates alike."""
    rows, slots, host = flight.rows, flight.slots, flight.lane.slab.host
    failed = outcome != Reason.OK
    values = host["reply"][slots]
    values[failed] = np.nan
    expected = flight.verdicts.expected
    expected[outcome == Reason.SESSION_NOT_FOUND] = 0
    flags, time, revised = host["reply_flags"][slots], rows.time, flight.revised
    if revised.any():
        flags = np.where(revised, flags & ~np.uint8(RowFlag.CREATED) | np.uint8(RowFlag.REVISED), flags)
        time = np.where(revised, newest_time(host, slots), time)
    return Replies(
        request=rows.request,
        row=rows.row,
        outcome=outcome,
        values=values,
        step=np.where(failed, 0, host["step"][slots]),
        expected=expected,
        steps_seen=host["steps_seen"][slots],
        flags=flags | flight.duplicate * np.uint8(RowFlag.DUPLICATE),
        imputed=host["reply_imputed"][slots],
        gap=host["reply_gap"][slots],
        valid_time=flight.lane.package.frequency.add(time),
        head=flight.lane.package.manifest.head,
    )


def _flags(
    flight: Flight, rows: NDArray[np.int64], taken: slice | NDArray[np.int64], gaps: NDArray[np.int64]
) -> NDArray[np.uint8]:
    imputed, policy = flight.imputed, flight.lane.package.manifest.gaps
    return (
        flight.rows.created[rows] * np.uint8(RowFlag.CREATED)
        | imputed.missing[taken].any(1) * np.uint8(RowFlag.IMPUTED)
        | (imputed.missing_run[taken] > policy.missing_steps_max).any(1) * np.uint8(RowFlag.STALE)
        | (gaps > 0) * np.uint8(RowFlag.GAP)
        | flight.rows.reset[rows] * np.uint8(RowFlag.RESET)
    )


def _marks(
    flight: Flight, rows: NDArray[np.int64], zero: NDArray[np.bool_], begun: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """What is kept of observations beside their values. `zero`: the state was zero; `begun`: not for the first time."""
    reset = flight.rows.reset[rows]
    return (
        reset * np.uint8(Mark.RESET)
        | flight.rows.created[rows] * np.uint8(Mark.CREATED)
        | (flight.rows.step[rows] > 0) * np.uint8(Mark.NUMBERED)
        | (zero & begun & ~reset) * np.uint8(Mark.ZEROED)
    )
