"""A flight: one batch of one lane on its way, from the judgement of its rows to what their sessions remember.

`make_flight` judges and fills in, `Flight.run` steps (the only part that may take long; it touches nothing but the
slab's device columns), `commit` writes the host columns, `replies` reads the answers from them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.bridge import Gap, step_over
from tidegate.engine.imputation import Imputed, Memory
from tidegate.engine.lane import Lane, Queued
from tidegate.engine.replies import Replies, RowFlag
from tidegate.engine.rules import ADVANCE, DUPLICATE, Observed, Remembered, Verdicts, digest, judge
from tidegate.engine.slots import SPARE_SLOT, Slots, slots_of
from tidegate.engine.stepper import StepBatch, StepResult
from tidegate.errors import Reason
from tidegate.model.frequency import NO_TIME, Times

log = logging.getLogger(__name__)
Outcomes = NDArray[np.uint8]


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

    @property
    def duplicate(self) -> NDArray[np.bool_]:
        """Rows that are answered from their session's last reply."""
        duplicate: NDArray[np.bool_] = self.verdicts.ruling == DUPLICATE
        return duplicate

    @property
    def gaps(self) -> NDArray[np.int64]:
        """Steps that each advancing row bridges."""
        return self.verdicts.missing[self.advancing]

    @property
    def expected_seconds(self) -> float:
        """What the step will probably take."""
        if not len(self.batch):
            return 0.0
        return self.lane.stepper.expected_seconds(len(self.batch)) * (1 + int(self.gaps.max()))

    def run(self) -> None:
        """The step. Changes the slab's device columns and nothing else of the engine."""
        if not len(self.batch):
            return
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
    refused[~alive] = Reason.SESSION_NOT_FOUND
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
    )
    imputed = lane.imputation.impute(rows.values[advancing], last)
    before = np.where(fresh, NO_TIME, host["event_time"][going])
    time = _times(lane, rows.time[advancing], before, missing)
    identity = host["identity"][going] if "identity" in host else np.zeros(len(going), np.int32)
    batch = StepBatch(going, imputed.values, fresh, seen, time, identity)
    gap = Gap(missing, last.last_input, before, last.reply, imputed.predicted) if missing.any() else None
    return Flight(lane, rows, slots, verdicts, marks, advancing, imputed, batch, gap)


def commit(flight: Flight, now: float) -> Outcomes:
    """Writes the columns of rows whose step was taken; quarantines the others. Returns the rows' outcomes."""
    outcome = np.where(flight.duplicate, Reason.OK, flight.verdicts.ruling).astype(np.uint8)
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
    return Replies(
        request=rows.request,
        row=rows.row,
        outcome=outcome,
        values=values,
        step=np.where(failed, 0, host["step"][slots]),
        expected=expected,
        steps_seen=host["steps_seen"][slots],
        flags=host["reply_flags"][slots] | flight.duplicate * np.uint8(RowFlag.DUPLICATE),
        imputed=host["reply_imputed"][slots],
        gap=host["reply_gap"][slots],
        valid_time=flight.lane.package.frequency.add(rows.time),
        head=flight.lane.package.manifest.head,
    )


def _times(lane: Lane, given: Times, before: Times, missing: NDArray[np.int64]) -> Times:
    """The observations' times; an untimed step, and each step bridged before it, counts as one interval."""
    untimed = given == NO_TIME
    if not untimed.any():
        return given
    assumed, frequency = before.copy(), lane.package.frequency
    if frequency:
        for steps in np.unique(missing).tolist():
            assumed[missing == steps] = frequency.add(before[missing == steps], steps + 1)
    return np.where(untimed, assumed, given)


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
