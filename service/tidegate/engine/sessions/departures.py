"""Sessions that leave this memory for the store: to make room, after long idleness, or because another replica asked.

What leaves is first forgotten by name, so that its next row waits for the store; then, when none of its rows is queued
any more, its checkpoint stands in `departing` until whoever writes to the store takes it from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tidegate.checkpoints import Checkpoint, Key
from tidegate.config import Durability
from tidegate.engine.memory.slab import Slab
from tidegate.engine.memory.slots import Refs, Slots, slabs_of, slots_of
from tidegate.engine.queues.lane import Lane
from tidegate.engine.sessions.by_name import Sessions
from tidegate.engine.sessions.catalog import Catalog

DEPARTING_MAX = 16_384  # checkpoints that wait for the store; above it only sessions that are saved make room
EVICTED_MIN, EVICTED_SHARE = 64, 64  # at once, so that finding the idlest costs little: one in so many
IDLE_SCAN_SLOTS = 65_536  # looked at in one sweep


@dataclass(frozen=True)
class Departure:
    """A session on its way out. `checkpoint` is None when the store has it as it was."""

    key: Key
    epoch: int
    ref: int
    checkpoint: Checkpoint | None


class Departures:
    """Takes sessions out of memory. Called by the engine, between iterations."""

    def __init__(self, catalog: Catalog, sessions: Sessions) -> None:
        self.departing: dict[Key, Departure] = {}
        self.closed: dict[Key, None] = {}  # ended, and the store does not know it yet
        self.staying: Refs = np.empty(0, np.int64)  # sessions that make no room: their rows are about to be queued
        self.visiting: Container[Key] = frozenset()  # sessions that stay, whoever wants them, for a command
        self.spared_since = np.inf  # sessions used since then make no room: they have only just come, for their rows
        self.evicted: Counter[tuple[str, ...]] = Counter()  # by model and reason
        self._catalog, self._sessions = catalog, sessions
        self._leaving: dict[Key, int] = {}  # references of those whose queued rows are still to be stepped
        self._swept = (0, 1)  # slab and slot at which the next look for idle sessions begins
        sessions.make_room, sessions.on_closed = self.room, self._note_closed

    @property
    def waiting(self) -> bool:
        """Whether sessions are to leave whose rows are still queued."""
        return bool(self._leaving)

    def under_way(self, key: Key) -> bool:
        """Whether a session of that name has left, and is not all in the store yet."""
        return key in self._leaving or key in self.departing or key in self.closed

    def room(self, lane: Lane, wanted: int) -> int:
        """For how many more sessions of the version there is room, after others have left for so many."""
        room = self._sessions.room(lane)
        if room < wanted and lane.durability is not Durability.NONE:
            for slab in sorted(self._catalog.slabs, key=lambda slab: (slab is not lane.slab, -slab.slots.in_use)):
                self._evict(slab, wanted - room)
                room = self._sessions.room(lane)
                if room >= wanted:
                    break
        return room

    def leave(self, keys: Iterable[Key], reason: str) -> None:
        """Has sessions leave as soon as their queued rows are stepped; names that are not here are ignored."""
        for key in keys:
            ref = self._sessions.names(key.tenant, key.model).get(key.session_id)
            if ref is not None and key not in self.visiting:
                self._sessions.forget(key)
                self._leaving[key] = ref
                slab, slot = self._sessions.place(ref)
                slab.leaving[slot] = True
                self.evicted[key.model, reason] += 1
        self.settle()

    def settle(self) -> bool:
        """Takes out those whose last row is stepped; whether others still wait for that."""
        for slab, slots in self._sessions.by_slab(np.array(list(self._leaving.values()), np.int64)):
            quiet = slots[~self._busy(slab, slots)]
            for key in self._sessions.keys(slab, quiet):
                del self._leaving[key]
            self._take_out(slab, quiet)
        return bool(self._leaving)

    def sweep(self, now: float, idle_seconds_max: float) -> int:
        """Has sessions leave that were idle for too long; looks at a bounded number of slots."""
        if not self._catalog.slabs:
            return 0
        number, start = self._swept
        slab = self._catalog.slabs[number]
        taken = slab.slots.taken_from(start, IDLE_SCAN_SLOTS)
        full = len(taken) == IDLE_SCAN_SLOTS
        self._swept = (number, int(taken[-1]) + 1) if full else ((number + 1) % len(self._catalog.slabs), 1)
        kept = taken[slab.epoch[taken] > 0]
        idle = kept[now - slab.host["active_at"][kept] > idle_seconds_max][:DEPARTING_MAX]
        self._go(slab, idle[self._can_go(slab, idle)], "idle")
        return len(idle)

    def _evict(self, slab: Slab, count: int) -> None:
        """Has the idlest sessions of a slab leave, at least so many if there are."""
        taken = slab.slots.taken_from(1, slab.slots.grown)
        kept = taken[slab.epoch[taken] > 0]
        if len(self.departing) >= DEPARTING_MAX:
            kept = kept[~slab.unsaved[kept]]
        kept = kept[self._can_go(slab, kept) & (_used_at(slab, kept) < self.spared_since)]
        kept = kept[~np.isin(kept, slots_of(self.staying[slabs_of(self.staying) == slab.number]))]
        count = min(len(kept), max(count, EVICTED_MIN, slab.slots.in_use // EVICTED_SHARE))
        if count:
            used = _used_at(slab, kept)
            self._go(slab, kept[np.argpartition(used, count - 1)[:count]], "room")

    def _go(self, slab: Slab, slots: Slots, reason: str) -> None:
        going = [key not in self.visiting for key in self._sessions.keys(slab, slots)]
        slots = slots[going]
        for key in self._sessions.keys(slab, slots):
            self._sessions.forget(key)
            self.evicted[key.model, reason] += 1
        self._take_out(slab, slots)

    def _take_out(self, slab: Slab, slots: Slots) -> None:
        """Frees slots; what they held, where it is not saved, is departing."""
        if not len(slots):
            return
        keys = self._sessions.keys(slab, slots)
        unsaved = slab.unsaved[slots]
        moved = iter(self._sessions.checkpoints(slab, slots[unsaved]))
        refs = slab.slots.refs(slots).tolist()
        for key, epoch, ref, changed in zip(keys, slab.epoch[slots].tolist(), refs, unsaved.tolist(), strict=True):
            self.departing[key] = Departure(key, epoch, ref, next(moved) if changed else None)
        self._sessions.free(slab, slots)

    def not_saved(self, rows: Sequence[Checkpoint], epochs: Sequence[int]) -> None:
        """These did not reach the store; of their sessions some have left meanwhile as if they had."""
        for row, epoch in zip(rows, epochs, strict=True):
            departure, ref = self.departing.get(row.key), self._leaving.get(row.key)
            if departure is not None and departure.epoch == epoch and departure.checkpoint is None:
                self.departing[row.key] = replace(departure, checkpoint=row)
            if ref is not None:
                slab, slot = self._sessions.place(ref)
                slab.unsaved[slot] = True

    def lose(self, keys: Iterable[Key]) -> Refs:
        """Gives up those of the sessions that are leaving: another replica has them. Returns their references."""
        lost = []
        for key in keys:
            ref = self._leaving.pop(key, 0)
            if ref:
                lost.append(ref)
        refs = np.array(lost, np.int64)
        for slab, slots in self._sessions.by_slab(refs):
            self._sessions.free(slab, slots)
        return refs

    def _note_closed(self, key: Key) -> None:
        self.closed[key] = None

    def _can_go(self, slab: Slab, slots: Slots) -> NDArray[np.bool_]:
        """Which have no rows queued, and are not leaving already, [n]."""
        return ~(self._busy(slab, slots) | slab.leaving[slots])

    def _busy(self, slab: Slab, slots: Slots) -> NDArray[np.bool_]:
        """Which have rows queued, or a history in work, [n]."""
        busy = np.zeros(len(slots), bool)
        versions = slab.host["version"][slots]
        for number in np.unique(versions).tolist():
            rows = versions == number
            queue = self._catalog.lanes[number].queue
            busy[rows] = (slab.next_turn[slots[rows]] > queue.turn) | queue.held(slots[rows])
        return busy


def _used_at(slab: Slab, slots: Slots) -> NDArray[np.float64]:
    """When each was last stepped, came, or was looked at, [n]."""
    used: NDArray[np.float64] = np.maximum(slab.host["active_at"][slots], slab.asked_at[slots])
    return used
