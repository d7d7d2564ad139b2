"""Opening, resetting, closing and migrating many sessions: as many calls as the server's limits ask for.

Rows that the server cannot do yet (SESSION_MOVED, STORE_UNAVAILABLE) are asked for again, alone, where that is safe.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tidegate.client.connection import Connection
from tidegate.client.failures import AGAIN, RowError, read_row_error
from tidegate.client.patience import Patience
from tidegate.client.values.messages import built, checked_ids
from tidegate.client.values.records import Done, Migrated, Opened
from tidegate.errors import TidegateError
from tidegate.wire.stubs import session_pb2

# What a server takes by default in one message, with room for what surrounds it.
ROWS_MAX = 16_384
BYTES_MAX = 4 * 1024 * 1024 - 65_536
MIGRATED_MAX = 1_024  # in one call: each may take many observations again, and a call has its time
WAYS = {
    session_pb2.MIGRATION_WAY_ALREADY_THERE: "already there",
    session_pb2.MIGRATION_WAY_STATE: "state",
    session_pb2.MIGRATION_WAY_REPLAY: "replay",
}
Key = tuple[tuple[str, str], ...]
Rows = Sequence[int]


def pages(ids: Sequence[str], rows_max: int = ROWS_MAX) -> Iterator[Rows]:
    """The rows cut to what one message holds."""
    rows = max(1, min(rows_max, BYTES_MAX // (4 + 4 * max(map(len, ids), default=0))))
    for start in range(0, len(ids), rows):
        yield range(start, min(start + rows, len(ids)))


async def open_many(
    connection: Connection,
    model: str,
    version: str,
    ids: Sequence[str],
    key: Key | None = None,
) -> Opened:
    """Finds or opens sessions; like the others, raises BAD_SESSION_ID for an id that no message holds, before all."""
    ids = checked_ids(ids)
    created, steps = np.zeros(len(ids), bool), np.zeros(len(ids), np.uint64)

    async def ask(part: Rows, patience: Patience) -> Any:
        names = [ids[row] for row in part]
        request = built(session_pb2.BatchOpenSessionsRequest, model=model, version=version, session_ids=names)
        attempts = patience.attempts
        method = connection.sessions.BatchOpenSessions
        response = await connection.call(method, request, key, patience=patience, about_sessions=True)
        again = patience.attempts > attempts  # one whose answer was lost opened them, if they have no step
        steps[part] = response.steps
        created[part] = np.frombuffer(response.created, np.uint8).astype(bool) | (again & (steps[part] == 0))
        return response

    errors = await in_parts(connection, ids, ask)
    created[[error.row for error in errors]] = False
    return Opened(created, steps, errors)


async def reset_many(connection: Connection, model: str, ids: Sequence[str]) -> Done:
    """Sets the states of sessions to zero."""
    ids = checked_ids(ids)

    async def ask(part: Rows, patience: Patience) -> Any:
        names = [ids[row] for row in part]
        request = built(session_pb2.BatchResetSessionsRequest, model=model, session_ids=names)
        method = connection.sessions.BatchResetSessions
        response = await connection.call(method, request, patience=patience, about_sessions=True)
        connection.forget(model, _without(names, response))
        return response

    errors = await in_parts(connection, ids, ask)
    return Done(len(ids) - len(errors), errors)


async def close_many(connection: Connection, model: str, ids: Sequence[str]) -> Done:
    """Ends sessions."""
    ids = checked_ids(ids)
    done, errors = 0, list[RowError]()
    for rows in pages(ids):
        names = [ids[row] for row in rows]
        request = built(session_pb2.BatchCloseSessionsRequest, model=model, session_ids=names)
        method = connection.sessions.BatchCloseSessions
        response = await connection.call(method, request, repeatable=False, about_sessions=True)
        connection.forget(model, _without(names, response))
        done += response.done
        errors += read_errors(response, rows, ids)
    return Done(done, errors)


async def migrate_many(connection: Connection, model: str, ids: Sequence[str], version: str) -> Migrated:
    """Moves sessions to another version."""
    ids = checked_ids(ids)
    ways, replayed = ["failed"] * len(ids), np.zeros(len(ids), np.int64)

    async def ask(part: Rows, patience: Patience) -> Any:
        names = [ids[row] for row in part]
        request = built(session_pb2.BatchMigrateSessionsRequest, model=model, version=version, session_ids=names)
        method = connection.sessions.BatchMigrateSessions
        response = await connection.call(method, request, patience=patience, about_sessions=True)
        for row, way, count in zip(part, response.ways, response.replayed_steps, strict=True):
            ways[row], replayed[row] = WAYS.get(way, "failed"), count
        return response

    errors = await in_parts(connection, ids, ask, MIGRATED_MAX)
    return Migrated(tuple(ways), replayed, errors)


async def in_parts(
    connection: Connection,
    ids: Sequence[str],
    ask: Callable[[Rows, Patience], Awaitable[Any]],
    rows_max: int = ROWS_MAX,
) -> list[RowError]:
    """Has `ask` make one call for some rows after another, and again for those that were not possible yet; returns the
    other failures. Each part has the time of a call."""
    errors: list[RowError] = []
    for part in pages(ids, rows_max):
        async with connection.patience() as patience:
            rows: Rows = part
            while rows:
                failed = read_errors(await ask(rows, patience), rows, ids)
                errors += [error for error in failed if error.reason not in AGAIN]
                rows = [error.row for error in failed if error.reason in AGAIN]
                if rows:
                    await patience.pause(TidegateError(next(error.reason for error in failed if error.reason in AGAIN)))
    return sorted(errors, key=lambda error: error.row)


def read_errors(response: Any, rows: Rows, ids: Sequence[str]) -> list[RowError]:
    """The failures of one part, at their places in the whole."""
    return [read_row_error(error, ids[rows[error.row]], rows[error.row]) for error in response.errors]


def _without(names: list[str], response: Any) -> list[str]:
    """Those that did not fail."""
    failed = {error.row for error in response.errors}
    return [name for row, name in enumerate(names) if row not in failed]
