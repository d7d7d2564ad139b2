"""The engine: rows in, one batched step, replies out. Sans-I/O, one writer.

An iteration is `prepare` (admit what came, choose a batch, apply the session rules), `run` (the step: the only part
that may take long, and that touches nothing but the state slab), and `finish` (commit columns, make replies).
Whoever hosts it calls these in turn, from one thread at a time; `run` may be in another thread meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidegate.checkpoints import Key
from tidegate.config import Durability
from tidegate.engine import commands
from tidegate.engine.admission import Admission
from tidegate.engine.commands import SessionInfo
from tidegate.engine.flights.flight import Flight
from tidegate.engine.flights.ordinary import Ordinary
from tidegate.engine.flights.quick import ROWS_MAX as QUICK_ROWS_MAX
from tidegate.engine.flights.quick import Turn, takes_turns
from tidegate.engine.flights.revision import make_flight
from tidegate.engine.forecasts.forecaster import Forecaster, Stretch
from tidegate.engine.histories.work import Histories, HistoryStretch
from tidegate.engine.queues.block import Block, Scope
from tidegate.engine.queues.gathered import Batches
from tidegate.engine.queues.inbox import Inbox
from tidegate.engine.queues.lane import Lane, Queued
from tidegate.engine.replies import STREAM_SHIFT, Replies, RowFlag, refusals
from tidegate.engine.sessions.by_name import Sessions
from tidegate.engine.sessions.catalog import Catalog
from tidegate.engine.sessions.departures import Departures
from tidegate.engine.sessions.listing import page
from tidegate.engine.sessions.migration import Migration
from tidegate.engine.sessions.saving import Saving
from tidegate.engine.sessions.transfer import Transfer
from tidegate.engine.step.device import cores, inline_seconds_max
from tidegate.engine.step.stepper import TILE_ROWS
from tidegate.errors import Reason, TidegateError
from tidegate.metrics import Metrics

log = logging.getLogger(__name__)


class Held(NamedTuple):
    """Answers that wait until they are durable, the references of their sessions, and when their rows arrived."""

    answers: Replies
    refs: NDArray[np.int64]
    model: str
    arrived: NDArray[np.float64]

    def lose(self, refs: NDArray[np.int64]) -> None:
        """Those sessions are another replica's now, which does not know of the steps that are answered here."""
        lost = np.isin(self.refs, refs) & (self.answers.outcome == Reason.OK)
        self.answers.plainly = self.answers.plainly and not lost.any()
        self.answers.outcome[lost] = Reason.SESSION_MOVED
        self.answers.values[lost] = np.nan
        self.answers.step[lost] = 0


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
        self._transfer = Transfer(catalog, sessions)
        self.departures = Departures(catalog, sessions)
        self.saving = Saving(catalog, sessions, self.departures)
        self.held: list[Held] = []
        self.going: list[Held] = []  # those whose sessions are being saved
        self.forecaster = Forecaster(catalog, sessions, catalog.limits, clock)
        self.histories = Histories(inbox, catalog.limits, clock)
        self.admission = Admission(catalog, sessions, self.departures, metrics.turn_at)
        self._rows_together_max = catalog.limits.batch_rows_max  # pydantic's attributes are slow to ask for
        self._turn = 0

    @property
    def waiting(self) -> bool:
        """Whether there is anything for `prepare` to do."""
        return bool(self.inbox or self.forecaster.jobs or self.histories.ready or self._queued)

    @property
    def _queued(self) -> bool:
        """Whether rows wait in a lane's queue. Asked in every iteration: a generator would cost as much again."""
        for lane in self.catalog.lanes.values():  # noqa: SIM110
            if lane.queue.rows:
                return True
        return False

    @property
    def full(self) -> bool:
        """Whether streams are not to be read: too many rows are queued, or wait for the store."""
        inbox, parking = self.inbox, self.admission.parking
        return inbox.rows >= inbox.rows_max or parking.rows >= parking.rows_max

    @property
    def busy(self) -> bool:
        """Whether anything is not answered yet: it waits for its turn, for the store, or until it is durable."""
        return self.waiting or self.admission.parking.rows > 0 or bool(self.held or self.going)

    def execute(self, command: commands.Command) -> object:
        """Carries out a command; raises TidegateError. Not while a flight is in the air."""
        if isinstance(command, commands.CancelStream):
            self._cancel(command.stream)
            return None
        done = self._with_one(command) or self._with_many(command)
        if self.admission.parking.rows:
            self._let_in(command, done)
        return done

    def _let_in(self, command: commands.Command, done: object) -> None:
        """Rows that wait for a session which this command has made go on: before any that come from now on."""
        made: list[Key] = []
        if isinstance(command, commands.OpenSessions):
            made = [Key(command.tenant, command.model, session_id) for session_id in command.ids]
        elif isinstance(command, commands.ForkSession | commands.ImportSession) and isinstance(done, SessionInfo):
            made = [Key(command.tenant, done.model, done.session_id)]
        here = [key for key in made if key.session_id in self.sessions.names(key.tenant, key.model)]
        self.go_on({key: Reason.OK for key in here if self.admission.parking.waits(key)})

    def _with_one(self, command: commands.Command) -> object:
        """What concerns one session; None for any other command."""
        sessions, now = self.sessions, self._clock()
        match command:
            case commands.GetSession(tenant, model, session_id):
                return sessions.info(tenant, model, session_id, now)
            case commands.ForkSession(tenant, model, session_id, new_id, step):
                return sessions.fork(tenant, model, session_id, new_id, step, now)
            case commands.RewindSession(tenant, model, session_id, step):
                return sessions.rewind(tenant, model, session_id, step, now)
            case commands.ExportSession(tenant, model, session_id):
                return self._transfer.export(tenant, model, session_id, now)
            case commands.ImportSession(tenant, content, new_id, version):
                return self._transfer.take_in(tenant, content, new_id, version, now)
        return None

    def _with_many(self, command: commands.Command) -> object:
        """What concerns many sessions."""
        sessions, now = self.sessions, self._clock()
        match command:
            case commands.OpenSessions(tenant, model, version, ids):
                return sessions.open_many(tenant, self._lane_for(tenant, model, version, ids), ids, now)
            case commands.ResetSessions(tenant, model, ids):
                return sessions.reset_many(tenant, model, ids)
            case commands.CloseSessions(tenant, model, ids):
                if self._under_way:  # rows that came before are of the session that is closed, and open no new one
                    self._admit_waiting()
                return sessions.close_many(tenant, model, ids)
            case commands.MigrateSessions(tenant, model, version, ids):
                target = self.catalog.resolve(model, version)
                names = sessions.names(tenant, model)
                self.histories.put_back({names.get(session_id, 0) for session_id in ids})
                return Migration(self.catalog, sessions, target, now, self._follow).run(tenant, ids)
            case commands.ListSessions(tenant, wanted, cursor, size):
                return page(self.catalog, sessions, tenant, wanted, cursor, size, now)
            case commands.Sweep():
                self.inbox.gather(self._rows_together_max)  # steps may be faster by now
                left = self.departures.sweep(now, self.catalog.limits.idle_seconds_max)
                return sessions.sweep(now) + left
        return None

    def _lane_for(self, tenant: str, model: str, version: str, ids: Sequence[bytes]) -> Lane:
        """The version for new sessions; where all of them live already, one that takes no new ones will do."""
        try:
            return self.catalog.resolve(model, version)
        except TidegateError:
            lane = self.catalog.about(Scope(tenant, model, version))
            if all(session_id in self.sessions.names(tenant, model) for session_id in ids):
                return lane
            raise

    def quick(self) -> Turn | None:
        """Steps, commits and answers what waits, if it is a few ordinary observations, or the batches that are next:
        see `flights/quick.py`. Else None, and `prepare` has the rest. What a turn says holds until rows are put in
        again."""
        waiting = self.inbox.quick(QUICK_ROWS_MAX)
        if waiting is None or waiting.rows > self._rows_together_max:
            return None
        if self.forecaster.jobs or not self._quiet:
            return None
        now = self._clock()
        try:
            turn = self.admission.quick(waiting, now)
        except Exception:  # nothing has happened yet: the general way answers each row
            log.exception("%d rows of %s could not be looked at", len(waiting), waiting.scope.model)
            return None
        if turn is None:
            return None
        rows = waiting.rows
        if isinstance(turn, Ordinary):
            self._metrics.queue_wait.observe_since(waiting.arrived[:rows], now, waiting.at.arrived)
            self.inbox.took(waiting)
            self.finish(turn)
            return None
        turn.of.count(now, self._clock())
        self._metrics.steps[turn.of.model, "OK"] += rows
        self.inbox.answered(waiting)
        return turn

    def prepare(self) -> Flight | Ordinary | Stretch | HistoryStretch | None:
        """Admits what is in the inbox and makes up the next batch; work on histories and forecasts when there is none,
        or when they have waited for long; None when there is nothing."""
        for late in (self.histories, self.forecaster):
            if late.overdue and (stretch := late.take()) is not None:
                return stretch
        if self._quiet and (ordinary := self._ordinary()) is not None:
            return ordinary
        self._admit_waiting(but=self._under_way)  # those would queue for long, and may be ordinary by then
        while (lane := self._next_lane()) is not None:
            flight = self._make_up(lane, lane.queue.take(self._rows_max(lane)))
            if flight is not None:
                return flight
        return self.histories.take() or self.forecaster.take()

    def _make_up(self, lane: Lane, rows: Queued) -> Flight | None:
        """A flight of the rows; None when all of them are of histories, or wait for one."""
        try:
            now = self._clock()
            rows = self.histories.divert(lane, rows, now)
            if not len(rows):
                return None
            flight = make_flight(lane, rows, now)
        except Exception:
            log.exception("a batch of %d rows of %s could not be made up", len(rows), lane.model)
            self._give_up(rows, lane)
            return None
        self._metrics.queue_wait.observe_since(rows.arrived, now)
        return flight

    @property
    def _under_way(self) -> set[str]:
        """Models whose turn is under way. Of one with several versions, another's rows are not to wait for that."""
        lanes = list(self.catalog.lanes.values())
        models = [lane.model for lane in lanes]
        return {lane.model for lane in lanes if lane.queue.under_way and models.count(lane.model) == 1}

    @property
    def _quiet(self) -> bool:
        """Whether nothing waits but what is in the inbox, and no history is there."""
        return not self._queued and not self.histories.there

    def _ordinary(self) -> Ordinary | None:
        """The oldest as it is, if nothing else waits and it is nothing but next steps of healthy sessions: all batches
        that go together, or else the oldest of them alone."""
        oldest, now = self.inbox.oldest(), self._clock()
        flight = self._flight_of(oldest, now)
        if flight is None and isinstance(oldest, Batches) and len(oldest.parts) > 1:
            self.inbox.spread()
            flight = self._flight_of(self.inbox.oldest(), now)
        if flight is not None:
            self._gather_less(flight)
            self.inbox.take_oldest()
            self._metrics.queue_wait.observe_since(flight.rows.arrived, now, flight.rows.at.arrived)
        return flight

    def _gather_less(self, flight: Ordinary) -> None:
        """Has fewer batches go together from now on, if these are too many for a quick turn. Where there is one core,
        such turns cost less than a flight, whose thread would share it with the loop."""
        lane = flight.lane
        if len(flight.rows.messages) > 1 and takes_turns(lane) and not lane.stepper.shared and cores() == 1:
            seconds, most = flight.expected_seconds, inline_seconds_max(shared=False)
            if seconds > most:
                self.inbox.gather(int(len(flight.rows) * most / seconds))

    def _flight_of(self, waiting: Block | Batches | None, now: float) -> Ordinary | None:
        if waiting is None or len(waiting) > self.catalog.limits.batch_rows_max:
            return None
        try:
            return self.admission.ordinary(waiting, now)
        except Exception:  # nothing has happened yet: the general way answers each row
            log.exception("%d rows of %s could not be looked at", len(waiting), waiting.scope.model)
            return None

    def go_on(self, outcomes: Mapping[Key, Reason]) -> None:
        """Admits the rows that waited for these sessions: they are here now, or in no store (OK), or cannot be had."""
        for block, found in self.admission.parking.leave(outcomes):
            self._admit(block, found)

    def _admit_waiting(self, but: Collection[str] = ()) -> None:
        """Admits what is in the inbox, but for what is about these models."""
        for block in self.inbox.take(but):
            self._admit(block)

    def _admit(self, block: Block, found: NDArray[np.uint8] | None = None) -> None:
        try:
            refused = self.admission.admit(block, self._clock(), found)
        except Exception:  # out of memory, say: these rows fail, the server goes on
            log.exception("%d rows of %s could not be admitted", len(block), block.scope.model)
            refused = self._failed(block.request, block.row)
        if refused is not None:
            self._send(refused, block.scope.model)
            self.inbox.done(len(refused))

    def finish(self, flight: Flight | Ordinary | Stretch | HistoryStretch) -> None:
        """Commits the columns of what advanced, and puts the replies to all rows into the outbox."""
        if isinstance(flight, Stretch):
            self.forecaster.finish(flight)
            return
        if isinstance(flight, HistoryStretch):
            self._finish_histories(flight)
            return
        try:
            self._finish(flight)
        except Exception:
            log.exception("a batch of %d rows of %s could not be answered", len(flight.rows), flight.lane.model)
            flight.lane.slab.host["diverged"][flight.batch.slots] = True
            self._give_up(flight.rows, flight.lane)

    def _finish(self, flight: Flight | Ordinary) -> None:
        now = self._clock()
        answers = flight.conclude(now)
        if flight.result is not None:
            self._metrics.batch_rows.observe_one(float(len(flight.batch)))
            self._metrics.step_seconds.observe_one(flight.result.seconds)
        at = flight.rows.at.arrived if isinstance(flight, Ordinary) else 0
        self._answer(flight.lane, answers, flight.refs, flight.rows.arrived, at)
        self.inbox.done(len(flight.rows))
        if flight.lane.retired:
            self.catalog.drop_unused()

    def _finish_histories(self, stretch: HistoryStretch) -> None:
        finished = self.histories.finish(stretch)
        if finished is not None:
            self._answer(finished.lane, finished.answers, finished.refs, finished.arrived)
            if finished.lane.retired:
                self.catalog.drop_unused()

    def _answer(
        self, lane: Lane, answers: Replies, refs: NDArray[np.int64], arrived: NDArray[np.float64], at: int = 0
    ) -> None:
        """At durability `step`, answers are held until what they say is in the store. `at`: where `arrived` lies, if
        that is known."""
        if lane.durability is Durability.STEP:
            self.held.append(Held(answers, refs, lane.model, arrived))
        else:
            self._send(answers, lane.model)
            self._metrics.end_to_end.observe_since(arrived, self._clock(), at)

    def _follow(self, before: NDArray[np.int64], after: NDArray[np.int64]) -> None:
        """Answers that are held are of sessions that have other references now."""
        for held in (*self.going, *self.held):
            for old, new in zip(before.tolist(), after.tolist(), strict=True):
                held.refs[held.refs == old] = new

    def let_go(self) -> None:
        """What those say that were going is durable."""
        going, self.going = self.going, []
        for held in going:
            self._send(held.answers, held.model)
            self._metrics.end_to_end.observe_since(held.arrived, self._clock())

    def _give_up(self, rows: Queued | Block, lane: Lane) -> None:
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

    def _send(self, answers: Replies, model: str) -> None:
        """Into the outbox, counted by outcome."""
        self.outbox.append(answers)
        if answers.plainly:
            self._metrics.steps[model, "OK"] += len(answers)
            return
        self.histories.answered(answers.request)
        counts = np.bincount(answers.outcome)
        duplicate = (answers.outcome == 0) & (answers.flags & RowFlag.DUPLICATE != 0)
        revised = (answers.outcome == 0) & (answers.flags & RowFlag.REVISED != 0) & ~duplicate
        for outcome in np.flatnonzero(counts).tolist():
            self._metrics.steps[model, Reason(outcome).name] += int(counts[outcome])
        for name, count in (("DUPLICATE", int(duplicate.sum())), ("REVISED", int(revised.sum()))):
            if count:
                self._metrics.steps[model, name] += count
                self._metrics.steps[model, "OK"] -= count

    def _cancel(self, stream: int) -> None:
        self.inbox.expire(stream, STREAM_SHIFT)
        self.admission.parking.expire(stream, STREAM_SHIFT)
        self.histories.expire(stream)
        for lane in self.catalog.lanes.values():
            lane.queue.expire(stream, STREAM_SHIFT)
