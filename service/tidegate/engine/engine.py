"""The engine: rows in, one batched step, replies out. Sans-I/O, one writer.

An iteration is `prepare` (admit what came, choose a batch, apply the session rules), `run` (the step: the only part
that may take long, and that touches nothing but the state slab), and `finish` (commit columns, make replies).
Whoever hosts it calls these in turn, from one thread at a time; `run` may be in another thread meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.engine import commands
from tidegate.engine.admission import Admission
from tidegate.engine.catalog import Catalog
from tidegate.engine.imputation import Imputed, Memory, impute
from tidegate.engine.inbox import Inbox
from tidegate.engine.lane import Lane, Queued
from tidegate.engine.replies import STREAM_SHIFT, Replies, RowFlag, refusals
from tidegate.engine.rules import ADVANCE, DUPLICATE, Observed, Remembered, Verdicts, digest, judge
from tidegate.engine.sessions import Sessions
from tidegate.engine.slots import SPARE_SLOT, Slots, slots_of
from tidegate.engine.stepper import TILE_ROWS, StepBatch, StepResult
from tidegate.errors import Reason
from tidegate.metrics import Metrics
from tidegate.model.frequency import NO_TIME

log = logging.getLogger(__name__)


@dataclass
class Flight:
    """One iteration's batch of one lane, on its way. Rows are one a session."""

    lane: Lane
    rows: Queued
    slots: Slots
    verdicts: Verdicts
    digest: NDArray[np.uint64]
    imputed: Imputed  # of the rows that advance
    advancing: NDArray[np.int64]  # their places in `rows`
    batch: StepBatch  # of the rows that advance
    result: StepResult | None = None

    @property
    def expected_seconds(self) -> float:
        if not len(self.batch):
            return 0.0
        return self.lane.stepper.expected_seconds(len(self.batch)) * (1 + int(self.batch.gaps.max()))

    def run(self) -> None:
        """The step. Changes the slab's state and nothing else of the engine."""
        if len(self.batch):
            try:
                self.result = self.lane.stepper.launch(self.batch, self.lane.slab.device["state"]).collect()
            except Exception:  # an allocation that fails, a device that is lost: these rows fail, the server goes on
                log.exception("the step of %d rows of %s failed", len(self.batch), self.lane.model)


