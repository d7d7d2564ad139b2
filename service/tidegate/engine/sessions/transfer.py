"""Sessions as bytes for other servers, and sessions made of such bytes. Called by the engine alone."""

from __future__ import annotations

import numpy as np

from tidegate.engine.commands import Export, SessionInfo
from tidegate.engine.memory.record import Heading, Row, pack, unpack
from tidegate.engine.queues.lane import Lane
from tidegate.engine.sessions.by_name import Sessions, valid_id
from tidegate.engine.sessions.catalog import Catalog
from tidegate.errors import Reason, TidegateError

COUNT_MAX = 2**62  # of steps, and of what is kept
_COUNTS = ("step", "steps_seen", "step@", "steps_seen@", "identity", "retained", "retained_from", "kept", "kept_step")


class Transfer:
    """Exports and imports."""

    def __init__(self, catalog: Catalog, sessions: Sessions) -> None:
        self._catalog, self._sessions = catalog, sessions

    def export(self, tenant: str, model: str, session_id: bytes, now: float) -> Export:
        """All that is remembered of a session, as bytes; raises SESSION_NOT_FOUND."""
        slab, slot = self._sessions.place(self._sessions.find(tenant, model, session_id))
        package = self._catalog.lanes[int(slab.host["version"][slot])].package
        manifest = package.manifest
        content = pack(manifest.name, manifest.version, package.fingerprint, session_id.decode(), slab.read(slot))
        return Export(content, self._sessions.describe(slab, slot, now))

    def take_in(self, tenant: str, content: bytes, new_id: bytes, version: str, now: float) -> SessionInfo:
        """Makes a session of an export; raises BAD_EXPORT, PACKAGE_MISMATCH, SESSION_EXISTS, SESSION_LIMIT, …"""
        sessions = self._sessions
        heading, row = unpack(content)
        session_id = new_id or heading.session_id.encode()
        lane = self._lane_for(heading, version)
        if not valid_id(session_id):
            raise TidegateError(Reason.BAD_SESSION_ID)
        sessions.check_free(tenant, lane, session_id)
        columns = {column.name: column for column in lane.slab.schema.travelling}
        known = {name: value for name, value in row.items() if name in columns}
        if any(value.shape != columns[name].shape for name, value in known.items()):
            raise TidegateError(Reason.PACKAGE_MISMATCH, f"{lane.model}/{lane.version} has another state shape")
        identity = lane.identify([heading.session_id.encode()])
        if identity is not None and heading.fingerprint != lane.package.fingerprint:
            known["identity"] = identity[0]
        if any(value.dtype != columns[name].dtype for name, value in known.items()) or not _possible(known, lane):
            raise TidegateError(Reason.BAD_EXPORT, "no session is like this")
        if not sessions.make_room(lane, 1):
            raise TidegateError(Reason.SESSION_LIMIT)
        slab, slot = sessions.place(int(sessions.open(tenant, lane, [session_id], now)[0]))
        slab.write(slot, known)
        return sessions.describe(slab, slot, now)

    def _lane_for(self, heading: Heading, version: str) -> Lane:
        """The version that goes on with an exported session."""
        if version:
            return self._catalog.resolve(heading.model, version)
        for lane in self._catalog.lanes.values():
            if lane.package.fingerprint == heading.fingerprint:
                return lane
        named = f"{heading.model}/{heading.version} ({heading.fingerprint[:12]})"
        raise TidegateError(Reason.PACKAGE_MISMATCH, f"the session was stepped by {named}, which is not loaded here")


def _possible(row: Row, lane: Lane) -> bool:
    """Whether the counts of a session can be these: whoever can compute a checksum can write anything."""
    manifest = lane.package.manifest
    most = {"identity": len(manifest.ids)}
    for name in _COUNTS:
        if name in row and not np.all((row[name] >= 0) & (row[name] <= most.get(name, COUNT_MAX))):
            return False
    retained = int(row.get("retained", 0)) - int(row.get("retained_from", 0))
    return 0 <= retained <= manifest.rewind_steps
