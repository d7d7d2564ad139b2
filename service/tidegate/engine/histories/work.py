"""Histories: from the queue of their lane to their commit, in short stretches below live steps.

A history waits as one row in its lane's queue, so that it comes after what was sent before it. When its turn comes its
session is held: later rows of it wait in order, other sessions go on. It is taken by a copy of its session
(`warming.py`), those that are exact side by side, and the copy becomes the session if nobody changed that one
meanwhile; else it is taken again. So a history is taken as a whole or not at all.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidegate.config import Limits
from tidegate.engine.histories.history import History, Past, arranged, passed_over
from tidegate.engine.histories.warming import Warmed, Warming
from tidegate.engine.memory.slots import SLOTS_MAX, SPARE_SLOT
from tidegate.engine.queues.block import Block
from tidegate.engine.queues.inbox import Inbox
from tidegate.engine.queues.lane import Lane, Queued
from tidegate.engine.replies import STREAM_SHIFT, Replies, RowFlag
from tidegate.errors import Reason, TidegateError

STRETCH_SECONDS = 1e-2  # of one stretch of work, but for the length of one launch
WAIT_SECONDS_MAX = 0.1  # without a stretch; then live rows wait for one
TOGETHER_MAX = 256  # exact histories of one version, side by side
GROUPS_MAX = 4  # in work at once; they take turns
ATTEMPTS_MAX = 8  # of a history whose session was changed (reset, rewound) while it was taken
_MOVES = ("version", "step", "steps_seen", "event_time", "digest", "diverged")  # by them a change is seen

log = logging.getLogger(__name__)


class Finished(NamedTuple):
    """Answers to histories of one version, and the references of their sessions."""

    lane: Lane
    answers: Replies
    refs: NDArray[np.int64]
    arrived: NDArray[np.float64]


@dataclass(eq=False)
class _Job:
    """A history whose turn has come: its lane and the row that it was there; what its session was when it began."""

    history: History
    lane: Lane
    row: Queued
    past: Past | None = None
    passed: int = 0
    warmed: Warmed | None = None
    before: tuple[object, ...] = ()
    outcome: Reason = Reason.OK
    attempts: int = 0

    @property
    def ref(self) -> int:
        return int(self.row.ref[0])

    @property
    def going(self) -> bool:
        """Whether there is more to take."""
        return self.outcome is Reason.OK and self.warmed is not None and self.warmed.going

    @property
    def duplicate(self) -> bool:
        """Whether the session had it all."""
        return self.warmed is None

    @property
    def alive(self) -> bool:
        return self.lane.slab.slots.lives(self.ref)

    @property
    def slot(self) -> int:
        return self.ref & SLOTS_MAX - 1 if self.alive else SPARE_SLOT

    def marks(self) -> tuple[object, ...]:
        """What its session is now, as far as it takes to see a change."""
        host, slot = self.lane.slab.host, self.slot
        return tuple(host[name][slot].item() for name in _MOVES)

    def begin(self) -> None:
        """Finds out which of its rows are to be taken, or why none can be."""
        self.passed, self.warmed, self.outcome, self.before = 0, None, Reason.OK, self.marks()
        try:
            past = self.past = arranged(self.history, self._values())
        except TidegateError as error:
            self.outcome = error.reason
            return
        host = self.lane.slab.host
        known = passed_over(past, int(host["step"][self.slot]), host["digest"][self.slot])
        if isinstance(known, Reason):
            self.outcome = known
        elif known < len(past):
            self.passed = known
            self.warmed = Warmed(past.without(known), bool(self.row.created[0]), bool(self.row.strict[0]))

    def _values(self) -> NDArray[np.float64]:
        """In the package's order and units; raises BAD_OBSERVATION, BAD_CONFIG or UNIT_MISMATCH."""
        history, lane = self.history, self.lane
        future = 0 if history.future is None else history.future.shape[1]
        if history.values.shape[1] != lane.width or future not in (0, len(lane.package.manifest.future)):
            raise TidegateError(Reason.BAD_OBSERVATION)
        return lane.layout(history.scope).apply(history.values, history.future)

    def settle(self) -> bool:
        """Says how it went, all in all; False where it has to be taken again."""
        if not self.alive:
            self.outcome = self.lane.queue.lost(self.ref) or Reason.SESSION_NOT_FOUND
        elif self.outcome is Reason.OK and self.warmed is not None:
            self.outcome = self.warmed.outcome
        if self.outcome not in (Reason.OK, Reason.HISTORY_DIVERGED) or self.marks() == self.before:
            return True
        self.attempts += 1
        if self.attempts < ATTEMPTS_MAX:
            return False
        self.outcome = Reason.DEADLINE_EXCEEDED
        return True


