"""Sessions in pages, in slot order and constant memory. Called by the engine alone."""

from __future__ import annotations

from tidegate.engine.commands import Page, SessionFilter, SessionInfo
from tidegate.engine.memory.slab import Slab
from tidegate.engine.sessions.by_name import Sessions
from tidegate.engine.sessions.catalog import Catalog

SCAN_ROWS = 8_192  # slots looked at for one page


def page(
    catalog: Catalog,
    sessions: Sessions,
    tenant: str,
    wanted: SessionFilter,
    cursor: tuple[int, int],
    size: int,
    now: float,
) -> Page:
    """At most `size` resident sessions from `cursor` on. A bounded number of slots is looked at: a short page need not
    be the last."""
    found: list[SessionInfo] = []
    scanned = 0
    number, slot = cursor
    while number < len(catalog.slabs):
        slab = catalog.slabs[number]
        slots = slab.slots.taken_from(slot, min(max(size, 1024), SCAN_ROWS - scanned))
        for slot in slots.tolist():
            if sessions.tenant(int(slab.host["tenant"][slot])) == tenant and _matches(catalog, slab, slot, wanted):
                found.append(sessions.describe(slab, slot, now))
            if len(found) == size:
                return Page(found, (number, slot + 1))
        scanned += len(slots)
        if scanned >= SCAN_ROWS:
            return Page(found, (number, slot + 1))
        if len(slots):
            slot += 1
        else:
            number, slot = number + 1, 1
    return Page(found, None)


def _matches(catalog: Catalog, slab: Slab, slot: int, wanted: SessionFilter) -> bool:
    lane = catalog.lanes[int(slab.host["version"][slot])]
    session_id = slab.ids[slot] or b""
    return (
        wanted.model in ("", lane.model)
        and wanted.version in ("", lane.version)
        and wanted.session_id in (b"", session_id)
        and session_id.startswith(wanted.id_prefix)
        and (wanted.diverged is None or wanted.diverged == bool(slab.host["diverged"][slot]))
    )
