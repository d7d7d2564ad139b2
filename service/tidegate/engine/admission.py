"""Admission: from a block's session names to rows in the lanes' queues.

What can be refused without a session (unknown id, unbound alias) is answered at once. What concerns a session that
lives is queued even when it is wrong (infinite value, wrong width), so that its answer keeps its place in order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.flights.ordinary import Looker, Ordinary, looker_of
from tidegate.engine.flights.quick import QuickLane, Turn, quick_of
from tidegate.engine.memory.slots import SLABS_MAX, SLOT_BITS, SLOTS_MAX, SPARE_SLOT, Refs, slabs_of, slots_of
from tidegate.engine.queues.block import AliasTable, Block
from tidegate.engine.queues.gathered import Batches, Singles
from tidegate.engine.queues.lane import Lane, Queued
from tidegate.engine.queues.parking import Parking
from tidegate.engine.replies import Replies, refusals
from tidegate.engine.sessions.by_name import Sessions, valid_id
from tidegate.engine.sessions.catalog import Catalog
from tidegate.engine.sessions.departures import Departures
from tidegate.errors import Reason, TidegateError

Outcomes = NDArray[np.uint8]


class Admission:
    """Resolves names, opens sessions, fills queues. Part of the engine's one writer."""

    def __init__(self, catalog: Catalog, sessions: Sessions, departures: Departures, counts: int) -> None:
        """Quick turns are counted at the address `counts`: see metrics.py."""
        self.parking = Parking(catalog.limits.parked_rows_max)
        self._catalog = catalog
        self._sessions = sessions
        self._departures = departures
        self._counts = counts
        self._lookers: dict[int, Looker | None] = {}  # by lane
        self._quick: dict[int, QuickLane | None] = {}
        self._last: QuickLane | None = None  # of those

    def admit(self, block: Block, now: float, found: Outcomes | None = None) -> Replies | None:
        """Queues the block's rows; returns replies to those that are refused at once.

        Rows of sessions that may be in the store wait until it has been asked; `found` are its answers then.
        """
        refused = np.zeros(len(block), np.uint8) if found is None else np.where(_anew(block, found), 0, found)
        bad = np.isinf(block.values).any(1)
        if block.future is not None:
            bad |= np.isinf(block.future).any(1)
        refused[bad] = Reason.BAD_OBSERVATION
        refused[block.deadline < now] = Reason.DEADLINE_EXCEEDED  # in time to open no session for it
        refused[block.deadline == -np.inf] = Reason.CANCELLED
        created = np.zeros(len(block), bool)
        refs = self._resolve(block, refused)
        unknown = np.flatnonzero(refs == 0)
        parked = np.zeros(len(block), bool)
        if len(unknown) and found is None and self._catalog.durable(block.scope.model):
            parked = self._park(block, unknown, refused)
            unknown = unknown[~parked[unknown]]
        if len(unknown):
            self._open(block, unknown, refs, refused, created, now)
        known = np.flatnonzero(refs != 0)
        if len(known):
            self._queue(block, known, refs, refused, created)
        gone = np.flatnonzero((refs == 0) & ~parked)
        if not len(gone):
            return None
        return refusals(block.request[gone], block.row[gone], refused[gone])

    def ordinary(self, waiting: Block | Batches, now: float) -> Ordinary | None:
        """A flight of all of it, if that is ordinary: see `flights/ordinary.py`. Only while nothing waits in a
        queue."""
        refs = waiting.known() if isinstance(waiting, Batches) else self._known(waiting)
        if refs is None:
            return None
        slabs = self._catalog.slabs
        slab, slot = int(slabs_of(refs[:1])[0]), int(slots_of(refs[:1])[0])
        lane = self._catalog.lanes.get(int(slabs[slab].host["version"][slot])) if slab < len(slabs) else None
        block = waiting.block() if isinstance(waiting, Batches) else waiting
        if lane is None or not lane.takes_as_it_is(block):
            return None
        if (
            len(self._catalog.lanes) > 1
            and lane.stepper.expected_seconds(len(refs)) > self._catalog.limits.batch_seconds_max
        ):
            return None  # too long a turn where others may wait for theirs
        looker = self._looker(lane)
        return None if looker is None else looker.look(block, refs, now)

    def quick(self, waiting: Singles | Batches, now: float) -> Turn | Ordinary | None:
        """Steps and commits these, if they can be by a quick turn: see `flights/quick.py`. Only while nothing waits in
        a queue."""
        scope, refs = waiting.scope, list[int]()
        if isinstance(waiting, Singles):
            get = self._sessions.names(scope.tenant, scope.model).get
            refs = [get(session_id, 0) for session_id in waiting.ids]
        last = self._last if self._last is not None and self._last.takes(scope, waiting.width) else None
        if last is not None:
            turn = last.turn(waiting, refs, now)
            if turn is not None:
                return turn
        quick = self._quick_of(waiting, waiting.first_ref if isinstance(waiting, Batches) else refs[0])
        if quick is None or quick is last:
            return None
        self._last = quick  # the sessions are of another version, say
        return quick.turn(waiting, refs, now)

    def _quick_of(self, waiting: Singles | Batches, ref: int) -> QuickLane | None:
        """That of the session, if it takes such rows."""
        slab = self._catalog.slabs[ref >> SLOT_BITS & SLABS_MAX - 1]
        lane = self._catalog.lanes.get(int(slab.host["version"][ref & SLOTS_MAX - 1]))
        if lane is None or lane.retired or not lane.takes_plainly(waiting.scope, waiting.width):
            return None
        if lane.number not in self._quick:
            self._quick = {n: kept for n, kept in self._quick.items() if n in self._catalog.lanes}
            self._quick[lane.number] = quick_of(lane, self._looker(lane), self._counts)
        quick = self._quick[lane.number]
        if quick is not None:
            quick.scope, quick.width = waiting.scope, waiting.width
        return quick

    def _known(self, block: Block) -> Refs | None:
        """References to the block's sessions if nothing needs to be looked up or bound; 0 where there is none."""
        if block.aliases is None:
            get = self._sessions.names(block.scope.tenant, block.scope.model).get
            return np.fromiter((get(session_id, 0) for session_id in block.ids), np.int64, len(block))
        return None if block.table is None or len(block.ids) else block.table.known(block.aliases)

    def _looker(self, lane: Lane) -> Looker | None:
        if lane.number not in self._lookers:
            self._lookers = {
                number: looker for number, looker in self._lookers.items() if number in self._catalog.lanes
            }
            self._lookers[lane.number] = looker_of(lane)
        return self._lookers[lane.number]

    def _park(self, block: Block, unknown: NDArray[np.int64], refused: Outcomes) -> NDArray[np.bool_]:
        """Has rows wait that nothing is wrong with; returns which, [n]."""
        for row in unknown.tolist():
            if not refused[row] and not valid_id(block.ids[row]):
                refused[row] = Reason.BAD_SESSION_ID
        waiting = unknown[refused[unknown] == 0]
        if len(waiting):
            self.parking.park(block, waiting)
        parked = np.zeros(len(block), bool)
        parked[waiting] = True
        return parked

    def _resolve(self, block: Block, refused: Outcomes) -> Refs:
        """References of the rows' sessions, 0 where there is none (yet)."""
        if block.aliases is not None and block.table is not None and not len(block.ids):
            return self._by_alias(block, block.table, block.aliases, refused)
        if block.aliases is not None and block.table is not None:
            block.table.bind(block.aliases, block.ids)
        get = self._sessions.names(block.scope.tenant, block.scope.model).get
        return np.fromiter((get(session_id, 0) for session_id in block.ids), np.int64, len(block))

    def _by_alias(self, block: Block, table: AliasTable, aliases: NDArray[np.int64], refused: Outcomes) -> Refs:
        inside = aliases < len(table.ids)
        places = np.where(inside, aliases, 0)
        refs = table.refs[places] if len(table.ids) else np.zeros(len(aliases), np.int64)
        refs[~inside] = 0
        refs[~self._alive(refs)] = 0
        stale = np.flatnonzero(refs == 0).tolist()
        if stale:
            names = self._sessions.names(block.scope.tenant, block.scope.model)
            ids: list[bytes] = [b""] * len(aliases)
            for row in stale:
                session_id = table.ids[int(aliases[row])] if inside[row] else None
                if session_id is None:
                    refused[row] = Reason.UNKNOWN_ALIAS
                else:
                    ids[row] = session_id
                    refs[row] = names.get(session_id, 0)
            block.ids = ids
            table.refs[aliases[inside]] = refs[inside]
        return refs

    def _alive(self, refs: Refs) -> NDArray[np.bool_]:
        """Which references are of sessions that are here, and stay."""
        slabs = slabs_of(refs)
        alive = np.zeros(len(refs), bool)
        for number in [int(slabs[0])] if (slabs == slabs[0]).all() else np.unique(slabs).tolist():
            if number < len(self._catalog.slabs):
                slab, rows = self._catalog.slabs[number], slabs == number
                here = slab.slots.alive(refs[rows])
                alive[rows] = here & ~slab.leaving[np.where(here, slots_of(refs[rows]), SPARE_SLOT)]
        return alive

    def _open(
        self,
        block: Block,
        unknown: NDArray[np.int64],
        refs: Refs,
        refused: Outcomes,
        created: NDArray[np.bool_],
        now: float,
    ) -> None:
        """Opens the sessions of unknown rows that may begin one: step 0 or 1 or a reset, and nothing wrong."""
        scope, fresh = block.scope, dict[bytes, int]()
        try:
            lane = self._catalog.resolve(scope.model, scope.version)
            lane.layout(scope)
            wide = not _fits(block, lane)
            wanted = {block.ids[row] for row in unknown.tolist() if not refused[row]}
            self._departures.staying = refs[refs != 0]  # they have rows in this block
            room = self._departures.room(lane, len(wanted))
        except TidegateError as error:
            refused[unknown] = np.where(refused[unknown] != 0, refused[unknown], error.reason)
            return
        for row in unknown.tolist():
            session_id = block.ids[row]
            if refused[row] or session_id in fresh:
                continue
            if not valid_id(session_id):
                refused[row] = Reason.BAD_SESSION_ID
            elif scope.must_exist or not (block.step[row] <= 1 or block.reset[row]):
                refused[row] = Reason.SESSION_NOT_FOUND
            elif wide:
                refused[row] = Reason.BAD_OBSERVATION
            elif reason := self._sessions.unopenable(scope.tenant, lane, session_id):
                refused[row] = reason
            elif len(fresh) == room:
                refused[row] = Reason.SESSION_LIMIT
            else:
                fresh[session_id] = row
        opened = dict(zip(fresh, self._sessions.open(scope.tenant, lane, list(fresh), now).tolist(), strict=True))
        created[list(fresh.values())] = True
        rows = [row for row in unknown.tolist() if row >= fresh.get(block.ids[row], len(block))]
        refs[rows] = [opened[block.ids[row]] for row in rows]

    def _queue(
        self, block: Block, rows: NDArray[np.int64], refs: Refs, refused: Outcomes, created: NDArray[np.bool_]
    ) -> None:
        """Appends rows of living sessions to the queues of their versions."""
        numbers = self._lane_numbers(refs[rows])
        parts: list[tuple[Lane, NDArray[np.int64], NDArray[np.float64]]] = []
        for number in [int(numbers[0])] if (numbers == numbers[0]).all() else np.unique(numbers).tolist():
            lane, mine = self._catalog.lanes[number], rows[numbers == number]
            parts.append((lane, mine, self._values(block, lane, mine, refused)))
        if block.table is not None and len({lane.targets for lane, _, _ in parts}) > 1:
            _refuse_other_targets(parts, refused)
        queued = [(lane, _queued(block, mine, values, refs, refused, created)) for lane, mine, values in parts]
        for lane, rows_of_lane in queued:  # only now: a block is queued whole or not at all
            lane.queue.append(rows_of_lane, lane.slab.next_turn)

    def _values(self, block: Block, lane: Lane, rows: NDArray[np.int64], refused: Outcomes) -> NDArray[np.float64]:
        """The rows' values as the lane's package wants them; zeros, and a reason, where they cannot be."""
        reason = Reason.BAD_OBSERVATION
        try:
            layout = lane.layout(block.scope)
            if _fits(block, lane):
                return layout.apply(block.values[rows], None if block.future is None else block.future[rows])
        except TidegateError as error:
            reason = error.reason
        refused[rows] = reason
        return np.zeros((len(rows), len(lane.package.manifest.features)))

    def _lane_numbers(self, refs: Refs) -> NDArray[np.int64]:
        slabs, slots = slabs_of(refs), slots_of(refs)
        numbers = np.empty(len(refs), np.int64)
        for number in [int(slabs[0])] if (slabs == slabs[0]).all() else np.unique(slabs).tolist():
            rows = slabs == number
            numbers[rows] = self._catalog.slabs[number].host["version"][slots[rows]]
        return numbers