class Engine:
    """All sessions of this process. `inbox` takes rows; `outbox` holds replies until the host takes them."""

    def __init__(
        self, catalog: Catalog, sessions: Sessions, inbox: Inbox, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self.catalog = catalog
        self.sessions = sessions
        self.inbox = inbox
        self.outbox: list[Replies] = []
        self._metrics = metrics
        self._clock = clock
        self._admission = Admission(catalog, sessions)
        self._turn = 0

    @property
    def waiting(self) -> bool:
        """Whether there is anything for `prepare` to do."""
        return bool(self.inbox) or any(len(lane.queue) for lane in self.catalog.lanes.values())

    def execute(self, command: commands.Command) -> object:
        """Carries out a command; raises TidegateError. Not while a flight is in the air."""
        sessions, now = self.sessions, self._clock()
        match command:
            case commands.OpenSessions(tenant, model, version, ids):
                return sessions.open_many(tenant, self.catalog.resolve(model, version), ids, now)
            case commands.ResetSessions(tenant, model, ids):
                return sessions.reset_many(tenant, model, ids)
            case commands.CloseSessions(tenant, model, ids):
                return sessions.close_many(tenant, model, ids)
            case commands.GetSession(tenant, model, session_id):
                return sessions.info(tenant, model, session_id, now)
            case commands.ForkSession(tenant, model, session_id, new_id):
                return sessions.fork(tenant, model, session_id, new_id, now)
            case commands.ListSessions(tenant, wanted, cursor, size):
                return sessions.list(tenant, wanted, cursor, size, now)
            case commands.CancelStream(stream):
                self._cancel(stream)
                return None
            case commands.Sweep():
                return sessions.sweep(now)

    def prepare(self) -> Flight | None:
        """Admits what is in the inbox and makes up the next batch; None when there is none."""
        for block in self.inbox.take():
            try:
                refused = self._admission.admit(block, self._clock())
            except Exception:  # out of memory, say: these rows fail, the server goes on
                log.exception("%d rows of %s could not be admitted", len(block), block.scope.model)
                refused = self._failed(block.request, block.row)
            if refused is not None:
                self._send(refused, block.scope.model)
                self.inbox.done(len(refused))
        lane = self._next_lane()
        if lane is None:
            return None
        rows = lane.queue.take(self._rows_max(lane))
        try:
            return self._flight(lane, rows)
        except Exception:
            log.exception("a batch of %d rows of %s could not be made up", len(rows), lane.model)
            self._give_up(rows, lane)
            return None

    def finish(self, flight: Flight) -> None:
        """Commits the columns of what advanced, and puts the replies to all rows into the outbox."""
        try:
            self._finish(flight)
        except Exception:
            log.exception("a batch of %d rows of %s could not be answered", len(flight.rows), flight.lane.model)
            flight.lane.slab.host["diverged"][flight.batch.slots] = True
            self._give_up(flight.rows, flight.lane)

    def _finish(self, flight: Flight) -> None:
        duplicate = flight.verdicts.ruling == DUPLICATE
        outcome = np.where(duplicate, Reason.OK, flight.verdicts.ruling).astype(np.uint8)
        if len(flight.advancing):
            outcome[flight.advancing] = self._commit(flight)
        self._send(self._replies(flight, outcome, duplicate), flight.lane.model)
        self._metrics.end_to_end.observe(self._clock() - flight.rows.arrived)
        self.inbox.done(len(flight.rows))
        if flight.lane.retired:
            self.catalog.drop_unused()

    def _give_up(self, rows: Queued, lane: Lane) -> None:
        self._send(self._failed(rows.request, rows.row), lane.model)
        self.inbox.done(len(rows))

    @staticmethod
    def _failed(request: NDArray[np.int64], row: NDArray[np.int32]) -> Replies:
        return refusals(request, row, np.full(len(request), Reason.INTERNAL, np.uint8))

    def _next_lane(self) -> Lane | None:
        """The lane whose turn it is: lanes with work take turns."""
        waiting = [lane for lane in self.catalog.lanes.values() if len(lane.queue)]
        if not waiting:
            return None
        later = [lane for lane in waiting if lane.number > self._turn]
        lane = min(later or waiting, key=lambda lane: lane.number)
        self._turn = lane.number
        return lane

    def _rows_max(self, lane: Lane) -> int:
        """The row limit; when other lanes wait, no more rows than fit into a turn."""
        limits = self.catalog.limits
        others = any(len(other.queue) for other in self.catalog.lanes.values() if other is not lane)
        if not others:
            return limits.batch_rows_max
        affordable = limits.batch_rows_max
        while affordable > TILE_ROWS and lane.stepper.expected_seconds(affordable) > limits.batch_seconds_max:
            affordable //= 2
        return affordable

    def _flight(self, lane: Lane, rows: Queued) -> Flight:
        """Judges the rows against their sessions and gathers what the step needs."""
        now = self._clock()
        alive = lane.slab.slots.alive(rows.ref)
        slots = np.where(alive, slots_of(rows.ref), SPARE_SLOT)
        refused = rows.refused
        refused[rows.deadline < now] = Reason.DEADLINE_EXCEEDED
        refused[rows.deadline == -np.inf] = Reason.CANCELLED
        refused[~alive] = Reason.SESSION_NOT_FOUND
        host = lane.slab.host
        marks = digest(rows.values, rows.time, rows.reset)
        verdicts = judge(
            Observed(rows.step, rows.time, marks, rows.reset, refused),
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
        going = slots[advancing]
        fresh = rows.reset[advancing]
        memory = Memory(
            reply=host["reply"][going],
            last_input=host["last_input"][going],
            missing_run=host["missing_run"][going],
            blank=fresh | (host["steps_seen"][going] == 0),
        )
        imputed = impute(rows.values[advancing], memory, lane.package.target_indices, lane.means)
        batch = StepBatch(
            slots=going,
            inputs=imputed.values,
            fresh=fresh,
            gaps=verdicts.missing[advancing],
            last_inputs=memory.last_input,
            last_replies=memory.reply,
            missing=imputed.missing,
        )
        self._metrics.queue_wait.observe(now - rows.arrived)
        return Flight(lane, rows, slots, verdicts, marks, imputed, advancing, batch)

    def _commit(self, flight: Flight) -> NDArray[np.uint8]:
        """Writes the columns of rows whose step was taken; quarantines the others. Returns the outcomes."""
        result, host = flight.result, flight.lane.slab.host
        slots, rows = flight.batch.slots, flight.advancing
        if result is None:  # some states may have moved and others not: none of them can be trusted
            host["diverged"][slots] = True
            return np.full(len(rows), Reason.INTERNAL, np.uint8)
        self._metrics.batch_rows.observe(np.array([float(len(rows))]))
        self._metrics.step_seconds.observe(np.array([result.seconds]))
        host["diverged"][slots] = ~result.finite
        taken = slice(None) if result.finite.all() else np.flatnonzero(result.finite)
        slots, rows = slots[taken], rows[taken]
        fresh, gaps = flight.batch.fresh[taken], flight.batch.gaps[taken]
        imputed = flight.imputed
        host["step"][slots] = flight.verdicts.step[rows]
        host["steps_seen"][slots] = np.where(fresh, 0, host["steps_seen"][slots]) + gaps + 1
        host["event_time"][slots] = self._event_times(flight, rows, slots, taken)
        host["digest"][slots] = flight.digest[rows]
        host["active_at"][slots] = self._clock()
        host["last_input"][slots] = imputed.values[taken]
        host["missing_run"][slots] = imputed.missing_run[taken]
        host["reply"][slots] = result.values[taken]
        host["reply_flags"][slots] = self._flags(flight, rows, taken, gaps)
        host["reply_imputed"][slots] = np.packbits(imputed.missing[taken], axis=1, bitorder="little")
        host["reply_gap"][slots] = gaps
        return np.where(result.finite, Reason.OK, Reason.SESSION_DIVERGED).astype(np.uint8)

    @staticmethod
    def _event_times(
        flight: Flight, rows: NDArray[np.int64], slots: Slots, taken: slice | NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The observations' times; an untimed step, and each step bridged before it, counts as one interval."""
        given, fresh, gaps = flight.rows.time[rows], flight.batch.fresh[taken], flight.batch.gaps[taken]
        assumed = np.where(fresh, NO_TIME, flight.lane.slab.host["event_time"][slots])
        frequency = flight.lane.package.frequency
        if frequency:
            for missing in np.unique(gaps).tolist():
                assumed[gaps == missing] = frequency.add(assumed[gaps == missing], missing + 1)
        return np.where(given == NO_TIME, assumed, given)

    @staticmethod
    def _flags(
        flight: Flight, rows: NDArray[np.int64], taken: slice | NDArray[np.int64], gaps: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        imputed, gap_policy = flight.imputed, flight.lane.package.manifest.gaps
        return (
            flight.rows.created[rows] * np.uint8(RowFlag.CREATED)
            | imputed.missing[taken].any(1) * np.uint8(RowFlag.IMPUTED)
            | (imputed.missing_run[taken] > gap_policy.missing_steps_max).any(1) * np.uint8(RowFlag.STALE)
            | (gaps > 0) * np.uint8(RowFlag.GAP)
            | flight.rows.reset[rows] * np.uint8(RowFlag.RESET)
        )

    def _replies(self, flight: Flight, outcome: NDArray[np.uint8], duplicate: NDArray[np.bool_]) -> Replies:
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
            flags=host["reply_flags"][slots] | duplicate * np.uint8(RowFlag.DUPLICATE),
            imputed=host["reply_imputed"][slots],
            gap=host["reply_gap"][slots],
            valid_time=flight.lane.package.frequency.add(rows.time),
        )

    def _send(self, replies: Replies, model: str) -> None:
        """Into the outbox, counted by outcome."""
        self.outbox.append(replies)
        counts = np.bincount(replies.outcome)
        again = int(((replies.outcome == 0) & (replies.flags & RowFlag.DUPLICATE != 0)).sum())
        for outcome in np.flatnonzero(counts).tolist():
            self._metrics.steps[model, Reason(outcome).name] += int(counts[outcome])
        if again:
            self._metrics.steps[model, "DUPLICATE"] += again
            self._metrics.steps[model, "OK"] -= again

    def _cancel(self, stream: int) -> None:
        self.inbox.expire(stream, STREAM_SHIFT)
        for lane in self.catalog.lanes.values():
            lane.queue.expire(stream, STREAM_SHIFT)