class _Group:
    """Jobs that are worked off together."""

    def __init__(self, lane: Lane, jobs: list[_Job], exact: bool, now: float) -> None:
        self.lane, self.jobs = lane, jobs
        self._working: list[_Job] = []
        self._warming: Warming | None = None
        self._steps: Iterator[None] = iter(())
        try:
            self._begin(exact, now)
        except Exception:  # no memory for the copies, say: these histories fail, the server goes on
            log.exception("histories of %s could not begin", lane.model)
            for job in jobs:
                if job.outcome is Reason.OK:
                    job.outcome = Reason.INTERNAL

    def _begin(self, exact: bool, now: float) -> None:
        for job in self.jobs:
            job.begin()
        self._working = [job for job in self.jobs if job.going]
        if self._working:
            slots = np.array([job.slot for job in self._working])
            histories = [job.warmed for job in self._working if job.warmed is not None]
            self._warming = Warming(self.lane, histories, slots, exact, now)
            self._steps = self._warming.steps()

    def run(self) -> None:
        """Works until the time is up, or something is finished."""
        end = time.monotonic() + STRETCH_SECONDS
        try:
            for _ in self._steps:
                if time.monotonic() > end:
                    return
        except Exception:  # these histories fail, the server goes on
            log.exception("histories of %s failed", self.lane.model)
            for job in self.jobs:
                if job.going:
                    job.outcome = Reason.INTERNAL

    def end(self) -> None:
        """All jobs are done."""
        if self._warming is not None:
            self._warming.end()

    def commit(self, jobs: list[_Job], now: float) -> list[_Job]:
        """The sessions of these are what their copies are. Returns those for which that went well."""
        mine = [place for place, job in enumerate(self._working) if job in jobs]
        if not mine or self._warming is None:
            return jobs
        slab = self.lane.slab
        slots = np.array([self._working[place].slot for place in mine])
        names = [column.name for column in slab.schema.columns if not column.local]
        slab.unsaved[slots] = True
        slab.host["active_at"][slots] = now
        try:
            slab.copy(slots, self._warming.slab, self._warming.places[mine], names)
        except Exception:  # some columns may be of the copies and others not: none of them can be trusted
            log.exception("histories of %s could not be committed", self.lane.model)
            slab.host["diverged"][slots] = True
            for job in jobs:
                job.outcome = Reason.INTERNAL
            return []
        return jobs


class HistoryStretch:
    """Some work on a group, as `Flight` is of live rows."""

    expected_seconds = STRETCH_SECONDS

    def __init__(self, group: _Group) -> None:
        self.group = group

    def run(self) -> None:
        """Changes nothing but copies."""
        self.group.run()