def _anew(block: Block, found: Outcomes) -> NDArray[np.bool_]:
    """Rows that begin their session anew although what was stored of it is lost."""
    anew: NDArray[np.bool_] = (found == Reason.SESSION_DAMAGED) & block.reset
    return anew


def _fits(block: Block, lane: Lane) -> bool:
    """Whether the rows have as many values, and as many future covariates or none, as the version takes."""
    future = 0 if block.future is None else block.future.shape[1]
    return block.values.shape[1] == lane.width and future in (0, len(lane.package.manifest.future))


def _refuse_other_targets(parts: list[tuple[Lane, NDArray[np.int64], NDArray[np.float64]]], refused: Outcomes) -> None:
    """An answer has one width: that of the first row that is not refused already."""
    good = [int(mine[refused[mine] == 0][0]) if (refused[mine] == 0).any() else len(refused) for _, mine, _ in parts]
    width = parts[int(np.argmin(good))][0].targets
    for lane, mine, _ in parts:
        if lane.targets != width:
            refused[mine] = np.where(refused[mine] == 0, Reason.TARGETS_DIFFER, refused[mine])


def _queued(
    block: Block,
    rows: NDArray[np.int64],
    values: NDArray[np.float64],
    refs: Refs,
    refused: Outcomes,
    created: NDArray[np.bool_],
) -> Queued:
    return Queued(
        ref=refs[rows],
        request=block.request[rows],
        row=block.row[rows],
        step=block.step[rows],
        time=block.time[rows],
        reset=block.reset[rows],
        created=created[rows],
        refused=refused[rows],
        deadline=block.deadline[rows],
        arrived=block.arrived[rows],
        values=values,
        strict=np.full(len(rows), block.scope.strict_steps),
    )
