"""Between resident sessions and checkpoints: which moved, as bytes, and back. Called by the engine alone.

Gather and copy are all that is done here; whoever takes the checkpoints writes them, beside the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from tidegate.checkpoints import Checkpoint, Key
from tidegate.engine.catalog import Catalog
from tidegate.engine.lane import Lane
from tidegate.engine.sessions import Sessions
from tidegate.engine.slots import slots_of

SCAN_SLOTS = 1 << 20  # looked at in one call


class Saving:
    """Takes checkpoints of sessions that moved, and makes sessions of checkpoints."""

    def __init__(self, catalog: Catalog, sessions: Sessions) -> None:
        self._catalog, self._sessions = catalog, sessions
        self._next = (0, 1)  # slab and slot at which the next call begins to look

    def unsaved(self) -> int:
        """How many sessions moved since their last checkpoint."""
        return sum(int(slab.unsaved[: slab.slots.grown].sum()) for slab in self._catalog.slabs)

    def take(self, rows_max: int) -> list[Checkpoint]:
        """Checkpoints of sessions that moved, at most so many; they count as saved from now on."""
        for _ in range(len(self._catalog.slabs) + 1):
            number, start = self._next
            if number >= len(self._catalog.slabs):
                number, start = 0, 1
            if not self._catalog.slabs:
                return []
            slab = self._catalog.slabs[number]
            end = min(slab.slots.grown, start + SCAN_SLOTS)
            slots = (np.flatnonzero(slab.unsaved[start:end]) + start)[:rows_max]
            if len(slots):
                self._next = number, int(slots[-1]) + 1
                slab.unsaved[slots] = False
                content = slab.pack(slots)
                return [
                    self._checkpoint(slab.ids[slot], number, slot, content[row].tobytes())
                    for row, slot in enumerate(slots.tolist())
                ]
            self._next = (number, end) if end < slab.slots.grown else (number + 1, 1)
        return []

    def again(self, keys: Sequence[Key]) -> None:
        """Those sessions were not saved after all."""
        for key in keys:
            ref = self._sessions.names(key.tenant, key.model).get(key.session_id)
            if ref is not None:
                slab, slot = self._sessions.place(ref)
                slab.unsaved[slot] = True

    def restore(self, rows: Sequence[Checkpoint], now: float) -> list[tuple[Key, str]]:
        """Makes sessions of checkpoints; returns those that could not be made, and why. One that lives is left."""
        failed: list[tuple[Key, str]] = []
        lanes = {(lane.model, lane.package.fingerprint): lane for lane in self._catalog.lanes.values()}
        ordered = sorted(rows, key=lambda row: (row.key.tenant, row.key.model, row.fingerprint, row.layout))
        for (tenant, model, fingerprint, layout), group in groupby(
            ordered, key=lambda row: (row.key.tenant, row.key.model, row.fingerprint, row.layout)
        ):
            names = self._sessions.names(tenant, model)
            part = [row for row in group if row.key.session_id not in names]
            lane = lanes.get((model, fingerprint))
            if lane is None:
                failed += [(row.key, f"its package {model}/{row.version} is not loaded") for row in part]
                continue
            room = self._sessions.room(lane)
            failed += [(row.key, "the server holds as many sessions as it may") for row in part[room:]]
            failed += self._restore(lane, tenant, layout, part[:room], now)
        return failed

    def _restore(
        self, lane: Lane, tenant: str, layout: bytes, rows: Sequence[Checkpoint], now: float
    ) -> list[tuple[Key, str]]:
        if not rows:
            return []
        ids = [row.key.session_id for row in rows]
        slots = slots_of(self._sessions.open(tenant, lane, ids, now))
        try:
            content = np.stack([np.frombuffer(row.content, np.uint8) for row in rows])
            lane.slab.unpack(slots, layout, content)
        except (ValueError, TypeError) as error:
            self._sessions.close_many(tenant, lane.model, ids, "unreadable")
            return [(row.key, str(error)) for row in rows]
        lane.slab.unsaved[slots] = False
        return []

    def _checkpoint(self, session_id: bytes | None, slab_number: int, slot: int, content: bytes) -> Checkpoint:
        slab = self._catalog.slabs[slab_number]
        package = self._catalog.lanes[int(slab.host["version"][slot])].package
        key = Key(self._sessions.tenant(int(slab.host["tenant"][slot])), package.manifest.name, session_id or b"")
        step = int(slab.host["step"][slot])
        return Checkpoint(key, package.manifest.version, package.fingerprint, step, slab.schema.layout, content)
