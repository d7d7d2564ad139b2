"""Sessions as bytes for other servers, and sessions made of such bytes. Called by the engine alone."""

from __future__ import annotations

from tidegate.engine.catalog import Catalog
from tidegate.engine.commands import Export, SessionInfo
from tidegate.engine.lane import Lane
from tidegate.engine.record import Heading, pack, unpack
from tidegate.engine.sessions import Sessions, valid_id
from tidegate.errors import Reason, TidegateError


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
        if not sessions.make_room(lane, 1):
            raise TidegateError(Reason.SESSION_LIMIT)
        shapes = {column.name: column.shape for column in lane.slab.schema.columns if not column.local}
        known = {name: value for name, value in row.items() if name in shapes}
        if any(value.shape != shapes[name] for name, value in known.items()):
            raise TidegateError(Reason.PACKAGE_MISMATCH, f"{lane.model}/{lane.version} has another state shape")
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
