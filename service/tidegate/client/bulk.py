"""Opening, resetting and closing many sessions: as many calls as the server's limits ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tidegate.client.connection import Connection
from tidegate.client.failures import RowError, read_row_error
from tidegate.client.records import Done, Opened
from tidegate.wire.stubs import session_pb2

# What a server takes by default in one message, with room for what surrounds it.
ROWS_MAX = 16_384
BYTES_MAX = 4 * 1024 * 1024 - 65_536
Key = tuple[tuple[str, str], ...]


def pages(ids: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The ids cut to what one message holds, each part with the place of its first."""
    rows = max(1, min(ROWS_MAX, BYTES_MAX // (4 + 4 * max(map(len, ids), default=0))))
    for start in range(0, len(ids), rows):
        yield start, list(ids[start : start + rows])


async def open_many(
    connection: Connection, model: str, version: str, ids: Sequence[str], key: Key | None = None
) -> Opened:
    """Finds or opens sessions."""
    created, steps = np.zeros(len(ids), bool), np.zeros(len(ids), np.uint64)
    errors: list[RowError] = []
    for start, part in pages(ids):
        request = session_pb2.BatchOpenSessionsRequest(model=model, version=version, session_ids=part)
        response = await connection.call(connection.sessions.BatchOpenSessions, request, key)
        rows = slice(start, start + len(part))
        created[rows] = np.frombuffer(response.created, np.uint8).astype(bool)
        steps[rows] = response.steps
        errors += read_errors(response, start, part)
    return Opened(created, steps, errors)


async def reset_many(connection: Connection, model: str, ids: Sequence[str]) -> Done:
    """Sets the states of sessions to zero."""
    done, errors = 0, list[RowError]()
    for start, part in pages(ids):
        request = session_pb2.BatchResetSessionsRequest(model=model, session_ids=part)
        response = await connection.call(connection.sessions.BatchResetSessions, request)
        done += response.done
        errors += read_errors(response, start, part)
    return Done(done, errors)


async def close_many(connection: Connection, model: str, ids: Sequence[str]) -> Done:
    """Ends sessions."""
    done, errors = 0, list[RowError]()
    for start, part in pages(ids):
        request = session_pb2.BatchCloseSessionsRequest(model=model, session_ids=part)
        response = await connection.call(connection.sessions.BatchCloseSessions, request)
        done += response.done
        errors += read_errors(response, start, part)
    return Done(done, errors)


def read_errors(response: Any, start: int, part: list[str]) -> list[RowError]:
    """The failures of one part, at their places in the whole."""
    return [read_row_error(error, part[error.row], start + error.row) for error in response.errors]
