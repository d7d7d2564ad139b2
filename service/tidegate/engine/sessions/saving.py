"""Between resident sessions and checkpoints: which moved, as bytes, and back. Called by the engine alone.

Gather and copy are all that is done here; whoever takes the checkpoints writes them, beside the loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidegate.checkpoints import Checkpoint, Key, unix_seconds
from tidegate.engine.memory.slab import Slab
from tidegate.engine.memory.slots import Slots, slabs_of, slots_of
from tidegate.engine.queues.lane import Lane
from tidegate.engine.sessions.by_name import Sessions
from tidegate.engine.sessions.catalog import Catalog
from tidegate.engine.sessions.departures import Departures
from tidegate.errors import Reason

SCAN_SLOTS = 1 << 20  # looked at in one call


class Taken(NamedTuple):
    """Checkpoints on their way to the store, and the epochs of their claims."""

    rows: list[Checkpoint]
    epochs: list[int]


class Saving:
    """Takes checkpoints of sessions that moved, and makes sessions of checkpoints."""

    def __init__(self, catalog: Catalog, sessions: Sessions, departures: Departures) -> None:
        self._catalog, self._sessions, self._departures = catalog, sessions, departures
        self._next = (0, 1)  # slab and slot at which the next call begins to look

    def unsaved(self) -> int:
        """How many sessions moved since their last checkpoint."""
        return sum(len(self._moved(slab, 1, slab.slots.grown)) for slab in self._catalog.slabs)

    def begin(self) -> None:
        """The next `take` looks at all rows again."""
        self._next = (0, 1)

    def take(self, rows_max: int) -> Taken:
        """Checkpoints of sessions that moved, at most so many; they count as saved from now on.

        From `begin` on every row is looked at once: none is left of what had moved by then when none is returned.
        """
        number, start = self._next
        while number < len(self._catalog.slabs):
            slab = self._catalog.slabs[number]
            end = min(slab.slots.grown, start + SCAN_SLOTS)
            slots = self._moved(slab, start, end)[:rows_max]
            if len(slots):
                self._next = number, int(slots[-1]) + 1
                return self._taken(slab, slots)
            number, start = (number, end) if end < slab.slots.grown else (number + 1, 1)
        self._next = number, start
        return Taken([], [])

    def take_these(self, keys: Iterable[Key]) -> Taken:
        """Checkpoints of those sessions that moved."""
        return self._take_moved(self._places(keys))

    def take_refs(self, refs: NDArray[np.int64]) -> Taken:
        """The same by references, of which some may be of sessions that left."""
        slabs = slabs_of(refs)
        alive = [
            refs[slabs == slab.number][slab.slots.alive(refs[slabs == slab.number])] for slab in self._catalog.slabs
        ]
        return self._take_moved(self._sessions.by_slab(np.concatenate([np.empty(0, np.int64), *alive])))

    def _take_moved(self, places: Iterable[tuple[Slab, Slots]]) -> Taken:
        taken = Taken([], [])
        for slab, slots in places:
            part = self._taken(slab, slots[slab.unsaved[slots] & (slab.epoch[slots] > 0)])
            taken.rows.extend(part.rows)
            taken.epochs.extend(part.epochs)
        return taken

    def again(self, taken: Taken) -> None:
        """Those were not saved after all. Also while a flight is in the air."""
        for slab, slots in self._places(row.key for row in taken.rows):
            slab.unsaved[slots] = True
        self._departures.not_saved(taken.rows, taken.epochs)

    def all_again(self) -> None:
        """The store lost what it had."""
        for slab in self._catalog.slabs:
            taken = slab.slots.taken_from(1, slab.slots.grown)
            slab.unsaved[taken] = True

    def claims(self) -> list[tuple[list[Key], list[int]]]:
        """Keys and epochs of all sessions that are here by a claim, a slab each."""
        found = []
        for slab in self._catalog.slabs:
            taken = slab.slots.taken_from(1, slab.slots.grown)
            held = taken[slab.epoch[taken] > 0]
            found.append((list(self._sessions.keys(slab, held)), slab.epoch[held].tolist()))
        return found

    def discard(self, keys: Iterable[Key]) -> NDArray[np.int64]:
        """Forgets sessions that another replica has now, with what they did since; returns their references."""
        keys = list(keys)
        places = self._places(keys)
        resident = [slab.slots.refs(slots) for slab, slots in places]
        refs: NDArray[np.int64] = np.concatenate([self._departures.lose(keys), *resident])
        for lane in self._catalog.lanes.values():
            lane.queue.refuse(refs, Reason.SESSION_MOVED)
        for slab, slots in places:
            for key in self._sessions.keys(slab, slots):
                self._sessions.forget(key)
                self._departures.evicted[key.model, "lost"] += 1
            self._sessions.free(slab, slots)
        return refs

    def restore(self, rows: Sequence[Checkpoint], epochs: Mapping[Key, int], now: float) -> dict[Key, Reason]:
        """Makes sessions of checkpoints, by their claims; returns those that could not be made, and why."""
        failed: dict[Key, Reason] = {}
        lanes = {(lane.model, lane.package.fingerprint): lane for lane in self._catalog.lanes.values()}

        def group_of(row: Checkpoint) -> tuple[str, str, str, bytes]:
            return row.key.tenant, row.key.model, row.fingerprint, row.layout

        for (tenant, model, fingerprint, layout), group in groupby(sorted(rows, key=group_of), key=group_of):
            part = list(group)
            lane = lanes.get((model, fingerprint))
            if lane is None:
                failed |= dict.fromkeys((row.key for row in part), Reason.PACKAGE_MISMATCH)
                continue
            room = self._departures.room(lane, len(part))
            failed |= dict.fromkeys((row.key for row in part[room:]), Reason.SESSION_LIMIT)
            failed |= self._restore(lane, tenant, layout, part[:room], epochs, now)
        return failed

    def _restore(
        self,
        lane: Lane,
        tenant: str,
        layout: bytes,
        rows: Sequence[Checkpoint],
        epochs: Mapping[Key, int],
        now: float,
    ) -> dict[Key, Reason]:
        if not rows:
            return {}
        keys = [row.key for row in rows]
        slots = slots_of(self._sessions.open(tenant, lane, [key.session_id for key in keys], now))
        self._sessions.opened[lane.model] -= len(keys)  # they were opened before
        lane.slab.epoch[slots] = [epochs[key] for key in keys]
        try:
            content = np.stack([np.frombuffer(row.content, np.uint8) for row in rows])
            lane.slab.unpack(slots, layout, content)
        except (ValueError, TypeError):
            for key in keys:
                self._sessions.forget(key)
            self._sessions.free(lane.slab, slots)
            return dict.fromkeys(keys, Reason.SESSION_DAMAGED)
        known = np.array([row.active_at or np.inf for row in rows]) - unix_seconds(0.0)
        lane.slab.host["active_at"][slots] = np.minimum(known, now)
        lane.slab.unsaved[slots] = False
        return {}

    def _moved(self, slab: Slab, start: int, end: int) -> Slots:
        slots: Slots = np.flatnonzero(slab.unsaved[start:end] & (slab.epoch[start:end] > 0)) + start
        return slots

    def _taken(self, slab: Slab, slots: Slots) -> Taken:
        slab.unsaved[slots] = False
        return Taken(list(self._sessions.checkpoints(slab, slots)), slab.epoch[slots].tolist())

    def _places(self, keys: Iterable[Key]) -> list[tuple[Slab, Slots]]:
        """Where those of the sessions are that are resident, by slab."""
        refs = (self._sessions.names(key.tenant, key.model).get(key.session_id, 0) for key in keys)
        return list(self._sessions.by_slab(np.array([ref for ref in refs if ref], np.int64)))