class Histories:
    """All histories. Called by the engine alone."""

    def __init__(self, inbox: Inbox, limits: Limits, clock: Callable[[], float]) -> None:
        self.steps = 0  # rows that were taken so far
        self._inbox, self._clock = inbox, clock
        self._bytes_max = limits.forecast_bytes_max // GROUPS_MAX
        self._queued: dict[int, History] = {}  # by request: rows in the inbox, parked, or in a lane's queue
        self._waiting: list[_Job] = []
        self._groups: deque[_Group] = deque()
        self._last = 0.0

    def __len__(self) -> int:
        """Those whose turn has come."""
        return len(self._waiting) + sum(len(group.jobs) for group in self._groups)

    @property
    def ready(self) -> bool:
        """Whether the turn of any has come."""
        return bool(self._waiting or (self._groups and len(self)))

    @property
    def there(self) -> bool:
        """Whether there are any, also such as wait for their turn."""
        return bool(self._queued or self._waiting or self._groups)

    @property
    def overdue(self) -> bool:
        """Whether live rows are to wait for a stretch."""
        return bool(len(self)) and self._clock() - self._last > WAIT_SECONDS_MAX

    def add(self, request: int, session_id: bytes, history: History, deadline: float, arrived: float) -> None:
        """Queues a history, as one row that counts as many. Its values tell what admission wants to know."""
        self._queued[request] = history
        sent = [history.values] if history.future is None else [history.values, history.future]
        bad = any(bool(np.isinf(values).any()) for values in sent)
        values, *future = (np.full((1, values.shape[1]), np.inf if bad else 0.0) for values in sent)
        self._inbox.add_block(
            Block(
                scope=history.scope,
                request=np.array([request]),
                row=np.zeros(1, np.int32),
                ids=[session_id],
                step=np.array([history.first_step]),
                time=history.times[:1],
                values=values,
                reset=np.array([history.reset]),
                deadline=np.array([deadline]),
                arrived=np.array([arrived]),
                future=future[0] if future else None,
            )
        )
        self._inbox.rows += len(history) - 1

    def answered(self, requests: NDArray[np.int64]) -> None:
        """These requests were answered, before their turn came if they are of histories."""
        if self._queued:
            for request in requests.tolist():
                history = self._queued.pop(request, None)
                if history is not None:
                    self._inbox.done(len(history) - 1)

    def divert(self, lane: Lane, rows: Queued, now: float) -> Queued:
        """Takes the histories out of a batch; those that nothing is to be done for any more are left in it."""
        if not self._queued:
            return rows
        live = (rows.refused == 0) & (rows.deadline >= now) & lane.slab.slots.alive(rows.ref)
        mine = [row for row in np.flatnonzero(live).tolist() if int(rows.request[row]) in self._queued]
        if not mine:
            return rows
        if not len(self):
            self._last = self._clock()
        for row in mine:
            one = rows.take(np.array([row]))
            lane.queue.hold(int(one.ref[0]))
            self._waiting.append(_Job(self._queued.pop(int(one.request[0])), lane, one))
        return rows.take(np.setdiff1d(np.arange(len(rows)), mine))

    def take(self) -> HistoryStretch | None:
        """The next stretch of work; None when there is none. Not while another is under way."""
        if self._waiting and len(self._groups) < GROUPS_MAX:
            self._groups.append(self._group())
        if not self._groups:
            return None
        self._groups.rotate(-1)
        group, now = self._groups[-1], self._clock()
        for job in group.jobs:
            if job.going and job.row.deadline[0] < now:
                job.outcome = Reason.CANCELLED if job.row.deadline[0] == -np.inf else Reason.DEADLINE_EXCEEDED
        return HistoryStretch(group)

    def finish(self, stretch: HistoryStretch) -> Finished | None:
        """After a stretch: the answers to what is done."""
        self._last = now = self._clock()
        group = stretch.group
        ended = [job for job in group.jobs if not job.going]
        group.jobs = [job for job in group.jobs if job.going]
        if not group.jobs:
            self._groups.remove(group)
        done = [job for job in ended if job.settle()]
        self._waiting += [job for job in ended if job not in done]
        if not done:
            return None
        good = group.commit([job for job in done if job.outcome is Reason.OK and not job.duplicate], now)
        if not group.jobs:
            group.end()
        self.steps += sum(len(job.warmed.past) for job in good if job.warmed is not None)
        answers = _answers(group.lane, done)
        refs = np.array([job.ref for job in done])
        group.lane.queue.release(refs, group.lane.slab.next_turn)
        self._inbox.done(sum(len(job.history) for job in done))
        return Finished(group.lane, answers, refs, np.concatenate([job.row.arrived for job in done]))

    def put_back(self, refs: Collection[int]) -> None:
        """Histories of these sessions wait in their queues again, before what was sent after them."""
        jobs = [job for job in self._jobs() if job.ref in refs]
        for job in jobs:
            self._queued[int(job.row.request[0])] = job.history
            job.lane.queue.release(job.row.ref, job.lane.slab.next_turn, job.row)
            if job.warmed is not None:
                job.warmed.outcome = Reason.CANCELLED  # nobody goes on with its copy
        self._waiting = [job for job in self._waiting if job not in jobs]
        for group in list(self._groups):
            group.jobs = [job for job in group.jobs if job not in jobs]
            if not group.jobs:
                self._groups.remove(group)

    def expire(self, stream: int) -> None:
        """Histories of a stream that went away are dropped."""
        for job in self._jobs():
            job.row.expire(stream, STREAM_SHIFT)

    def _jobs(self) -> Iterator[_Job]:
        yield from list(self._waiting)
        for group in list(self._groups):
            yield from group.jobs

    def _group(self) -> _Group:
        """Those that go together with the one that has waited longest."""
        first = self._waiting[0]
        exact, lane = first.history.exact, first.lane
        most = min(TOGETHER_MAX, max(1, self._bytes_max // lane.slab.row_bytes)) if exact else 1
        chosen = [job for job in self._waiting if job.lane is lane and job.history.exact == exact][:most]
        self._waiting = [job for job in self._waiting if job not in chosen]
        return _Group(lane, chosen, exact, self._clock())


def _answers(lane: Lane, jobs: list[_Job]) -> Replies:
    """What the sessions remember now is the answer; `row` of one that failed is the row that did."""
    host, slots = lane.slab.host, np.array([job.slot for job in jobs])
    outcome = np.array([job.outcome for job in jobs], np.uint8)
    failed = outcome != Reason.OK
    values = host["reply"][slots]
    values[failed] = np.nan
    created = np.array([bool(job.row.created[0]) and not job.duplicate for job in jobs])
    again = np.array([job.duplicate for job in jobs])
    return Replies(
        request=np.concatenate([job.row.request for job in jobs]),
        row=np.array([job.passed + job.warmed.failed if job.warmed else 0 for job in jobs], np.int32),
        outcome=outcome,
        values=values,
        step=np.where(failed, 0, host["step"][slots]),
        expected=np.where(slots == SPARE_SLOT, 0, host["step"][slots] + 1),
        steps_seen=host["steps_seen"][slots],
        flags=host["reply_flags"][slots] | created * np.uint8(RowFlag.CREATED) | again * np.uint8(RowFlag.DUPLICATE),
        imputed=host["reply_imputed"][slots],
        gap=host["reply_gap"][slots],
        valid_time=lane.package.frequency.add(np.concatenate([job.history.times[-1:] for job in jobs])),
        head=lane.package.manifest.head,
    )
